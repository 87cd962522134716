"""Whether anything personal would be seen: searched for in what is shown, and never printed itself."""

from __future__ import annotations

import contextlib
import getpass
import re
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from engram.patterns.loading import find_files
from engram.show.prep.finding import PASS, WARN, Finding, Situation, failed
from engram.show.video import cast
from engram.show.video.cast import Cast, caption, record, replay
from engram.support.errors import EngramError
from engram.support.files import read_bytes
from engram.support.text import normalise

NAME = "nothing personal"
FPS = 4  # anything shown for less than a quarter of a second is too short to read
_FRAME = re.compile("[\u2500-\u259f]+")  # lines and blocks
SHORTEST_NAME = 4  # characters; a shorter name is part of too many words
SHORTEST_SECRET = 8
SECRET_NAME = re.compile(r"(?:^|_)(?:TOKEN|KEY|APIKEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:$|_)", re.I)
# accounts and hosts that name no person
GENERIC = frozenset((
    *("root", "user", "users", "username", "admin", "administrator", "guest", "nobody", "home", "engram"),
    *("ubuntu", "debian", "fedora", "runner", "vagrant", "docker", "node", "ec2-user", "localhost", "localdomain"),
))  # fmt: skip
EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}(?![\w-])")
# the user of SSH addresses (git@github.com), and names reserved for examples and tests (RFC 2606, RFC 6761)
NO_PERSON = re.compile(r"^git@|[@.](?:example\.(?:com|net|org)|example|test|invalid|localhost)$", re.I)
ADDRESSES = ("git's e-mail address", "the home folder")  # of the owner, and more telling than any other
HOME = re.compile(r"(?:/home/|/Users/|\b[A-Za-z]:\\Users\\)[\w.-]+")
SHAPES = {
    "a Hugging Face token": r"hf_[A-Za-z0-9]{16,}",
    "an API key": r"sk-[A-Za-z0-9_-]{16,}",
    "a GitHub token": r"(?:gh[pousr]_|github_pat_)[A-Za-z0-9_]{16,}",
    "a GitLab token": r"glpat-[A-Za-z0-9_-]{16,}",
    "an AWS access key": r"(?:AKIA|ASIA)[A-Z0-9]{16}",
    "a Google API key": r"AIza[A-Za-z0-9_-]{30,}",
    "a Slack token": r"xox[abeoprs]-[A-Za-z0-9-]{10,}",
    "a signed web token": r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}


def environment(variables: Mapping[str, str]) -> Finding:
    """Whether variables hold secrets, which a command typed in the video could print; their names alone are said."""
    name, found = "clean environment", sorted(secrets(variables))
    if not found:
        return Finding(name, PASS, "no variable that is called a token, key, secret or password")
    return Finding(name, WARN, f"set: {', '.join(found)}", f"unset {' '.join(found)}")


def check(at: Situation, demo: Cast | None, search: Search) -> Finding:
    """Search the demo's real output, the recordings and the pattern files; say where something is, masked."""
    found = tuple(dict.fromkeys([*_in_recording("demo", demo, search), *_in_files(at, search)]))
    if found:
        places = "place" if len(found) == 1 else "places"
        fix = "take them out, then: make demo record; what may be seen: engram video-prep --public TEXT"
        return failed(NAME, f"found in {len(found)} {places}", fix, found)
    if demo is None:
        return Finding(NAME, WARN, "nothing in the files; the demo was not searched: it cannot be shown")
    return Finding(NAME, PASS, "nothing in the demo, the recordings and the pattern files")


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
    for what, text in (("title", recording.title), *(("section title", title) for title in titles(recording))):
        yield from (f"{name}, {what}: {_masked(kind, text[start:end])}" for kind, start, end in search.hits(text))
    said: set[tuple[str, str]] = set()
    for section, number, text in lines(recording):
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


def perform(at: Situation, width: int, height: int) -> Cast:
    """The demo of these results as `make record` records it; raises EngramError if it cannot be shown."""
    return record(replay(at.backend, at.data, at.results, at.patterns), width, height, caption(at.backend, at.results))


def titles(cast: Cast) -> list[str]:
    """The titles of the sections, each once."""
    return list(dict.fromkeys(marker.title for marker in cast.markers))


