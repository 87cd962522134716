"""Draw characters as masks of a cell, in the bundled DejaVu Sans Mono through Pillow.

Light lines and blocks are drawn here, to the pixel, so that boxes and bars join across cells.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from typing import TYPE_CHECKING, Any

from engram.support.files import BUNDLED

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Mask = NDArray[numpy.uint8]  # height × width, 0 none to 255 all of the text's colour

FOLDER = BUNDLED / "fonts"
FILES = {False: "DejaVuSansMono.ttf", True: "DejaVuSansMono-Bold.ttf"}
ADVANCE = 1233 / 2048  # of every glyph, in ems
ASCENT, DESCENT = 1901 / 2048, 483 / 2048
SLANT = 0.2  # of italics, for which there is no font


def height(width: int) -> int:
    """The height of a cell of this width: the font's own, so that nothing is cut off."""
    return math.ceil(width / ADVANCE * (ASCENT + DESCENT))


class Font:
    """The characters of one cell size in pixels, in so many shades from none to all; masks are kept."""

    def __init__(self, width: int, shades: int = 256) -> None:
        self.width, self.height, self.shades = width, height(width), shades
        self.size = width / ADVANCE  # pixels an em; a fraction, so that the advance is the cell's width
        self.baseline = round(ASCENT * self.size)
        self._masks: dict[tuple[str, int, bool, bool], Mask] = {}

    def mask(self, text: str, cells: int = 1, *, bold: bool = False, italic: bool = False) -> Mask:
        """The text of one place (a character with what is combined with it) as a mask of `cells` cells."""
        key = (text, cells, bold, italic)
        if key not in self._masks:
            drawn = mask(text, self.width, self.height) if len(text) == 1 and cells == 1 else None
            self._masks[key] = self._shaded(self._glyph(*key) if drawn is None else drawn)
        return self._masks[key]

    def _shaded(self, mask: Mask) -> Mask:
        import numpy as np

        steps = self.shades - 1
        rounded: Mask = np.rint(np.rint(mask / 255 * steps) / steps * 255).astype(np.uint8)
        return rounded

    def _glyph(self, text: str, cells: int, bold: bool, italic: bool) -> Mask:
        import numpy as np
        from PIL import Image, ImageDraw

        image = Image.new("L", (cells * self.width, self.height))
        draw = ImageDraw.Draw(image)
        known = [character for character in text if _has(character, bold)]
        for character in known:  # one over the other: what combines has its place within the glyph
            draw.text((0, self.baseline), character, fill=255, font=_loaded(bold, self.size), anchor="ls")
        if not known and text.strip():
            inset = max(self.width // 6, 1)
            draw.rectangle((inset, 2 * inset, cells * self.width - inset - 1, self.baseline), outline=255)
        if italic:
            shear = (1, SLANT, -SLANT * self.baseline, 0, 1, 0)
            image = image.transform(image.size, Image.Transform.AFFINE, shear, Image.Resampling.BICUBIC)
        return np.asarray(image)


@functools.cache
def _loaded(bold: bool, size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(str(FOLDER / FILES[bold]), size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _has(character: str, bold: bool) -> bool:
    """Whether the font has the character: what it lacks, it draws as it draws U+FFFF, which is none."""
    font = _loaded(bold, 20.0)
    return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


ARMS: dict[str, tuple[str, ...]] = {arm: (arm,) for arm in ("LEFT", "RIGHT", "UP", "DOWN")}
ARMS |= {"HORIZONTAL": ("LEFT", "RIGHT"), "VERTICAL": ("UP", "DOWN")}
OTHER_LINES = ("HEAVY", "DOUBLE", "DASH", "DIAGONAL")
FINE = 4  # samples along an edge of a pixel, for arcs


def mask(character: str, width: int, height: int) -> Mask | None:
    """The character as a mask of the cell in pixels; None if the font draws it: all but light lines and blocks."""
    if "▀" <= character <= "▐" or character in "▔▕":
        return _block(character, width, height)
    if not (arms := _arms(character)):
        return None
    return _arc(arms, width, height) if "ARC" in unicodedata.name(character) else _cross(arms, width, height)


def thickness(width: int) -> int:
    """A line's width in pixels, in a cell of this width."""
    return max(round(width / 9), 1)


@functools.cache
def _arms(character: str) -> frozenset[str]:
    """The arms of a light line, from its Unicode name: `BOX DRAWINGS LIGHT DOWN AND RIGHT` has DOWN and RIGHT."""
    words = unicodedata.name(character, "").split()
    if words[:3] != ["BOX", "DRAWINGS", "LIGHT"] or any(word in OTHER_LINES for word in words):
        return frozenset()
    return frozenset(arm for word in words for arm in ARMS.get(word, ()))


def _cross(arms: frozenset[str], width: int, height: int) -> Mask:
    """Arms from the middle to the edges."""
    import numpy as np

    drawn = np.zeros((height, width), np.uint8)
    thick = thickness(width)
    left, top = (width - thick) // 2, (height - thick) // 2
    for arm in arms:
        rows = {"UP": slice(0, top + thick), "DOWN": slice(top, height)}.get(arm, slice(top, top + thick))
        columns = {"LEFT": slice(0, left + thick), "RIGHT": slice(left, width)}.get(arm, slice(left, left + thick))
        drawn[rows, columns] = 255
    return drawn


def _arc(arms: frozenset[str], width: int, height: int) -> Mask:
    """A rounded corner: a quarter circle, and straight lines from its ends to the cell's edges."""
    import numpy as np

    thick = thickness(width)
    left, top = (width - thick) // 2, (height - thick) // 2  # where the straight lines of other cells begin
    radius = min(left, width - left - thick) + thick / 2 - 1  # of the line's middle; at the cell's edge it is straight
    right, down = (1 if "RIGHT" in arms else -1), (1 if "DOWN" in arms else -1)
    y, x = (np.indices((height * FINE, width * FINE)) + 0.5) / FINE
    x, y = (x - left - thick / 2) * right, (y - top - thick / 2) * down  # as if it were ╭, from the middle
    bend = (np.abs(np.hypot(x - radius, y - radius) - radius) <= thick / 2) & (x <= radius) & (y <= radius)
    straight = (y > radius) & (np.abs(x) <= thick / 2) | (x > radius) & (np.abs(y) <= thick / 2)
    fine = (bend | straight).reshape(height, FINE, width, FINE)
    drawn: Mask = np.rint(255 * fine.mean(axis=(1, 3))).astype(np.uint8)
    return drawn


def _block(character: str, width: int, height: int) -> Mask:
    import numpy as np

    drawn = np.zeros((height, width), np.uint8)
    number = ord(character)
    if character == "▀":
        drawn[: height // 2] = 255
    elif number <= 0x2588:  # lower eighths, up to the full block
        drawn[height - round(height * (number - 0x2580) / 8) :] = 255
    elif number <= 0x258F:  # left seven eighths down to one
        drawn[:, : round(width * (0x2590 - number) / 8)] = 255
    elif character == "▐":
        drawn[:, width // 2 :] = 255
    elif character == "▔":
        drawn[: round(height / 8)] = 255
    else:  # ▕
        drawn[:, width - round(width / 8) :] = 255
    return drawn
