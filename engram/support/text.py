"""Text as people compare it and as a screen may show it."""

from __future__ import annotations

import difflib
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable


def normalise(text: str) -> str:
    """NFC, every run of white space one blank, none at the ends: how inputs and answers are compared."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def visible(text: str, *, newline: str = "⏎") -> str:
    """The text with everything that could drive a terminal made visible.

    Control characters (C0, C1, DEL), bidirectional overrides and other format characters, lone surrogates
    and private-use characters become `\\xNN` or `\\uNNNN`; a line break becomes `newline`.
    """
    if text.isprintable():
        return text
    return "".join(_visible(character, newline) for character in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` with the nearest known word, or nothing where none is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {matches[0]!r}?" if matches else ""


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, the last an ellipsis where something was cut."""
    return text if len(text) <= limit else text[: max(limit - 1, 0)] + "…"


def common(one: str, other: str) -> int:
    """With how many characters both texts begin alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def near_duplicate(one: str, other: str) -> bool:
    """Whether two texts say the same but for a character or two: difflib ratio ≥ 0.94, case and punctuation aside."""
    a, b = folded(one), folded(other)
    enough = 0.94 * (len(a) + len(b)) / 2  # matching characters; first what is quick to count rules most pairs out
    if min(len(a), len(b)) < enough or sum((_letters(a) & _letters(b)).values()) < enough:
        return False
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() >= 0.94


@functools.lru_cache(maxsize=65536)
def folded(text: str) -> str:
    """The words of a text in lower case, one blank between them; the text itself where it has no words."""
    return " ".join(re.findall(r"\w+", text.casefold())) or normalise(text)


@functools.lru_cache(maxsize=65536)
def _letters(text: str) -> Counter[str]:
    return Counter(text)


def _visible(character: str, newline: str) -> str:
    if character == "\n":
        return newline
    if character == "\t":
        return "⇥"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    return character
