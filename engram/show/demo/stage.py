"""The screen that the show is drawn on and its clock: sections, lines at fixed places, waiting for time or keys."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

WIDTH, HEIGHT = 60, 24  # the smallest terminal that the show is drawn on
WIDEST = 120  # columns used; longer lines are hard to read
MARGIN = 2
ROOMY = 28  # lines from which there is air under the heading
LINE, QUIET, HINT = "dim bright_black", "bright_black", "press a key"

# the sections in their order: titles of screens and chapters of recordings
TITLE = "What this is"
TAUGHT = "What is taught"
TRAINING = "Training"
RECALL = "Before and after: taught"
GENERALIZATION = "Before and after: held out"
FIGURES = "The figures"
NOT_SHOWN = "Lost, and not shown"
ERASED = "One fact, erased and put back"  # of a run with a memory alone, before the figures
SECTIONS = (TITLE, TAUGHT, TRAINING, RECALL, GENERALIZATION, FIGURES, NOT_SHOWN)
PLATFORMS_ANSWERS = "Two platforms: answers"
PLATFORMS_FIGURES = "Two platforms: figures"


class Marker(NamedTuple):
    """The start of a section: seconds since the start of the show, and the section's title."""

    time: float
    title: str


class Clock:
    """Real time since the clock was made, `speed` times as fast: 2 halves every wait, 0 leaves all of them out."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed, self._started = speed, time.monotonic()

    def now(self) -> float:
        """Seconds since the start of the show."""
        return time.monotonic() - self._started

    def sleep(self, seconds: float) -> None:
        """Let that much time of the show pass; raises ValueError if it is negative or no finite number."""
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"a show cannot sleep for {seconds} s")
        if self._speed:
            self._pass(seconds / self._speed)

    def mark(self, title: str) -> None:
        """A section of this title starts now; a live show keeps no record of it."""

    def _pass(self, seconds: float) -> None:
        time.sleep(seconds)


class VirtualClock(Clock):
    """Time that passes only in `sleep`, at once and exactly: when a screen is shown depends on the show alone."""

    def __init__(self, speed: float = 1.0) -> None:
        super().__init__(speed)
        self._now = 0.0
        self.markers: list[Marker] = []

    def now(self) -> float:
        """The seconds slept so far."""
        return self._now

    def mark(self, title: str) -> None:
        """Keep the section's start."""
        self.markers.append(Marker(self._now, title))

    def _pass(self, seconds: float) -> None:
        self._now += seconds


@dataclass
class Stage:
    """A console that clears for each section and draws at fixed places, so that nothing scrolls and nothing jumps.

    `platform` is shown at the top of every section. `wait` None goes on by the clock; else it waits for a key.
    """

    console: Console
    clock: Clock
    platform: str
    wait: Callable[[], None] | None = None
    drawn: ClassVar[bool] = True
    _drawn: dict[tuple[int, int], Text] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._measure()

    def open(self) -> None:
        """Let what the terminal shows scroll away, so that clearing loses none of it."""
        self.console.file.write("\n" * (self.height - 1))

    def section(self, title: str) -> int:
        """Mark and begin a section: an empty screen with its title. The first free row."""
        self.clock.mark(title)
        return self.screen(title)

    def screen(self, title: str) -> int:
        """An empty screen with a title. The first free row."""
        from rich.text import Text

        self._measure()
        self._drawn = {}
        self.console.clear()
        room = max(self.inner - len(title) - len("engram") - 4, 0)
        place = Text(self.platform, QUIET)
        place.truncate(room, overflow="ellipsis")
        self.put(0, MARGIN, Text.assemble(("engram", "bold cyan"), ("  ", ""), (title, "bold")))
        self.put(0, MARGIN + self.inner - place.cell_len, place)
        self.put(1, MARGIN, Text("─" * self.inner, LINE))
        return 3 if self.height >= ROOMY else 2

    @property
    def last(self) -> int:
        """The last row that a section may use: the one below it is for the hint."""
        return self.height - 2

    def put(self, row: int, column: int, text: Text) -> None:
        """Draw one line at a place; text that does not fit is cut off, text already there is not drawn again."""
        from rich.control import Control

        room = MARGIN + self.inner - column
        if not 0 <= row < self.height or room <= 0 or self._drawn.get((row, column)) == text:
            return
        shown = text.copy()
        shown.truncate(room, overflow="ellipsis")
        self.console.control(Control.move_to(column, row))
        self.console.print(shown, end="", no_wrap=True, crop=False)
        self._drawn[row, column] = text

    def show(self, place: tuple[int, int], shown: RenderableType, width: int) -> None:
        """Draw a table or a box, in lines of this width from a row and column on."""
        from rich.text import Text

        row, column = place
        lines = self.console.render_lines(shown, self.console.options.update(width=width))
        for at, line in enumerate(lines, row):
            self.put(at, column, Text.assemble(*((segment.text, segment.style or "") for segment in line)))

    def lines(self, row: int, lines: Sequence[Text], indent: int = 0) -> int:
        """Draw lines one below the other, folded to the width, down to the last row. The next free row."""
        for line in lines:
            for part in line.wrap(self.console, self.inner - indent) if line.plain else [line]:
                if row <= self.last:
                    self.put(row, MARGIN + indent, part)
                row += 1
        return row

    def entry(self, row: int, head: str, text: str, style: str, indent: int) -> int:
        """Draw a text behind its head, which has a column of this width. The next free row."""
        self.put(row, MARGIN, styled((head, style)))
        return self.lines(row, [styled((text, ""))], indent)

    def hold(self, seconds: float) -> None:
        """Keep the screen for so long, or until a key is pressed."""
        from rich.text import Text

        if self.wait is None:
            self.clock.sleep(seconds)
            return
        self.put(self.height - 1, MARGIN, Text(HINT, QUIET))
        self.wait()
        self.put(self.height - 1, MARGIN, Text(" " * len(HINT)))

    def close(self) -> None:
        """Leave the cursor in the last row, which is empty then, so that nothing scrolls for what comes after."""
        from rich.control import Control
        from rich.segment import ControlType

        self.console.control(Control.move_to(0, self.height - 1), Control((ControlType.ERASE_IN_LINE, 2)))

    def _measure(self) -> None:
        size = self.console.size
        self.height = size.height
        self.inner = min(size.width, WIDEST) - 2 * MARGIN