def lines(cast: Cast) -> Iterator[tuple[str, int, str]]:
    """Every line that a recording shows, once in a section: the section, the line's number from the top, its text.

    After the lines of a screen the whole screen follows as line 0, for what is folded.
    """
    from engram.show.video import screen

    seen: set[tuple[str, str]] = set()
    frame = 0
    for shown, count in screen.play(cast, FPS):
        section = next((marker.title for marker in reversed(cast.markers) if marker.time <= frame / FPS), "start")
        frame += count
        rows = [_FRAME.sub(" ", row).strip() for row in shown.text]
        for number, text in [*enumerate(rows, 1), (0, normalise(" ".join(rows)))]:
            if text and (section, text) not in seen:
                seen.add((section, text))
                yield section, number, text


@dataclass(frozen=True)
class Search:
    """What to search for, by its kind, which may be printed, most telling first; and what may be seen, casefolded."""

    needles: tuple[tuple[str, re.Pattern[str]], ...]
    public: frozenset[str]

    def hits(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Kind, start and end of each thing found; where two needles meet, the first one's."""
        taken: set[int] = set()
        for kind, pattern in self.needles:
            for match in pattern.finditer(text):
                span, word = range(*match.span()), match.group()
                if word.casefold() not in self.public and not _harmless(word) and taken.isdisjoint(span):
                    taken.update(span)
                    yield kind, match.start(), match.end()

    def conceal(self, text: str) -> str:
        """The text with everything found in it replaced by its kind."""
        for kind, start, end in sorted(self.hits(text), key=lambda hit: hit[1], reverse=True):
            text = f"{text[:start]}[{kind}]{text[end:]}"
        return text


def owner(folder: Path) -> dict[str, str]:
    """The names by which system, home folder and git's settings in this folder would tell whose machine this is."""
    found = {"git's e-mail address": _git(folder, "user.email"), "the home folder": str(Path("~").expanduser())}
    found |= {"the git user name": _git(folder, "user.name"), "the host name": socket.gethostname()}
    found["the host's short name"] = found["the host name"].split(".")[0]
    with contextlib.suppress(KeyError, OSError):  # no name for this user id
        found["the user name"] = getpass.getuser()
    return found


def secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables whose names say that they hold a secret, where they hold something."""
    return {name: value for name, value in environment.items() if SECRET_NAME.search(name) and value}


def search(owner: Mapping[str, str], environment: Mapping[str, str], public: Iterable[str] = ()) -> Search:
    """The search for secrets and the owner's names; `public` lists names and addresses that may be seen.

    Names that stand for nobody, or are shorter than SHORTEST_NAME, are not searched for.
    """
    values = secrets(environment).items()
    known = {f"the value of {name}": re.escape(value) for name, value in values if len(value) >= SHORTEST_SECRET}
    known |= {kind: rf"(?<![A-Za-z0-9]){shape}" for kind, shape in SHAPES.items()}
    found = [(kind, re.compile(shape)) for kind, shape in known.items()]
    telling = [one for one in owner.items() if len(one[1]) >= SHORTEST_NAME and not _generic(one[1])]
    found += [(kind, _whole(name)) for kind, name in telling if kind in ADDRESSES]
    found += [("an e-mail address", EMAIL), ("a home folder", HOME)]
    found += [(kind, _whole(name)) for kind, name in telling if kind not in ADDRESSES]
    return Search(tuple(found), frozenset(word.casefold() for word in public))


def _git(folder: Path, key: str) -> str:
    """A setting of git in this folder; empty without it, or without git."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(["git", "-C", folder, "config", key], capture_output=True, timeout=5, check=False)
        return done.stdout.decode("utf-8", "replace").strip()
    return ""


def _whole(name: str) -> re.Pattern[str]:
    """The name as whole words, whatever its capitals and the blanks in it."""
    words = r"\s+".join(re.escape(word) for word in name.split())
    return re.compile(rf"(?<!\w){words}(?!\w)", re.I)


def _generic(name: str) -> bool:
    """Whether an account, a host or the last part of a folder names no person."""
    return re.split(r"[/\\]", name)[-1].casefold() in GENERIC


def _harmless(text: str) -> bool:
    """Whether an address or path names no person."""
    return bool(NO_PERSON.search(text)) or ("@" not in text and _generic(text))
