"""Screens as pictures: a window with a title for each, on a dark desk, in the bundled DejaVu Sans Mono."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from engram.show.video import theme
from engram.show.video.cast import Cast
from engram.show.video.screen import Cell, Screen
from engram.support.errors import EngramError
from engram.support.files import BUNDLED
from engram.support.text import shorten, visible

Picture = NDArray[np.uint8]  # height × width × 3, red, green, blue
Mask = NDArray[np.uint8]  # height × width, 0 none to 255 all of the text's colour

SMALLEST = 5  # pixels of a cell's width: below it nothing can be read
GAP = 0.0165  # between windows and around them, of the picture's width
FOLDER = BUNDLED / "fonts"
FILES = {False: "DejaVuSansMono.ttf", True: "DejaVuSansMono-Bold.ttf"}
ADVANCE = 1233 / 2048  # of every glyph, in ems
ASCENT, DESCENT = 1901 / 2048, 483 / 2048
FIRST_LINE, LAST_BLOCK = "─", "▟"  # drawn up to the cell's upper and lower edge, so that they join


class Window(NamedTuple):
    """One terminal in the picture: its place and size, those of its cells, title bar and padding, all in pixels."""

    left: int
    top: int
    size: tuple[int, int]
    cell: tuple[int, int]
    bar: int
    padding: int
    title: str


class Scene(NamedTuple):
    """A picture's size and the windows in it."""

    width: int
    height: int
    windows: tuple[Window, ...]


