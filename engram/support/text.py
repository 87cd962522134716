"""Compare text as people do, and make it safe to show."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence


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


def first(lines: Sequence[str], most: int = 20) -> list[str]:
    """The first `most` lines, and a line that counts the others."""
    more = len(lines) - most
    return [*lines[:most], *([f"… and {more} more"] if more > 0 else [])]


def common(one: Sequence[object], other: Sequence[object]) -> int:
    """With how many characters, or other things, both begin alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def near_duplicates(ones: Sequence[str], others: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The indices of each pair of `ones` and `others` that differ in a character or two, case and punctuation aside.

    Near means an Indel similarity of 94 % or more: twice the longest common subsequence over the sum of the lengths.
    Pairs come in the order of `ones`, then of `others`.
    """
    import numpy as np
    from rapidfuzz import fuzz, process

    left, right = [*map(_words, ones)], [*map(_words, others)]
    step = max(_AT_ONCE // max(len(right), 1), 1)
    for start in range(0, len(left), step):
        block = left[start : start + step]
        workers = -1 if len(block) * len(right) > _FEW else 1
        scores = process.cdist(block, right, scorer=fuzz.ratio, score_cutoff=94, dtype=np.uint8, workers=workers)
        yield from ((start + int(one), int(other)) for one, other in np.argwhere(scores))


_FEW, _AT_ONCE = 1 << 14, 1 << 25  # pairs: for which one thread is quicker, and that are compared in one call


def _words(text: str) -> str:
    """The words of a text in lower case, one blank between them; the text itself where it has no words."""
    return " ".join(re.findall(r"\w+", text.casefold())) or normalise(text)


def _visible(character: str, newline: str) -> str:
    if character == "\n":
        return newline
    if character == "\t":
        return "⇥"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    return character
