"""Recordings: a show performed without terminal or waiting, as asciicast v2, written, and read again within bounds.

The format: https://docs.asciinema.org/manual/asciicast/v2/. The same show gives the same recording.
"""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from engram.show.demo import demo
from engram.show.demo.material import load
from engram.show.demo.stage import Clock, Marker, VirtualClock
from engram.show.video import theme
from engram.support.errors import EngramError
from engram.support.files import read_bytes, write_text
from engram.support.text import first, shorten, visible

Show = Callable[[Console, Clock], None]
WIDTH, HEIGHT = 100, 30
BESIDE = (80, 43)  # columns and lines of each of two terminals that fill a 16:9 picture
HIDE_CURSOR = "\x1b[?25l"
VERSION = 2
OUTPUT, MARKER = "o", "m"
WIDTHS, HEIGHTS = range(10, 301), range(3, 121)
MAX_BYTES = 32 * 2**20
MAX_SECONDS = 1800
MAX_TITLE = 200
ENVIRONMENT = {"TERM": "xterm-256color"}  # all that a recording says of where it was made
REMEDY = "record it again: make record"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|\d?\d)"
# a style, one of the terminal's 16 colours, or a whole colour: pyte fails on half of one
_STYLE = rf"(?:0?(?:[0-579]|2[2-579]|[349][0-7]|[34]9|10[0-7])|[34]8;(?:5;{_BYTE}|2;{_BYTE};{_BYTE};{_BYTE}))?"
# text and layout; styles; cursor moves; erasing; the cursor's place and visibility
_ALLOWED = re.compile(
    r"(?:[^\x00-\x1f\x7f-\x9f\ud800-\udfff]|[\b\t\n\r]"
    rf"|\x1b\[{_STYLE}(?:;{_STYLE}){{0,31}}m"
    r"|\x1b\[(?:\d{1,5})?(?:;\d{1,5})?[Hf]|\x1b\[(?:\d{1,5})?[A-GLMPXd@]|\x1b\[(?:[0-3]?J|[0-2]?K)"
    r"|\x1b\[\?(?:7|25)[hl]|\x1b[78])*",
    re.ASCII,
)


class Event(NamedTuple):
    """Text for the screen (`o`) or the title of a section that begins (`m`), at so many seconds from the start."""

    time: float
    code: str
    data: str


@dataclass(frozen=True)
class Cast:
    """A recording: columns and lines of the terminal, seconds in all, events by rising time (to 1e-3 s)."""

    width: int
    height: int
    duration: float
    title: str
    events: tuple[Event, ...]

    @property
    def markers(self) -> list[Marker]:
        """The sections' starts."""
        return [Marker(event.time, event.data) for event in self.events if event.code == MARKER]


class Recorder(io.TextIOBase):
    """A text stream that keeps what is written to it, by the clock's time; a line end becomes CR and LF."""

    encoding = "utf-8"

    def __init__(self, clock: Clock) -> None:
        self._clock, self.written = clock, defaultdict[float, str](str)

    def write(self, text: str) -> int:
        """Keep the text with what else was written at this time."""
        self.written[round(self._clock.now(), 3)] += text.replace("\n", "\r\n")
        return len(text)


def record(show: Show, width: int = WIDTH, height: int = HEIGHT, title: str = "") -> Cast:
    """Perform `show(console, clock)` on a terminal of this size, and keep it.

    The console draws in 24-bit colour, knows nothing of the environment, and hides the cursor; the clock moves only
    when the show sleeps. Raises EngramError if the result would be refused by `cast.read`.
    """
    clock = VirtualClock()
    recorder = Recorder(clock)
    recorder.write(HIDE_CURSOR)
    console = Console(
        file=recorder,  # type: ignore[arg-type]
        width=width, height=height, force_terminal=True, force_interactive=False, color_system="truecolor",
        legacy_windows=False, highlight=False, markup=False, emoji=False, get_time=clock.now, _environ=ENVIRONMENT,
    )  # fmt: skip
    show(console, clock)
    marks = [Event(round(time, 3), MARKER, name) for time, name in clock.markers]
    shown = [Event(time, OUTPUT, text) for time, text in recorder.written.items()]
    events = merge(marks, shown, key=lambda event: event.time)  # a section's mark before its text
    cast = Cast(width, height, round(clock.now(), 3), title, tuple(events))
    return loads(dumps(cast), "the show")  # a recording that a reader would refuse is not made