def scene(casts: Sequence[Cast], size: tuple[int, int], *, trim: bool = False) -> Scene:
    """The largest windows for these recordings that fit side by side into a picture, in its middle.

    All have the same cells. A picture that is trimmed is only as high as its windows and the gaps around them; even, as
    video wants it. Raises EngramError if the cells would be too small to read.
    """
    width, height = size
    gap = round(GAP * width)
    for cell_width in range(width, SMALLEST - 1, -1):
        cell = cell_width, cell_height(cell_width)
        padding, bar = round(1.4 * cell[0]), round(1.35 * cell[1])
        sizes = [(c.width * cell[0] + 2 * padding, c.height * cell[1] + 2 * padding + bar) for c in casts]
        wide, high = sum(one[0] + gap for one in sizes) + gap, max(one[1] for one in sizes) + 2 * gap
        if wide <= width and high <= height:
            break
    else:
        named = " and ".join(f"{cast.width}×{cast.height}" for cast in casts)
        what = f"a terminal of {named} does not fit into {width}×{height} pixels"
        raise EngramError(what, fix="record it smaller: --width 100")
    height = 2 * math.ceil(high / 2) if trim else height
    left, windows = (width - wide) // 2 + gap, []
    for cast, one in zip(casts, sizes, strict=True):
        windows.append(Window(left, (height - one[1]) // 2, one, cell, bar, padding, cast.title))
        left += one[0] + gap
    return Scene(width, height, tuple(windows))


class Painter:
    """Paints a scene's screens one after the other; only rows that changed are drawn again."""

    def __init__(self, scene: Scene, shades: int = 256) -> None:
        """`shades`: of a text's colour on its background; few make a small GIF."""
        self.scene = scene
        self._desk = _desk(scene)
        self.picture = self._desk.copy()
        self._font = Font(scene.windows[0].cell[0], shades)  # all windows have the same cells
        self._tiles: dict[tuple[Cell, int], Picture] = {}
        self._shown: list[Screen | None] = [None] * len(scene.windows)

    def paint(self, screens: Sequence[Screen]) -> Picture:
        """The picture with these screens in its windows; the same array every time, painted over by the next call."""
        for place, (window, screen) in enumerate(zip(self.scene.windows, screens, strict=True)):
            before = self._shown[place]
            for y, row in enumerate(screen.rows):
                if before is None or row is not before.rows[y]:
                    self._row(window, y, row)
            self._shown[place] = screen
        return self.picture

    def colours(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Every colour of the pictures so far (n × 3), and how many pixels of desk and tiles have it."""
        parts = [np.asarray([theme.FOREGROUND], np.uint8), *(tile.reshape(-1, 3) for tile in self._tiles.values())]
        found: tuple[NDArray[Any], NDArray[Any]] = np.unique(
            np.concatenate([*parts, self._desk.reshape(-1, 3)]), axis=0, return_counts=True
        )
        return found

    def _row(self, window: Window, y: int, row: Sequence[Cell]) -> None:
        width, height = window.cell
        for x, cell in enumerate(row):
            cells = 2 if x + 1 < len(row) and row[x + 1].text == "" and cell.text else 1
            if cell.text or x == 0 or not row[x - 1].text:
                left = window.left + window.padding + x * width
                top = window.top + window.bar + window.padding + y * height
                if (cell, cells) not in self._tiles:
                    mask = self._font.mask(cell.text or " ", cells, cell.bold)
                    share = mask.astype(np.int32)[..., None]  # of the text's colour, the rest is the background's
                    mixed = share * np.asarray(cell.colour) + (255 - share) * np.asarray(cell.background)
                    self._tiles[cell, cells] = ((mixed + 127) // 255).astype(np.uint8)
                self.picture[top : top + height, left : left + cells * width] = self._tiles[cell, cells]


def _desk(scene: Scene) -> Picture:
    """The picture without any text but the titles: windows with a title bar and its three quiet dots."""
    image = Image.new("RGB", (scene.width, scene.height), theme.DESK)
    draw = ImageDraw.Draw(image)
    for window in scene.windows:
        (width, height), left, top = window.size, window.left, window.top
        right, middle = left + width - 1, top + window.bar // 2
        draw.rectangle((left, top, right, top + height - 1), fill=theme.BACKGROUND)
        draw.rectangle((left, top, right, top + window.bar - 1), fill=theme.BAR)
        draw.line((left, top + window.bar, right, top + window.bar), fill=theme.EDGE)
        radius = max(round(0.16 * window.bar), 2)
        for place in range(3):
            centre = left + window.padding + radius + place * round(3.4 * radius)
            draw.circle((centre, middle), radius, fill=theme.EDGE)
        title = visible(shorten(window.title, width // window.cell[0] - 16))
        font = loaded(False, Font(window.cell[0]).size)
        draw.text((left + width // 2, middle), title, fill=theme.TITLE, font=font, anchor="mm")
    return np.array(image)


def cell_height(width: int) -> int:
    """The height of a cell of this width: the font's own, so that nothing is cut off."""
    return math.ceil(width / ADVANCE * (ASCENT + DESCENT))


class Font:
    """The characters of one cell size in pixels, in so many shades from none to all."""

    def __init__(self, width: int, shades: int = 256) -> None:
        self.width, self.height, self.shades = width, cell_height(width), shades
        self.size = width / ADVANCE  # pixels an em; a fraction, so that the advance is the cell's width
        self.baseline = round(ASCENT * self.size)

    def mask(self, text: str, cells: int = 1, bold: bool = False) -> Mask:
        """The text of one place (a character with what is combined with it) as a mask of `cells` cells."""
        image = Image.new("L", (cells * self.width, self.height))
        draw = ImageDraw.Draw(image)
        for character in text:  # one over the other: what combines has its place within the glyph
            draw.text((0, self.baseline), character, fill=255, font=loaded(bold, self.size), anchor="ls")
        glyph = np.array(image)
        if len(text) == 1 and FIRST_LINE <= text <= LAST_BLOCK:
            glyph[[0, -1]] = np.maximum(glyph[[0, -1]], glyph[[1, -2]])
        steps = self.shades - 1
        shaded: Mask = np.rint(np.rint(glyph / 255 * steps) / steps * 255).astype(np.uint8)
        return shaded


@functools.cache
def loaded(bold: bool, size: float) -> Any:
    """Pillow's font of so many pixels an em."""
    return ImageFont.truetype(str(FOLDER / FILES[bold]), size, layout_engine=ImageFont.Layout.BASIC)
