"""The terminal's screen while a recording plays: rows of cells, through pyte."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from engram.show.video import theme
from engram.show.video.cast import OUTPUT, Cast


class Cell(NamedTuple):
    """One place of the screen; a wide character's text is in the first of its two cells, the second is empty."""

    text: str = " "
    colour: theme.Colour = theme.FOREGROUND
    background: theme.Colour = theme.BACKGROUND
    bold: bool = False
    italic: bool = False
    underlined: bool = False
    struck: bool = False


Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Screen:
    """All rows, and the cursor's column and row where it is shown."""

    rows: tuple[Row, ...]
    cursor: tuple[int, int] | None

    @property
    def text(self) -> list[str]:
        """The rows' characters, without the blanks at their ends."""
        return ["".join(cell.text for cell in row).rstrip() for row in self.rows]


def play(cast: Cast, fps: int) -> Iterator[tuple[Screen, int]]:
    """The screens of one recording; see `together`. There are `frames(cast, fps)`."""
    return ((screens[0], count) for screens, count in together([cast], fps))


def together(casts: Sequence[Cast], fps: int) -> Iterator[tuple[tuple[Screen, ...], int]]:
    """The screens of recordings that begin together, sampled `fps` times a second, each with its number of frames.

    Frame k shows what was written up to k/fps seconds, counted in whole milliseconds; the shorter ones' last screens
    stay to the end.
    """
    terminals = [_Terminal(cast.width, cast.height) for cast in casts]
    written: dict[int, list[tuple[_Terminal, str]]] = {}
    for cast, terminal in zip(casts, terminals, strict=True):
        for event in cast.events:
            if event.code == OUTPUT:
                frame = min(-(-round(1000 * event.time) * fps // 1000), frames(cast, fps) - 1)
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
    return max(-(-round(1000 * cast.duration) * fps // 1000), 1)


def last(cast: Cast) -> Screen:
    """The screen when all is written."""
    *_, (shown, _) = play(cast, 1)
    return shown


class _Terminal:
    """pyte's terminal, and its rows as ours; only rows that changed are read again."""

    def __init__(self, width: int, height: int) -> None:
        import pyte

        self._screen = _screen_class()(width, height)
        self._stream = pyte.Stream(self._screen)
        self._rows: list[Row] = [()] * height

    def feed(self, text: str) -> None:
        """Write text that `cast.loads` has accepted."""
        self._stream.feed(text)

    def screen(self) -> Screen:
        """The screen now."""
        screen = self._screen
        for y in screen.dirty:
            line = screen.buffer[y]
            self._rows[y] = tuple(_cell(line[x]) for x in range(screen.columns))
        screen.dirty.clear()
        cursor = screen.cursor
        place = None if cursor.hidden else (min(cursor.x, screen.columns - 1), cursor.y)
        return Screen(tuple(self._rows), place)


@functools.lru_cache(maxsize=8192)
def _cell(char: Any) -> Cell:
    colour = theme.colour(char.fg, theme.FOREGROUND)
    background = theme.colour(char.bg, theme.BACKGROUND)
    if char.reverse:
        colour, background = background, colour
    if char.blink:  # faint: see `_screen_class`
        colour = theme.faint(colour, background)
    return Cell(char.data, colour, background, char.bold, char.italics, char.underscore, char.strikethrough)


@functools.cache
def _screen_class() -> Any:
    """pyte's screen with what it lacks: faint text, the theme's first 16 colours by number, and true widths."""
    from pyte import modes, screens

    class TrueScreen(screens.Screen):  # type: ignore[misc]
        """See `_screen_class`."""

        def select_graphic_rendition(self, *attrs: int) -> None:
            """Faint text, which pyte does not know, is kept as blinking; blinking itself is left out."""
            codes, known = list(attrs) or [0], []
            while codes:
                code = codes.pop(0)
                if code in (38, 48):
                    count = 4 if codes[0] == 2 else 2
                    known += _themed(code, codes[:count])
                    codes = codes[count:]
                else:
                    known += {2: [5], 5: [], 22: [22, 25]}.get(code, [code])
            if known:
                super().select_graphic_rendition(*known)

        def draw(self, data: str) -> None:
            """pyte's own way stops at a zero-width character, and splits wide ones at the edge."""
            for character in data:
                width = max(screens.wcwidth(character), 0)
                if width == 0:
                    self._combine(character)
                    continue
                if self.cursor.x + width > self.columns:
                    if modes.DECAWM in self.mode:
                        self.carriage_return()
                        self.linefeed()
                    else:
                        self.cursor.x = self.columns - width
                line, x = self.buffer[self.cursor.y], self.cursor.x
                for second, kept in ((x, x - 1), (x + width, x + width)):  # halves of wide characters, kept without
                    if 0 <= kept < self.columns and line[second].data == "":  # the other half
                        line[kept] = line[kept]._replace(data=" ")
                super().draw(character)

        def _combine(self, character: str) -> None:
            """A zero-width character joins the one before it on this line, or is left out."""
            line, x = self.buffer[self.cursor.y], self.cursor.x - 1
            if x > 0 and line[x].data == "":
                x -= 1
            if x >= 0 and unicodedata.combining(character) and len(line[x].data) < 8:
                line[x] = line[x]._replace(data=unicodedata.normalize("NFC", line[x].data + character))
                self.dirty.add(self.cursor.y)

    return TrueScreen


def _themed(code: int, rest: list[int]) -> list[int]:
    """`38;5;n` with n < 16 as the theme's colour: pyte would take xterm's."""
    if rest[:1] == [5] and len(rest) == 2 and rest[1] < 16:
        base = 30 if code == 38 else 40
        return [base + rest[1] if rest[1] < 8 else base + 60 + rest[1] - 8]
    return [code, *rest]
