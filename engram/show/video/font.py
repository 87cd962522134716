"""Draw characters as masks of a cell, in the bundled DejaVu Sans Mono through Pillow."""

from __future__ import annotations

import functools
import math
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
FIRST_LINE, LAST_BLOCK = "─", "▟"  # drawn up to the cell's upper and lower edge, so that they join
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
            self._masks[key] = self._shaded(self._glyph(*key))
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
            draw.text((0, self.baseline), character, fill=255, font=loaded(bold, self.size), anchor="ls")
        if not known and text.strip():
            inset = max(self.width // 6, 1)
            draw.rectangle((inset, 2 * inset, cells * self.width - inset - 1, self.baseline), outline=255)
        if italic:
            shear = (1, SLANT, -SLANT * self.baseline, 0, 1, 0)
            image = image.transform(image.size, Image.Transform.AFFINE, shear, Image.Resampling.BICUBIC)
        glyph = np.array(image)
        if len(text) == 1 and FIRST_LINE <= text <= LAST_BLOCK:
            glyph[[0, -1]] = np.maximum(glyph[[0, -1]], glyph[[1, -2]])
        return glyph


@functools.cache
def loaded(bold: bool, size: float) -> Any:
    """Pillow's font of so many pixels an em."""
    from PIL import ImageFont

    return ImageFont.truetype(str(FOLDER / FILES[bold]), size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _has(character: str, bold: bool) -> bool:
    """Whether the font has the character: what it lacks, it draws as it draws U+FFFF, which is none."""
    font = loaded(bold, 20.0)
    return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


def thickness(width: int) -> int:
    """A line's width in pixels, in a cell of this width."""
    return max(round(width / 9), 1)
