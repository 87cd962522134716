"""A recording as data for the page: every screen as the rows that changed, so that a script need only put text in."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from engram.show.video import screen, theme
from engram.show.video.cast import Cast
from engram.show.video.screen import Cell, Row
from engram.support.text import visible

FPS = 20  # how often the recording is looked at, as the film does
Style = tuple[theme.Colour, theme.Colour, bool, bool, bool, bool]
PLAIN: Style = (theme.FOREGROUND, theme.BACKGROUND, False, False, False, False)
Span = tuple[int, str]  # the number of a style, and text


@dataclass
class Film:
    """A recording's screens: styles and rows stand once, a frame names what it changes.

    `frames` holds (seconds, [(line, number of the row), …]); line and row count from 0.
    """

    width: int
    height: int
    seconds: float
    styles: list[Style] = field(default_factory=lambda: [PLAIN])
    rows: list[list[Span]] = field(default_factory=list)
    frames: list[tuple[float, list[tuple[int, int]]]] = field(default_factory=list)
    chapters: list[tuple[float, str]] = field(default_factory=list)

    @property
    def last(self) -> list[list[Span]]:
        """The rows of the last screen, which the page shows before anything plays."""
        lines: dict[int, int] = {}
        for _, changes in self.frames:
            lines.update(changes)
        return [self.rows[lines[y]] for y in range(self.height)]

    def data(self) -> dict[str, Any]:
        """What the script reads."""
        return {"seconds": self.seconds, "height": self.height, "rows": self.rows, "frames": self.frames}

    def css(self) -> str:
        """The rules of the styles, `.t0`, `.t1`, …, and letters so large that the lines fill the page's width."""
        # a letter is 0.602 of its size wide, and 2.6 are the margins; below 8.5 pixels nobody can read
        size = f".screen{{font-size:clamp(8.5px,calc(100cqi / {0.602 * self.width + 2.8:.4g}),17px)}}\n"
        return size + "".join(f".t{number}{{{_rule(style)}}}\n" for number, style in enumerate(self.styles))


def film(cast: Cast) -> Film:
    """The screens of a recording, each where it first differs from the one before."""
    made = Film(cast.width, cast.height, cast.duration)
    made.chapters = [(marker.time, visible(marker.title)) for marker in cast.markers]
    styles: dict[Style, int] = {PLAIN: 0}
    rows: dict[Row, int] = {}
    shown: tuple[Row, ...] = ()
    at = 0
    for picture, count in screen.play(cast, FPS):
        changes = []
        for y, row in enumerate(picture.rows):
            if not shown or row != shown[y]:
                if row not in rows:
                    rows[row] = len(rows)
                    made.rows.append(_spans(row, styles))
                changes.append((y, rows[row]))
        if changes:
            made.frames.append((round(at / FPS, 3), changes))
        shown, at = picture.rows, at + count
    made.styles = list(styles)
    return made


def _spans(row: Row, styles: dict[Style, int]) -> list[Span]:
    """Neighbours of one style together; blanks at the end of the line are left out."""
    spans = []
    for style, cells in groupby(row, key=_style):
        text = visible("".join(cell.text for cell in cells))
        spans.append((styles.setdefault(style, len(styles)), text))
    if spans and _looks_empty(list(styles)[spans[-1][0]]):
        number, text = spans.pop()
        spans += [(number, text.rstrip(" "))] if text.strip(" ") else []
    return spans


def _looks_empty(style: Style) -> bool:
    _, background, _, _, underlined, struck = style
    return background == theme.BACKGROUND and not underlined and not struck


def _style(cell: Cell) -> Style:
    return cell.colour, cell.background, cell.bold, cell.italic, cell.underlined, cell.struck


def _rule(style: Style) -> str:
    colour, background, bold, italic, underlined, struck = style
    lines = " ".join(name for name, on in (("underline", underlined), ("line-through", struck)) if on)
    parts = [f"color:#{bytes(colour).hex()}"]
    if background != theme.BACKGROUND:
        parts.append(f"background:#{bytes(background).hex()}")
    parts += ["font-weight:700"] * bold + ["font-style:italic"] * italic
    return ";".join(parts + ([f"text-decoration:{lines}"] if lines else []))
