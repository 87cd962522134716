"""Recordings on disk: asciicast v2 (https://docs.asciinema.org/manual/asciicast/v2/), written and read with care."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from engram.show.clock import Marker
from engram.show.video import theme
from engram.support.errors import EngramError
from engram.support.files import read_bytes, write_text
from engram.support.text import first, shorten, visible

VERSION = 2
OUTPUT, MARKER = "o", "m"
WIDTHS, HEIGHTS = range(10, 301), range(3, 121)
MAX_BYTES = 32 * 2**20
MAX_EVENTS = 200_000
MAX_SECONDS = 1800.0
MAX_TITLE = 200
ENVIRONMENT = {"TERM": "xterm-256color"}  # all that a recording says of where it was made
REMEDY = "record it again: make record"
# text and layout; colours, cursor moves, erasing; the cursor's place and visibility
_ALLOWED = re.compile(
    r"(?:[^\x00-\x1f\x7f-\x9f\ud800-\udfff]|[\b\t\n\r]|\x1b\[(?:\d{1,5})?(?:;\d{1,5}){0,31}m"
    r"|\x1b\[(?:\d{1,5})?(?:;\d{1,5})?[Hf]|\x1b\[(?:\d{1,5})?[A-GJ-MPXd@]"
    r"|\x1b\[\?(?:7|25)[hl]|\x1b[78])*"
)
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

    Refused are other versions and events, sizes and lengths out of bounds, time that goes back, and anything in the
    output but text, colours, cursor moves and erasing.
    """
    if not path.is_file():
        raise EngramError("no such recording", where=str(path), fix="make record")
    if path.stat().st_size > MAX_BYTES:
        raise EngramError(f"the recording is larger than {MAX_BYTES // 2**20} MiB", where=str(path), fix=REMEDY)
    try:
        return loads(read_bytes(path).decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise EngramError(f"not UTF-8 at byte {error.start}", where=str(path), fix=REMEDY) from error


def loads(text: str, where: str) -> Cast:
    """The recording in a text; see `read`."""
    first_line, *lines = text.removesuffix("\n").split("\n")
    if len(lines) > MAX_EVENTS:
        raise EngramError(f"the recording holds more than {MAX_EVENTS:,} events", where=where, fix=REMEDY)
    header = _json(first_line)
    found = [_json(line) for line in lines]
    if not isinstance(header, dict):
        problems, header = ["line 1: no asciicast header, which is a JSON object"], {}
    else:
        problems = [f"line 1: {problem}" for problem in _header_problems(header, found)]
    last = 0.0
    for number, event in enumerate(found, start=2):
        if problem := _event_problem(event, last):
            problems.append(f"line {number}: {problem}")
        if isinstance(event, list) and event and type(event[0]) in (int, float) and last <= event[0] <= MAX_SECONDS:
            last = round(event[0], 3)
    if not problems and not any(code == OUTPUT for _, code, _ in found):
        problems = ["line 1: nothing is shown: the recording has no output"]
    if problems:
        old = header.get("version") not in (None, VERSION)
        fix = "asciinema convert -f asciicast-v2 OLD NEW" if old else REMEDY
        raise EngramError("not a recording that can be shown", where=where, problems=first(problems), fix=fix)
    events = tuple(Event(round(float(time), 3), code, data) for time, code, data in found)
    duration = round(float(header.get("duration", events[-1].time)), 3)
    return Cast(header["width"], header["height"], duration, header.get("title") or "", events)


def _header_problems(header: dict[str, Any], events: list[Any]) -> Iterator[str]:
    if header.get("version") != VERSION or isinstance(header["version"], bool):
        yield f"version {_shown(header.get('version'))}, not {VERSION}"
        return
    for name, bounds in (("width", WIDTHS), ("height", HEIGHTS)):
        size = header.get(name)
        if type(size) is not int or size not in bounds:
            yield f"{name} {_shown(size)}, not {bounds[0]} to {bounds[-1]}"
    if header.get("title") is not None and not _is_title(header["title"]):
        yield f"title is no text of at most {MAX_TITLE} visible characters"
    times = [event[0] for event in events if isinstance(event, list) and event and type(event[0]) in (int, float)]
    end, seconds = times[-1] if times else 0.0, header.get("duration")
    if seconds is not None and (type(seconds) not in (int, float) or not end <= round(seconds, 3) <= MAX_SECONDS):
        yield f"duration {_shown(seconds)}, not {end:.3f} (the last event) to {MAX_SECONDS:.0f} s"


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


def _is_title(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TITLE and visible(value) == value


def _shown(value: object) -> str:
    return visible(shorten(repr(value), 40))
