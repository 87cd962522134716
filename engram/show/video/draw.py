"""Screens as pictures: a window with a title for each, on a dark desk, in the bundled DejaVu Sans Mono."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

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
CORNER, FINE = 10, 4  # pixels of a window's rounded corners, and samples along a pixel's edge
GAP = 0.0165  # between windows and around them, of the picture's width
FOLDER = BUNDLED / "fonts"
FILES = {False: "DejaVuSansMono.ttf", True: "DejaVuSansMono-Bold.ttf"}
ADVANCE = 1233 / 2048  # of every glyph, in ems
ASCENT, DESCENT = 1901 / 2048, 483 / 2048
FIRST_LINE, LAST_BLOCK = "─", "▟"  # drawn up to the cell's upper and lower edge, so that they join


@dataclass(frozen=True)
class Window:
    """One terminal in the picture: its place, its cells' size, and its title; in pixels."""

    left: int
    top: int
    columns: int
    lines: int
    cell: tuple[int, int]
    title: str

    @property
    def padding(self) -> int:
        """Between the window's edge and the text."""
        return round(1.4 * self.cell[0])

    @property
    def bar(self) -> int:
        """The height of the title bar."""
        return round(1.35 * self.cell[1])

    def place(self, x: int, y: int) -> tuple[int, int]:
        """The left and upper edge of a cell in the picture."""
        return self.left + self.padding + x * self.cell[0], self.top + self.bar + self.padding + y * self.cell[1]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height with bar and padding."""
        width, height = self.columns * self.cell[0], self.lines * self.cell[1]
        return width + 2 * self.padding, height + 2 * self.padding + self.bar


@dataclass(frozen=True)
class Scene:
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
    room = width - (len(casts) + 1) * gap, height - 2 * gap
    for cell_width in range(width, SMALLEST - 1, -1):
        cell = cell_width, cell_height(cell_width)
        windows = [Window(0, 0, cast.width, cast.height, cell, cast.title) for cast in casts]
        wide, high = sum(window.size[0] for window in windows), max(window.size[1] for window in windows)
        if wide <= room[0] and high <= room[1]:
            break
    else:
        sizes = " and ".join(f"{cast.width}×{cast.height}" for cast in casts)
        what = f"a terminal of {sizes} does not fit into {width}×{height} pixels"
        raise EngramError(what, fix="record it smaller: --width 100")
    if trim:
        height = 2 * math.ceil((high + 2 * gap) / 2)
    left = (width - wide - (len(windows) - 1) * gap) // 2
    placed = []
    for window in windows:
        placed.append(replace(window, left=left, top=(height - window.size[1]) // 2))
        left += window.size[0] + gap
    return Scene(width, height, tuple(placed))


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
                left, top = window.place(x, y)
                self.picture[top : top + height, left : left + cells * width] = self._tile(cell, cells)

    def _tile(self, cell: Cell, cells: int) -> Picture:
        if (cell, cells) not in self._tiles:
            mask = self._font.mask(cell.text or " ", cells, cell.bold)
            share = mask.astype(np.int32)[..., None]  # of the text's colour, the rest is the background's
            mixed = share * np.asarray(cell.colour) + (255 - share) * np.asarray(cell.background)
            self._tiles[cell, cells] = ((mixed + 127) // 255).astype(np.uint8)
        return self._tiles[cell, cells]


def _desk(scene: Scene) -> Picture:
    """The picture without any text but the titles; the windows' corners are rounded."""
    image = Image.new("RGB", (scene.width, scene.height), theme.DESK)
    for window in scene.windows:
        width, height = window.size
        outline = Image.new("L", (width * FINE, height * FINE))
        edges = (0, 0, outline.width - 1, outline.height - 1)
        ImageDraw.Draw(outline).rounded_rectangle(edges, CORNER * FINE, fill=255)
        image.paste(_frame(window), (window.left, window.top), outline.resize(window.size, Image.Resampling.BOX))
    return np.array(image)


def _frame(window: Window) -> Any:
    """A window without text: its title bar with three quiet dots and the title."""
    (width, _), cell_width, middle = window.size, window.cell[0], window.bar // 2
    image = Image.new("RGB", window.size, theme.BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width, window.bar - 1), fill=theme.BAR)
    draw.line((0, window.bar, width, window.bar), fill=theme.EDGE)
    radius = max(round(0.16 * window.bar), 2)
    for place in range(3):
        draw.circle((window.padding + radius + place * round(3.4 * radius), middle), radius, fill=theme.EDGE)
    title = visible(shorten(window.title, width // cell_width - 16))
    font = loaded(False, Font(cell_width).size)
    draw.text((width // 2, middle), title, fill=theme.TITLE, font=font, anchor="mm")
    return image


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
        known = [character for character in text if _has(character, bold)]
        for character in known:  # one over the other: what combines has its place within the glyph
            draw.text((0, self.baseline), character, fill=255, font=loaded(bold, self.size), anchor="ls")
        if not known and text.strip():
            inset = max(self.width // 6, 1)
            draw.rectangle((inset, 2 * inset, cells * self.width - inset - 1, self.baseline), outline=255)
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


@functools.cache
def _has(character: str, bold: bool) -> bool:
    """Whether the font has the character: what it lacks, it draws as it draws U+FFFF, which is none."""
    font = loaded(bold, 20.0)
    return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))
