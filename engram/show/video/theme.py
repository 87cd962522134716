"""The recordings' colours: a calm dark terminal, every text colour at a contrast of 4.5 or more (WCAG 2.2, 1.4.3)."""

from __future__ import annotations

import functools

Colour = tuple[int, int, int]

DESK: Colour = (0x0B, 0x0E, 0x14)  # around the window
BAR: Colour = (0x1F, 0x25, 0x30)  # the window's title bar
EDGE: Colour = (0x2C, 0x34, 0x42)
BACKGROUND: Colour = (0x14, 0x19, 0x21)
FOREGROUND: Colour = (0xD6, 0xDD, 0xE6)
TITLE: Colour = (0xA9, 0xB4, 0xC2)
CONTRAST = 4.5

NAMES = ("black", "red", "green", "brown", "blue", "magenta", "cyan", "white")  # as pyte calls them
DARK = ("8b95a5", "f47a83", "8fce7e", "e3b866", "79aef5", "cf9bf0", "62cbd3", "cdd5df")
BRIGHT = ("9aa5b5", "ff949b", "a8e295", "f2cd83", "98c3ff", "ddb4ff", "84e0e6", "f2f5f9")


def rgb(code: str) -> Colour:
    """`'ff8800'` as three bytes."""
    return int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)


PALETTE = {name: rgb(code) for name, code in zip(NAMES, DARK)}
PALETTE |= {f"bright{name}": rgb(code) for name, code in zip(NAMES, BRIGHT)}
PALETTE["bfightmagenta"] = PALETTE["brightmagenta"]  # so spelt in pyte 0.8.2


def colour(name: str, default: Colour) -> Colour:
    """A colour as pyte names it: `default`, `red`, `brightred`, or six hexadecimal digits."""
    return default if name == "default" else PALETTE.get(name) or rgb(name)


@functools.cache
def faint(text: Colour, background: Colour) -> Colour:
    """The colour moved towards the background as far as the contrast allows."""
    for share in (0.60, 0.68, 0.76, 0.84, 0.92):
        red, green, blue = (round(share * a + (1 - share) * b) for a, b in zip(text, background))
        if contrast((red, green, blue), background) >= CONTRAST:
            return red, green, blue
    return text


def contrast(one: Colour, other: Colour) -> float:
    """WCAG's contrast ratio of two sRGB colours, from 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def asciicast() -> dict[str, str]:
    """The colours as an asciicast header's `theme`."""
    palette = ":".join(f"#{code}" for code in DARK + BRIGHT)
    return {"fg": "#" + bytes(FOREGROUND).hex(), "bg": "#" + bytes(BACKGROUND).hex(), "palette": palette}


def _luminance(colour: Colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
