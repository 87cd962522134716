"""Record a show without a terminal and without waiting: the same show gives the same recording."""

from __future__ import annotations

import io
from collections.abc import Callable
from heapq import merge
from pathlib import Path
from typing import TYPE_CHECKING

from engram.evaluation import compare
from engram.show.clock import Clock, VirtualClock
from engram.show.demo import demo
from engram.show.demo.material import load
from engram.show.video.cast import ENVIRONMENT, MARKER, OUTPUT, Cast, Event, dumps, loads
from engram.support.text import visible

if TYPE_CHECKING:
    from rich.console import Console

    Show = Callable[[Console, Clock], None]

WIDTH, HEIGHT = 100, 30
BESIDE = (80, 43)  # columns and lines of each of two terminals that fill a 16:9 picture
HIDE_CURSOR = "\x1b[?25l"


class Recorder(io.TextIOBase):
    """A text stream that keeps what is written to it, with the clock's time; a line end becomes CR and LF."""

    encoding = "utf-8"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._parts: list[tuple[float, list[str]]] = []

    def write(self, text: str) -> int:
        """Keep the text; what is written at one time is one event."""
        now = round(self._clock.now(), 3)
        if not self._parts or self._parts[-1][0] != now:
            self._parts.append((now, []))
        self._parts[-1][1].append(text)
        return len(text)

    @property
    def events(self) -> list[Event]:
        """What was written."""
        return [Event(time, OUTPUT, "".join(parts).replace("\n", "\r\n")) for time, parts in self._parts]


def record(show: Show, width: int = WIDTH, height: int = HEIGHT, title: str = "") -> Cast:
    """Perform `show(console, clock)` on a terminal of this size, and keep it.

    The console draws in 24-bit colour, knows nothing of the environment, and hides the cursor; the clock moves only
    when the show sleeps, and its marks become markers. What a show does by other clocks or threads is not repeatable.
    Raises EngramError where the result would be refused by `cast.read`.
    """
    clock = VirtualClock()
    recorder = Recorder(clock)
    recorder.write(HIDE_CURSOR)
    show(_console(recorder, clock, width, height), clock)
    marks = [Event(round(time, 3), MARKER, name) for time, name in clock.markers]
    events = merge(marks, recorder.events, key=lambda event: event.time)  # a section's mark before its text
    cast = Cast(width, height, round(clock.now(), 3), title, tuple(events))
    return loads(dumps(cast), "the show")  # what a reader would refuse is not recorded


def _console(stream: Recorder, clock: Clock, width: int, height: int) -> Console:
    from rich.console import Console

    return Console(
        file=stream,  # type: ignore[arg-type]
        width=width,
        height=height,
        force_terminal=True,
        force_interactive=False,
        color_system="truecolor",
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
        get_time=clock.now,
        _environ=ENVIRONMENT,
    )


if TYPE_CHECKING:
    from rich.console import Console

    from engram.show.clock import Clock

    pass


def replay(backend: str, data: Path, results: Path, patterns: str | None = None) -> Show:
    """`engram demo --quick` for `record`; it raises EngramError where results or data are missing."""
    material = load(results / backend, data, patterns)

    def perform(console: Console, clock: Clock) -> None:
        demo.play(console, clock, material)

    return perform


def caption(backend: str, results: Path) -> str:
    """What ran where, for a window's title: `engram · mlx · CPU (x86_64, OpenBLAS)`."""
    document = compare.stored(results / backend)
    return visible(f"engram · {document['backend']} · {document['device']}")
