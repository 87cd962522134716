"""The screen that the show is drawn on and its clock: sections, their parts, waiting for time or keys."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import click
from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table
from rich.text import Text

from engram.support.text import common

WIDTH, HEIGHT = 60, 24  # the smallest terminal that the show is drawn on
WIDEST = 120  # columns used; longer lines are hard to read
MARGIN = 2
ROOMY = 28  # lines from which there is air under the heading
BLANK = ""  # a line without anything
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
ASKED = {RECALL: ("recall", "rewording"), GENERALIZATION: ("generalization",)}
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
        self._speed, self._started, self.markers = speed, time.monotonic(), list[Marker]()

    def now(self) -> float:
        """Seconds since the start of the show."""
        return time.monotonic() - self._started

    def sleep(self, seconds: float) -> None:
        """Let that much time of the show pass."""
        if self._speed:
            time.sleep(seconds / self._speed)

    def mark(self, title: str) -> None:
        """A section of this title starts now."""
        self.markers.append(Marker(self.now(), title))


class VirtualClock(Clock):
    """Time that passes only in `sleep`, at once and exactly: when a screen is shown depends on the show alone."""

    _slept = 0.0

    def now(self) -> float:
        """The seconds slept so far."""
        return self._slept

    def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self._slept += seconds


@dataclass
class Stage:
    """A console that clears for each section and shows its parts below the title; what did not change is not drawn.

    `platform` is shown at the top of every section. `wait` None goes on by the clock; else it waits for a key.
    """

    console: Console
    clock: Clock
    platform: str
    wait: Callable[[], None] | None = None
    drawn: ClassVar[bool] = True
    _lines: dict[int, list[Segment]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._measure()

    def section(self, title: str) -> None:
        """Mark and begin a section: an empty screen with its title."""
        self.clock.mark(title)
        self.screen(title)

    def screen(self, title: str) -> None:
        """An empty screen with a title."""
        self._measure()
        self._lines = {}
        self.console.clear()
        head = styled(("engram", "bold cyan"), ("  ", ""), (title, "bold"))
        place = Text(self.platform, QUIET)
        place.truncate(max(self.inner - head.cell_len - 2, 0), overflow="ellipsis")
        blanks = " " * (self.inner - head.cell_len - place.cell_len)
        self._draw(0, [head + Text(blanks) + place, Text("─" * self.inner, LINE)])

    @property
    def air(self) -> list[RenderableType]:
        """A blank line between two parts, where the screen is large enough."""
        return [BLANK] if self.height >= ROOMY else []

    @property
    def room(self) -> int:
        """The rows for the parts of a section, the foot's among them: below the title and above the hint."""
        return self.height - self._top - 1

    def rows(self, parts: Sequence[RenderableType]) -> list[list[Segment]]:
        """The rows of these parts, as they are drawn."""
        return self.console.render_lines(Group(*parts), self.console.options.update(width=self.inner))

    def show(self, parts: Sequence[RenderableType]) -> None:
        """Show these parts below the title, as far as there is room for them; what is below them stays."""
        self._draw(self._top, parts, self.height - 1)

    def frames(self, count: int) -> Sequence[int]:
        """The numbers of an animation's pictures; the last one alone where nothing is drawn."""
        return range(1 if self.drawn else count, count + 1)

    def foot(self, text: str) -> None:
        """Show a note in the last row but one."""
        self._draw(self.height - 2, [styled((text, QUIET), cut=True)])

    def hold(self, seconds: float) -> None:
        """Keep the screen for so long, or until a key is pressed."""
        if self.wait is None:
            self.clock.sleep(seconds)
            return
        self._draw(self.height - 1, [styled((HINT, QUIET))])
        self.wait()
        self._draw(self.height - 1, [styled((" " * len(HINT), ""))])

    def _measure(self) -> None:
        width, self.height = self.console.size
        self._top = 3 if self.height >= ROOMY else 2
        self.inner = min(width, WIDEST) - 2 * MARGIN

    def _draw(self, top: int, parts: Sequence[RenderableType], end: int = sys.maxsize) -> None:
        """Draw the parts' lines from row `top` up to `end`: of each line what is between its first and last change."""
        for row, line in zip(range(top, end), self.rows(parts)):
            new = [Segment(character, segment.style or None) for segment in line for character in segment.text]
            old = self._lines.get(row) or [Segment(" ")] * len(new)
            first = common(old, new)
            same = common(old[first:][::-1], new[first:][::-1])
            self._lines[row] = new
            if changed := new[first : len(new) - same]:
                self.console.control(Control.move_to(MARGIN + Segment.get_line_length(new[:first]), row))
                self.console.print(Segments(Segment.simplify(changed)), end="")


class Page(Stage):
    """The show as text, for pipes and terminals that cannot be drawn on: a section's parts as they are at its end."""

    drawn = False

    def __init__(self, console: Console, wait: Callable[[], None] | None = None) -> None:
        super().__init__(console, Clock(0), "", wait)
        self._title = ""

    def screen(self, title: str) -> None:
        """Print the title, once for all screens of a section."""
        self.console.print(f"\n{title}\n" if title != self._title else "", style="bold")
        self._title, self._note = title, ""

    def show(self, parts: Sequence[RenderableType]) -> None:
        """Keep the parts."""
        self._parts: Sequence[RenderableType] = parts

    def foot(self, text: str) -> None:
        """Keep the note."""
        self._note = text

    def hold(self, seconds: float) -> None:
        """Print the parts, and the note below them."""
        for part in self._parts:
            self.console.print(part)
        if self._note:
            self.console.print(f"\n{self._note}")
        super().hold(seconds)

    def _draw(self, top: int, parts: Sequence[RenderableType], end: int = sys.maxsize) -> None:
        """Nothing."""

    def _measure(self) -> None:
        self.height, self._top, self.inner = sys.maxsize, 0, self.console.width


def too_small(console: Console) -> str:
    """The reason why the show cannot be drawn on this terminal, or an empty text."""
    width, height = console.size
    told = f"this terminal has {width} columns and {height} lines; the show is drawn from {WIDTH} and {HEIGHT} up"
    return told if width < WIDTH or height < HEIGHT else ""


@functools.lru_cache(maxsize=1024)
def fold(text: str, width: int) -> tuple[tuple[int, str], ...]:
    """The lines of a text folded at blanks to `width` cells, each with its place in the text."""
    lines, at = [], 0
    for line in Text(text).wrap(Console(width=width), width):
        at = text.index(line.plain, at)
        lines.append((at, line.plain.rstrip()))
        at += len(line.plain)
    return tuple(lines) or ((0, ""),)


def styled(*parts: tuple[str, str | Style], cut: bool = False) -> Text:
    """One line of (text, style) parts; folded where it is too long, or cut off."""
    text = Text.assemble(*parts)
    text.no_wrap, text.overflow = cut, "ellipsis" if cut else None
    return text


def entries(width: int, *rows: tuple[str, str, str]) -> Table:
    """Texts behind their heads, which have a column of this width: (head, its style, text)."""
    grid = Table.grid()
    grid.add_column(width=width, no_wrap=True)
    for head, style, text in rows:
        grid.add_row(Text(f"{head}:", style), Text(text))
    return grid


def wait() -> None:
    """Wait for any key on a terminal, for Enter or the end of the input elsewhere; Ctrl-C raises KeyboardInterrupt."""
    with contextlib.suppress(EOFError):  # Ctrl-D is a key like any other
        click.getchar() if sys.stdin.isatty() else sys.stdin.readline()
