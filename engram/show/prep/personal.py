"""Whether anything personal would be seen: searched for in what is shown, and never printed itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from engram.patterns.loading import find_files
from engram.show.prep import shown
from engram.show.prep.finding import PASS, WARN, Finding, Situation, failed
from engram.show.prep.search_terms import Search, secrets
from engram.show.video import cast
from engram.show.video.cast import Cast
from engram.support.errors import EngramError
from engram.support.files import read_bytes

NAME = "nothing personal"


def environment(variables: Mapping[str, str]) -> Finding:
    """Whether variables hold secrets, which a command typed in the video could print; their names alone are said."""
    name, found = "clean environment", sorted(secrets(variables))
    if not found:
        return Finding(name, PASS, "no variable that is called a token, key, secret or password")
    return Finding(name, WARN, f"set: {', '.join(found)}", f"unset {' '.join(found)}")


def check(at: Situation, demo: Cast | None, search: Search) -> Finding:
    """Search the demo's real output, the recordings and the pattern files; say where something is, masked."""
    found = tuple(dict.fromkeys([*_in_recording("demo", demo, search), *_in_files(at, search)]))
    note = f"; not searched for: {', '.join(search.left_out)}" if search.left_out else ""
    if found:
        places = "place" if len(found) == 1 else "places"
        fix = "take them out, then: make demo record; what may be seen: engram video-prep --public TEXT"
        return failed(NAME, f"found in {len(found)} {places}{note}", fix, found)
    if demo is None:
        return Finding(NAME, WARN, f"nothing in the files; the demo was not searched: it cannot be shown{note}")
    return Finding(NAME, PASS, f"nothing in the demo, the recordings and the pattern files{note}")


def _in_files(at: Situation, search: Search) -> Iterator[str]:
    for path in sorted(at.place.glob("*.cast")):
        try:
            yield from _in_recording(path.name, cast.read(path), search)
        except EngramError:  # the line of the recordings says so
            continue
    try:
        files = find_files(at.patterns)
    except EngramError:  # the line of the data says so
        return
    for path in files:
        for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").splitlines(), 1):
            for kind, start, end in search.hits(line):
                yield f"{_named(path)}, line {number}: {_masked(kind, line[start:end])}"


def _in_recording(name: str, recording: Cast | None, search: Search) -> Iterator[str]:
    """A line for each kind of thing that a section shows, with the first place where it is seen."""
    if recording is None:
        return
    for what, text in (("title", recording.title), *(("section title", title) for title in shown.titles(recording))):
        yield from (f"{name}, {what}: {_masked(kind, text[start:end])}" for kind, start, end in search.hits(text))
    said: set[tuple[str, str]] = set()
    for section, number, text in shown.lines(recording):
        for kind, start, end in search.hits(text):
            masked = _masked(kind, text[start:end])
            if (section, masked) not in said:
                said.add((section, masked))
                place = f"line {number}" if number else "over a line's end"
                yield f"{name}, section {section!r}, {place}: {masked}"


def _masked(kind: str, found: str) -> str:
    """The kind, and of an address that is not known to be the owner's its first letter, to find it by."""
    return f"{kind} ({found[0]}…@…)" if kind == "an e-mail address" else kind


def _named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if path.is_absolute() else str(path)