class Page(Stage):
    """The show as text, for pipes and terminals that cannot be drawn on.

    Lines and entries are printed one below the other, without waiting; what is put at a place is left out.
    """

    drawn = False

    def __init__(self, console: Console, wait: Callable[[], None] | None = None) -> None:
        super().__init__(console, Clock(0), "", wait)

    def screen(self, title: str) -> int:
        """Print the title. Rows do not count here."""
        self.console.print(f"\n{title}", style="bold")
        return 0

    def put(self, row: int, column: int, text: Text) -> None:
        """Nothing."""

    def lines(self, row: int, lines: Sequence[Text], indent: int = 0) -> int:
        """Print the lines."""
        for line in lines:
            self.console.print(styled((" " * indent, "")) + line)
        return row

    def entry(self, row: int, head: str, text: str, style: str, indent: int) -> int:  # noqa: ARG002 (a stage's)
        """Print the text after its head."""
        return self.lines(row, [styled((f"{head.lstrip(' 1234')}: ", style), (text, ""))])

    def _measure(self) -> None:
        self.height, self.inner = sys.maxsize, self.console.width


def too_small(console: Console) -> str:
    """The reason why the show cannot be drawn on this terminal, or an empty text."""
    width, height = console.size
    if width >= WIDTH and height >= HEIGHT:
        return ""
    return f"this terminal has {width} columns and {height} lines; the show is drawn from {WIDTH} and {HEIGHT} up"


@functools.lru_cache(maxsize=1024)
def fold(text: str, width: int) -> tuple[tuple[int, str], ...]:
    """The lines of a text folded at blanks to `width` cells, each with its place in the text."""
    from rich.console import Console
    from rich.text import Text

    lines, at = [], 0
    for line in Text(text).wrap(Console(width=width), width):
        at = text.index(line.plain, at)
        lines.append((at, line.plain.rstrip()))
        at += len(line.plain)
    return tuple(lines) or ((0, ""),)


def styled(*parts: tuple[str, str]) -> Text:
    """One line of (text, style) parts."""
    from rich.text import Text

    return Text.assemble(*parts)


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Keys typed meanwhile are not shown and wait to be read; Ctrl-C interrupts as usual."""
    try:
        import termios
    except ImportError:  # no such terminals on this system
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    settings = termios.tcgetattr(terminal)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, settings)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def wait() -> None:
    """Wait for any key on a terminal, for Enter or the end of the input elsewhere; Ctrl-C raises KeyboardInterrupt."""
    import click

    if not sys.stdin.isatty():
        sys.stdin.readline()
        return
    with contextlib.suppress(EOFError):  # Ctrl-D is a key like any other
        click.getchar()
