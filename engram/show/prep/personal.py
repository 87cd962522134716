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
from engram.show.prep.stages import PASS, WARN, Finding, Situation, failed
from engram.show.video import cast
from engram.show.video.cast import Cast
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
    name = "clean environment"
    if found := sorted(secrets(variables)):
        return Finding(name, WARN, f"set: {', '.join(found)}", f"unset {' '.join(found)}")
    return Finding(name, PASS, "no variable that is called a token, key, secret or password")


def check(at: Situation, demo: Cast | None, search: Search) -> Finding:
    """Search the demo's real output, the recordings and the pattern files; say where something is, masked."""
    shown = _in_recording("demo", demo, search) if demo else ()
    found = tuple(dict.fromkeys([*shown, *_in_files(at, search)]))
    if found:
        places = "place" if len(found) == 1 else "places"
        fix = "take them out, then: make demo record; what may be seen: engram video-prep --public TEXT"
        return failed(NAME, f"found in {len(found)} {places}", fix, found)
    if demo is None:
        return Finding(NAME, WARN, "nothing in the files; the demo was not searched: it cannot be shown")
    return Finding(NAME, PASS, "nothing in the demo, the recordings and the pattern files")


def _in_files(at: Situation, search: Search) -> Iterator[str]:
    for path in sorted(at.place.glob("*.cast")):
        with contextlib.suppress(EngramError):  # the line of the recordings says so
            yield from _in_recording(path.name, cast.read(path), search)
    with contextlib.suppress(EngramError):  # the line of the data says so
        for path in find_files(at.patterns):
            for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").splitlines(), 1):
                for masked in search.masked(line):
                    yield f"{path.parent.name}/{path.name}, line {number}: {masked}"


def _in_recording(name: str, recording: Cast, search: Search) -> Iterator[str]:
    """A line for each kind of thing that a section shows, with the first place where it is seen."""
    for what, text in (("title", recording.title), *(("section title", title) for title in titles(recording))):
        yield from (f"{name}, {what}: {masked}" for masked in search.masked(text))
    said: dict[tuple[str, str], str] = {}
    for section, number, text in lines(recording):
        place = f"line {number}" if number else "over a line's end"
        for masked in search.masked(text):
            said.setdefault((section, masked), place)
    yield from (f"{name}, section {section!r}, {place}: {masked}" for (section, masked), place in said.items())


def titles(cast: Cast) -> list[str]:
    """The titles of the sections, each once."""
    return list(dict.fromkeys(marker.title for marker in cast.markers))


def lines(cast: Cast) -> Iterator[tuple[str, int, str]]:
    """Every line that a recording shows, once in a section: section, number (0: the whole screen, unfolded), text."""
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
                harmless = NO_PERSON.search(word) or ("@" not in word and _generic(word))
                if not harmless and word.casefold() not in self.public and taken.isdisjoint(span):
                    taken.update(span)
                    yield kind, match.start(), match.end()

    def masked(self, text: str) -> Iterator[str]:
        """The kinds of what is found; of an address that may be another's also its first letter, to find it by."""
        for kind, start, _ in self.hits(text):
            yield f"{kind} ({text[start]}…@…)" if kind == "an e-mail address" else kind

    def conceal(self, text: str) -> str:
        """The text with everything found in it replaced by its kind."""
        for kind, start, end in sorted(self.hits(text), key=lambda hit: hit[1], reverse=True):
            text = f"{text[:start]}[{kind}]{text[end:]}"
        return text


def owner(folder: Path) -> dict[str, str]:
    """The names by which system, home folder and git's settings in this folder would tell whose machine this is."""
    found, host = dict[str, str](), socket.gethostname()
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # no git
        for kind, key in (("git's e-mail address", "user.email"), ("the git user name", "user.name")):
            done = subprocess.run(["git", "-C", folder, "config", key], capture_output=True, timeout=5, check=False)
            found[kind] = done.stdout.decode("utf-8", "replace").strip()
    found |= {"the home folder": str(Path("~").expanduser())}
    found |= {"the host name": host, "the host's short name": host.split(".")[0]}
    with contextlib.suppress(KeyError, OSError):  # no name for this user id
        found["the user name"] = getpass.getuser()
    return found


def secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables whose names say that they hold a secret, where they hold something."""
    return {name: value for name, value in environment.items() if SECRET_NAME.search(name) and value}


def search(owner: Mapping[str, str], environment: Mapping[str, str], public: Iterable[str] = ()) -> Search:
    """The search for secrets and the owner's names, but those that are short or name nobody; `public` may be seen."""
    values = secrets(environment).items()
    known = {f"the value of {name}": re.escape(value) for name, value in values if len(value) >= SHORTEST_SECRET}
    known |= {kind: rf"(?<![A-Za-z0-9]){shape}" for kind, shape in SHAPES.items()}
    found = [(kind, re.compile(shape)) for kind, shape in known.items()]
    telling = [one for one in owner.items() if len(one[1]) >= SHORTEST_NAME and not _generic(one[1])]
    found += [(kind, _whole(name)) for kind, name in telling if kind in ADDRESSES]
    found += [("an e-mail address", EMAIL), ("a home folder", HOME)]
    found += [(kind, _whole(name)) for kind, name in telling if kind not in ADDRESSES]
    return Search(tuple(found), frozenset(word.casefold() for word in public))


def _whole(name: str) -> re.Pattern[str]:
    """The name as whole words, whatever its capitals and the blanks in it."""
    words = r"\s+".join(re.escape(word) for word in name.split())
    return re.compile(rf"(?<!\w){words}(?!\w)", re.I)


def _generic(name: str) -> bool:
    """Whether an account, a host or the last part of a folder names no person."""
    return re.split(r"[/\\]", name)[-1].casefold() in GENERIC