def of_demo(place: Path, data: Path, patterns: str | None = None, width: int = WIDTH, height: int = HEIGHT) -> Cast:
    """`engram demo --quick` of the results in `place`, recorded; raises EngramError if results or data are missing."""
    material = load(place, data, patterns)
    title = visible(f"engram · {material.comparison['backend']} · {material.comparison['device']}")
    return record(lambda console, clock: demo.play(console, clock, material), width, height, title)


def write(path: Path, cast: Cast) -> None:
    """Write the recording, whole or absent; the same recording gives the same bytes."""
    write_text(path, dumps(cast))


def dumps(cast: Cast) -> str:
    """The recording as text: a header without date, user, host or path, then an event a line."""
    header: dict[str, Any] = {"version": VERSION, "width": cast.width, "height": cast.height, "duration": cast.duration}
    header |= {"title": cast.title, "env": ENVIRONMENT, "theme": theme.asciicast()}
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (header, *cast.events))


def read(path: Path) -> Cast:
    """Read a recording from anywhere; raises EngramError with every problem and its line.

    Refused are other versions and events, sizes and lengths out of bounds, time that goes back, and anything in the
    output but text, colours, cursor moves and erasing.
    """
    content = read_bytes(path)
    if len(content) > MAX_BYTES:
        raise EngramError(f"the recording is larger than {MAX_BYTES // 2**20} MiB", where=str(path), fix=REMEDY)
    try:
        return loads(content.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise EngramError(f"not UTF-8 at byte {error.start}", where=str(path), fix=REMEDY) from error


def loads(text: str, where: str) -> Cast:
    """The recording in a text; see `read`."""
    header, *events = map(_json, text.removesuffix("\n").split("\n"))
    problems = [f"line 1: {problem}" for problem in _header_problems(header)]
    last, kept = 0.0, list[Event]()
    for number, event in enumerate(events, start=2):
        if problem := _event_problem(event, last):
            problems.append(f"line {number}: {problem}")
        else:
            last = round(float(event[0]), 3)
            kept.append(Event(last, *event[1:]))
    if not problems:
        duration = header.get("duration", last)
        if not _is_time(duration) or round(duration, 3) < last:
            problems.append(f"line 1: duration {_shown(duration)}, not {last:.3f} (the last event) to {MAX_SECONDS} s")
        if all(event.code != OUTPUT for event in kept):
            problems.append("line 1: nothing is shown: the recording has no output")
    if problems:
        raise EngramError("not a recording that can be shown", where=where, problems=first(problems), fix=REMEDY)
    return Cast(header["width"], header["height"], round(float(duration), 3), header.get("title") or "", tuple(kept))


def _header_problems(header: Any) -> Iterator[str]:
    if not isinstance(header, dict):
        yield "no asciicast header, which is a JSON object"
    elif header.get("version") != VERSION:
        yield f"version {_shown(header.get('version'))}, not {VERSION}; asciinema convert -f asciicast-v2 OLD NEW"
    else:
        for name, bounds in (("width", WIDTHS), ("height", HEIGHTS)):
            if type(size := header.get(name)) is not int or size not in bounds:
                yield f"{name} {_shown(size)}, not {bounds[0]} to {bounds[-1]}"
        if not _is_title(header.get("title") or ""):
            yield f"title is no text of at most {MAX_TITLE} visible characters"


def _event_problem(value: Any, last: float) -> str:
    """The problem with an event, or an empty text."""
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(part, str) for part in value[1:]):
        return "not an event [seconds, code, text] in JSON"
    time, code, data = value
    if not _is_time(time):
        return f"time {_shown(time)}, not 0 to {MAX_SECONDS} s"
    if round(time, 3) < last:
        return f"time goes back from {last:.3f} to {time:.3f} s"
    if code not in (OUTPUT, MARKER):
        return f"event {_shown(code)}; known are 'o' and 'm'"
    if code == MARKER:
        return "" if _is_title(data) else f"a marker's title is no text of at most {MAX_TITLE} visible characters"
    shown = _ALLOWED.match(data)
    known = shown.end() if shown else 0
    return "" if known == len(data) else f"{_shown(data[known : known + 8])} is not allowed in a recording"


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= MAX_SECONDS  # type: ignore[operator]


def _is_title(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TITLE and visible(value) == value


def _shown(value: object) -> str:
    return visible(shorten(repr(value), 40))
