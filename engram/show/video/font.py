"""Draw characters as masks of a cell: the bundled DejaVu Sans Mono through Pillow, lines and blocks by ourselves.

Lines and blocks are drawn to the pixel, so that boxes and bars join across cells.
"""

from __future__ import annotations

import functools
import math
import re
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


ARMS: dict[str, tuple[str, ...]] = {"LEFT": ("LEFT",), "RIGHT": ("RIGHT",), "UP": ("UP",), "DOWN": ("DOWN",)}
ARMS |= {"HORIZONTAL": ("LEFT", "RIGHT"), "VERTICAL": ("UP", "DOWN")}
LEVEL = ("LEFT", "RIGHT")
WEIGHTS = ("LIGHT", "HEAVY", "DOUBLE", "SINGLE")
SHADES = {"░": 64, "▒": 128, "▓": 191}
# the quarters of U+2596 to U+259F: upper left 1, upper right 2, lower left 4, lower right 8
QUARTERS = dict(zip("▖▗▘▙▚▛▜▝▞▟", (4, 8, 1, 13, 9, 7, 11, 2, 6, 14)))
FINE = 4  # samples along an edge of a pixel, for arcs


def mask(character: str, width: int, height: int) -> Mask | None:
    """The character as a mask of the cell in pixels, or None where the font draws it (letters, diagonals)."""
    if "▀" <= character <= "▟":
        return _block(character, width, height)
    if not "─" <= character <= "╿" or not (arms := _arms(character)):
        return None
    return _arc(arms, width, height) if " ARC " in unicodedata.name(character) else _cross(arms, width, height)


def thickness(width: int, weight: str = "LIGHT") -> int:
    """A line's width in pixels, in a cell of this width; a double line's with the gap in its middle."""
    light = max(round(width / 9), 1)
    return {"HEAVY": max(2 * light, light + 2), "DOUBLE": 3 * light}.get(weight, light)


@functools.cache
def _arms(character: str) -> dict[str, str]:
    """The weight of each arm that the character has, from its Unicode name; none for diagonals.

    `BOX DRAWINGS DOWN LIGHT AND RIGHT UP HEAVY` is {DOWN: LIGHT, RIGHT: HEAVY, UP: HEAVY}; dashes count as lines.
    """
    name = re.sub(r"(DOUBLE|TRIPLE|QUADRUPLE) DASH ", "", unicodedata.name(character).removeprefix("BOX DRAWINGS "))
    arms: dict[str, str] = {}
    weight = "LIGHT"
    for part in name.split(" AND ") if "DIAGONAL" not in name else ():
        words = part.split()
        weight = next((word for word in words if word in WEIGHTS), weight)  # one without has the weight before it
        arms.update((arm, weight) for word in words for arm in ARMS.get(word, ()))
    return arms


def _cross(arms: dict[str, str], width: int, height: int) -> Mask:
    """Arms from the middle to the edges; then the gaps of the double ones, which are open to each other."""
    import numpy as np

    drawn = np.zeros((height, width), np.uint8)
    light = thickness(width)
    for arm, weight in arms.items():
        crossing = [thickness(width, other) for one, other in arms.items() if (one in LEVEL) != (arm in LEVEL)]
        drawn[_strip(arm, width, height, thickness(width, weight), max(crossing, default=light))] = 255
    for arm in (arm for arm, weight in arms.items() if weight == "DOUBLE"):
        closed = any(other != "DOUBLE" for other in arms.values())  # by the light line that it meets
        drawn[_strip(arm, width, height, light, -light if closed else light)] = 0
    return drawn


def _strip(arm: str, width: int, height: int, thick: int, middle: int) -> tuple[slice, slice]:
    """Rows and columns of an arm `thick` pixels wide that reaches through a middle of `middle` pixels."""
    level = arm in LEVEL
    across, along = (height, width) if level else (width, height)
    side = slice((across - thick) // 2, (across - thick) // 2 + thick)
    start = (along - abs(middle)) // 2
    end = start + middle if middle > 0 else start
    way = slice(0, end) if arm in ("LEFT", "UP") else slice(start if middle > 0 else start - middle, along)
    return (side, way) if level else (way, side)


def _arc(arms: dict[str, str], width: int, height: int) -> Mask:
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
    if character in SHADES:
        drawn[:] = SHADES[character]
    elif character in QUARTERS:
        halves = (slice(0, height // 2), slice(height // 2, height)), (slice(0, width // 2), slice(width // 2, width))
        for bit in range(4):
            if QUARTERS[character] >> bit & 1:
                drawn[halves[0][bit // 2], halves[1][bit % 2]] = 255
    elif character == "▀":
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
