"""Whether anything personal would be seen: searched for in what is shown, and never printed itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engram.errors import EngramError
from engram.files import read_bytes
from engram.patterns import find_files
from engram.prep import shown
from engram.prep.finding import PASS, WARN, Finding, Situation, failed
from engram.prep.needles import Search, secrets
from engram.text import normalise
from engram.video import cast
from engram.video.cast import Cast

NAME = "nothing personal"


class Text(NamedTuple):
    """Lines that will be seen, and the words that name their place."""

    place: str
    lines: Sequence[str]


def environment(variables: Mapping[str, str]) -> Finding:
    """Whether variables hold secrets, which a command typed in the video could print; their names alone are said."""
    name, found = "clean environment", sorted(secrets(variables))
    if not found:
        return Finding(name, PASS, "no variable that is called a token, key, secret or password")
    return Finding(name, WARN, f"set: {', '.join(found)}", f"unset {' '.join(found)}")


def check(at: Situation, demo: Cast | None, search: Search) -> Finding:
    """Search the demo's real output, the recordings and the pattern files; say where something is, masked."""
    texts = [*_of_recording("demo", demo), *_of_files(at)]
    found = tuple(dict.fromkeys(line for text in texts for line in _search(text, search)))
    note = f"; not searched for: {', '.join(search.left_out)}" if search.left_out else ""
    if found:
        places = "place" if len(found) == 1 else "places"
        fix = "take them out, then: make demo record; what may be seen: engram video-prep --public TEXT"
        return failed(NAME, f"found in {len(found)} {places}{note}", fix, found)
    if demo is None:
        return Finding(NAME, WARN, f"nothing in the files; the demo was not searched: it cannot be shown{note}")
    return Finding(NAME, PASS, f"nothing in the demo, the recordings and the pattern files{note}")


def _of_files(at: Situation) -> Iterator[Text]:
    for path in sorted(at.place.glob("*.cast")):
        try:
            yield from _of_recording(path.name, cast.read(path))
        except EngramError:  # the line of the recordings says so
            continue
    try:
        files = find_files(at.patterns)
    except EngramError:  # the line of the data says so
        return
    for path in files:
        yield Text(_named(path), read_bytes(path).decode("utf-8", "replace").splitlines())


def _of_recording(name: str, recording: Cast | None) -> Iterator[Text]:
    if recording is not None:
        yield Text(f"{name}, title", [recording.title])
        for title, lines in shown.sections(recording):
            yield Text(f"{name}, section title", [title])
            yield Text(f"{name}, section {title!r}", lines)


def _search(text: Text, search: Search) -> Iterator[str]:
    """A line for each place: line by line, then across line ends for what was folded there."""
    said = set()
    for number, line in enumerate(text.lines, 1):
        for kind, start, end in search.hits(line):
            said.add(kind)
            yield f"{text.place}, line {number}: {_masked(kind, line[start:end])}"
    for kind, start, end in search.hits(folded := normalise(" ".join(text.lines))):
        if kind not in said:
            yield f"{text.place}, over a line's end: {_masked(kind, folded[start:end])}"


def _masked(kind: str, found: str) -> str:
    """The kind, and of an address that is not the owner's its first letter and last part, to find it by."""
    if kind != "an e-mail address":
        return kind
    return f"{kind} ({found[0]}…@….{found.rpartition('.')[2]})"


def _named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if path.is_absolute() else str(path)
