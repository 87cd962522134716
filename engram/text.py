"""Text as people compare it and as a screen may show it."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


def normalise(text: str) -> str:
    """NFC, every run of white space one blank, none at the ends: how inputs and answers are compared."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def visible(text: str, *, newline: str = "⏎") -> str:
    """The text with everything that could drive a terminal made visible.

    Control characters (C0, C1, DEL), bidirectional overrides and other format characters, lone surrogates
    and private-use characters become `\\xNN` or `\\uNNNN`; a line break becomes `newline`.
    """
    return "".join(_visible(character, newline) for character in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` with the nearest known word, or nothing where none is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {matches[0]!r}?" if matches else ""


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, the last an ellipsis where something was cut."""
    return text if len(text) <= limit else text[: max(limit - 1, 0)] + "…"


def _visible(character: str, newline: str) -> str:
    if character == "\n":
        return newline
    if character == "\t":
        return "⇥"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    return character
