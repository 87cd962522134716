"""Recordings on disk: asciicast v2 (https://docs.asciinema.org/manual/asciicast/v2/), written and read with care."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from engram.show.clock import Marker
from engram.show.video import control, theme
from engram.support.errors import EngramError
from engram.support.files import read_bytes, write_text
from engram.support.text import shorten, visible

VERSION = 2
OUTPUT, MARKER = "o", "m"
WIDTHS, HEIGHTS = range(10, 301), range(3, 121)
MAX_BYTES = 32 * 2**20
MAX_EVENTS = 200_000
MAX_SECONDS = 1800.0
MAX_TITLE = 200
PROBLEMS_SHOWN = 20
ENVIRONMENT = {"TERM": "xterm-256color"}  # all that a recording says of where it was made
REMEDY = "record it anew: make record"
OTHER_EVENTS = {"i": "typed input", "r": "a change of size", "x": "an exit status"}


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


def write(path: Path, cast: Cast) -> None:
    """Write the recording, whole or absent; the same recording gives the same bytes."""
    write_text(path, dumps(cast))


def dumps(cast: Cast) -> str:
    """The recording as text: a header without date, user, host or path, then an event a line."""
    header = {
        "version": VERSION,
        "width": cast.width,
        "height": cast.height,
        "duration": cast.duration,
        "title": cast.title,
        "env": ENVIRONMENT,
        "theme": theme.asciicast(),
    }
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (header, *cast.events))


def read(path: Path) -> Cast:
    """Read a recording from anywhere; raises EngramError with every problem and its line.

    Refused are other versions and events, sizes and lengths out of bounds, time that goes back, and control sequences
    beyond colours, cursor moves and erasing (`control`).
    """
    if not path.is_file():
        raise EngramError("no such recording", where=str(path), fix="make record")
    if path.stat().st_size > MAX_BYTES:
        raise EngramError(f"the recording is larger than {MAX_BYTES // 2**20} MiB", where=str(path), fix=REMEDY)
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise EngramError(f"not UTF-8 at byte {error.start}", where=str(path), fix=REMEDY) from error
    return loads(text, str(path))


def loads(text: str, where: str) -> Cast:
    """The recording that a text holds; see `read`."""
    lines = text.removesuffix("\n").split("\n")
    if len(lines) - 1 > MAX_EVENTS:
        raise EngramError(f"the recording holds more than {MAX_EVENTS:,} events", where=where, fix=REMEDY)
    reader = _Reader()
    header = reader.header(lines[0])
    events = tuple(reader.events(lines[1:]))
    if not reader.problems and not any(event.code == OUTPUT for event in events):
        reader.problems.append("line 1: nothing is shown: the recording has no output")
    duration = _duration(header, events, reader.problems)
    if reader.problems:
        raise EngramError(
            "not a recording that can be shown", where=where, problems=_first(reader.problems), fix=reader.fix
        )
    return Cast(header["width"], header["height"], duration, header.get("title") or "", events)


class _Reader:
    """Reads the lines one after the other, and keeps what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.fix = REMEDY

    def header(self, line: str) -> dict[str, Any]:
        """The first line's fields."""
        header = _json(line)
        if not isinstance(header, dict):
            self.problems.append("line 1: no asciicast header, which is a JSON object")
            return {}
        if header.get("version") != VERSION or isinstance(header["version"], bool):
            self.problems.append(f"line 1: version {_shown(header.get('version'))}, not {VERSION}")
            self.fix = "asciinema convert -f asciicast-v2 OLD NEW"
            return {}
        for name, bounds in (("width", WIDTHS), ("height", HEIGHTS)):
            size = header.get(name)
            if type(size) is not int or size not in bounds:
                self.problems.append(f"line 1: {name} {_shown(size)}, not {bounds[0]} to {bounds[-1]}")
        title = header.get("title")
        if title is not None and not _is_title(title):
            self.problems.append(f"line 1: title is no text of at most {MAX_TITLE} visible characters")
        return header

    def events(self, lines: list[str]) -> Iterator[Event]:
        """The events that are right; one whose control sequence ends in a later one is put together with that one."""
        last, unfinished, number = 0.0, "", 1
        for number, line in enumerate(lines, start=2):
            event = self._event(line, number, last)
            if event is None:
                continue
            last = event.time
            if event.code == OUTPUT:
                text = unfinished + event.data
                wrong, unfinished = control.refused(text)
                self.problems += [f"line {number}: {name} is not allowed in a recording" for name in wrong]
                event = event._replace(data=text.removesuffix(unfinished))
            yield event
        if unfinished:
            self.problems.append(f"line {number}: ends within a control sequence")

    def _event(self, line: str, number: int, last: float) -> Event | None:
        value = _json(line)
        problem = _event_problem(value, last)
        if problem:
            self.problems.append(f"line {number}: {problem}")
            return None
        return Event(round(float(value[0]), 3), value[1], value[2])


def _event_problem(value: Any, last: float) -> str:
    """What is wrong with an event, or nothing."""
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(part, str) for part in value[1:]):
        return "not an event [seconds, code, text] in JSON"
    time, code, data = value
    if type(time) not in (int, float) or not 0 <= time <= MAX_SECONDS:
        return f"time {_shown(time)}, not 0 to {MAX_SECONDS:.0f} s"
    if round(time, 3) < last:
        return f"time goes back from {last:.3f} to {time:.3f} s"
    if code not in (OUTPUT, MARKER):
        return f"event {_shown(code)} ({OTHER_EVENTS.get(code, 'unknown')}); known are 'o' and 'm'"
    if code == MARKER and not _is_title(data):
        return f"a marker's title is no text of at most {MAX_TITLE} visible characters"
    return ""


def _duration(header: dict[str, Any], events: tuple[Event, ...], problems: list[str]) -> float:
    """Seconds in all: the header's, where it has them, else the last event's time."""
    end = events[-1].time if events else 0.0
    seconds = header.get("duration")
    if seconds is None:
        return end
    if type(seconds) not in (int, float) or not end <= round(seconds, 3) <= MAX_SECONDS:
        problems.append(f"line 1: duration {_shown(seconds)}, not {end:.3f} (the last event) to {MAX_SECONDS:.0f} s")
        return end
    return round(float(seconds), 3)


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_title(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TITLE and visible(value) == value


def _shown(value: object) -> str:
    return visible(shorten(repr(value), 40))


def _first(problems: list[str]) -> list[str]:
    more = len(problems) - PROBLEMS_SHOWN
    return problems[:PROBLEMS_SHOWN] + ([f"… and {more} more"] if more > 0 else [])
