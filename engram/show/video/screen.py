"""The terminal's screen while a recording plays: rows of cells, through pyte."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pyte
from pyte import graphics, modes, screens

from engram.show.video import theme
from engram.show.video.cast import OUTPUT, Cast

FAINT = {2: [5], 5: [], 22: [22, 25]}  # pyte knows no faint text: it is kept as blinking, and blinking is left out
graphics.FG_BG_256[:16] = [*theme.DARK, *theme.BRIGHT]  # the theme's first 16 colours by number, not xterm's
MOST_MARKS = 8  # characters of one cell: one, and what is combined with it


class Cell(NamedTuple):
    """One place of the screen; a wide character's text is in the first of its two cells, the second is empty."""

    text: str = " "
    colour: theme.Colour = theme.FOREGROUND
    background: theme.Colour = theme.BACKGROUND
    bold: bool = False


Row = tuple[Cell, ...]


class Screen(NamedTuple):
    """All rows of a terminal."""

    rows: tuple[Row, ...]

    @property
    def text(self) -> list[str]:
        """The rows' characters, without the blanks at their ends."""
        return ["".join(cell.text for cell in row).rstrip() for row in self.rows]


def play(cast: Cast, fps: int) -> Iterator[tuple[Screen, int]]:
    """The screens of one recording; see `together`. There are `frames(cast, fps)`."""
    return ((screens[0], count) for screens, count in together([cast], fps))


def together(casts: Sequence[Cast], fps: int) -> Iterator[tuple[tuple[Screen, ...], int]]:
    """The screens of recordings that begin together, sampled `fps` times a second, each with its number of frames.

    Frame k shows what was written up to k/fps seconds; the last screens of the shorter ones stay to the end.
    """
    terminals = [_Terminal(cast.width, cast.height) for cast in casts]
    written: dict[int, list[tuple[_Terminal, str]]] = {}
    for cast, terminal in zip(casts, terminals, strict=True):
        for event in cast.events:
            if event.code == OUTPUT:
                frame = min(_frame(event.time, fps), frames(cast, fps) - 1)
                written.setdefault(frame, []).append((terminal, event.data))
    at, shown = 0, tuple(terminal.screen() for terminal in terminals)
    for frame in sorted(written):
        for terminal, text in written[frame]:
            terminal.feed(text)
        now = tuple(terminal.screen() for terminal in terminals)
        if now != shown:
            if frame > at:
                yield shown, frame - at
            shown, at = now, frame
    yield shown, max(frames(cast, fps) for cast in casts) - at


def frames(cast: Cast, fps: int) -> int:
    """The number of frames: as many as fill the duration, one at least."""
    return max(_frame(cast.duration, fps), 1)


def last(cast: Cast) -> Screen:
    """The screen when all is written."""
    *_, (shown, _) = play(cast, 1)
    return shown


def _frame(seconds: float, fps: int) -> int:
    """The first frame at or after a time."""
    return -(-round(1000 * seconds) * fps // 1000)


class _Terminal(screens.Screen):  # type: ignore[misc]
    """pyte's screen with what it lacks, faint text and true widths, and its rows as ours."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        self.feed: Callable[[str], None] = pyte.Stream(self).feed  # for text that `cast.loads` has accepted
        self._rows = list[Row]([()] * height)

    def select_graphic_rendition(self, *attrs: int) -> None:
        """See FAINT; a colour by number or in full is passed on with its parts."""
        known, codes = list[int](), iter(attrs or (0,))
        for code in codes:
            if code in (38, 48):
                kind = next(codes)
                known += [code, kind, *islice(codes, 3 if kind == 2 else 1)]
            else:
                known += FAINT.get(code, [code])
        if known:
            super().select_graphic_rendition(*known)

    def draw(self, data: str) -> None:
        """pyte's own way stops at a zero-width character, and splits wide ones at the edge."""
        for character in data:
            width = screens.wcwidth(character)
            if width > 0:
                if self.cursor.x + width > self.columns and modes.DECAWM in self.mode:
                    self.carriage_return()
                    self.linefeed()
                self.cursor.x = min(self.cursor.x, self.columns - width)
                super().draw(character)
            elif unicodedata.combining(character):  # it joins the character before it on this line, or is left out
                line, x = self.buffer[self.cursor.y], self.cursor.x - 1
                x -= x > 0 and line[x].data == ""
                if x >= 0 and len(line[x].data) < MOST_MARKS:
                    line[x] = line[x]._replace(data=unicodedata.normalize("NFC", line[x].data + character))
                    self.dirty.add(self.cursor.y)

    def screen(self) -> Screen:
        """The screen now; only rows that changed are read again."""
        for y in self.dirty:
            self._rows[y] = tuple(_cell(self.buffer[y][x]) for x in range(self.columns))
        self.dirty.clear()
        return Screen(tuple(self._rows))


@functools.lru_cache(maxsize=8192)
def _cell(char: Any) -> Cell:
    colour = theme.colour(char.fg, theme.FOREGROUND)
    background = theme.colour(char.bg, theme.BACKGROUND)
    if char.reverse:
        colour, background = background, colour
    if char.blink:  # faint: see FAINT
        colour = theme.faint(colour, background)
    return Cell(char.data, colour, background, char.bold)
