"""Compare text as people do, and make it safe to show."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

JOINERS = "\u200c\u200d"  # ZWNJ and ZWJ: part of Persian and Indian words, and of emoji
_FEW, _AT_ONCE = 1 << 14, 1 << 25  # pairs: for which one thread is quicker, and that are compared in one call


def normalise(text: str) -> str:
    """NFC, every run of white space one blank, none at the ends: how inputs and answers are compared."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def comparable(text: str, expected: str) -> str:
    """The text as answers are compared: normalised, but where `expected` has several lines, with its line breaks and
    indentation; white space at the ends of lines, and blank lines around, still don't count."""
    if "\n" not in expected.strip():
        return normalise(text)
    return "\n".join(line.rstrip() for line in unicodedata.normalize("NFC", text).splitlines()).strip("\n")


def visible(text: str, *, newline: str = "⏎") -> str:
    """The text with everything that could drive a terminal made visible.

    Control characters (C0, C1, DEL), bidirectional overrides and other format characters, lone surrogates
    and private-use characters become `\\xNN` or `\\uNNNN`; a line break becomes `newline`. A joiner inside a word or
    an emoji is shown as it is.
    """
    if text.isprintable():
        return text
    signs = {"\n": newline, "\t": "⇥"}
    return "".join(one if _joins(text, i) else signs.get(one) or _visible(one) for i, one in enumerate(text))


def _joins(text: str, at: int) -> bool:
    """Whether there is a joiner at this place, between two letters or emoji, with their marks and modifiers."""
    if text[at] not in JOINERS:
        return False
    around = [unicodedata.category(one)[0] for one in (text[at - 1 : at], text[at + 1 : at + 2]) if one]
    return len(around) == 2 and all(one in "LMS" for one in around)


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


def end_of(text: str) -> tuple[int, int]:
    """The line and the column, both from 1, that follow a text."""
    return text.count("\n") + 1, len(text) - text.rfind("\n")


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


def twins(ones: Sequence[tuple[str, str]], others: Sequence[tuple[str, str]]) -> Iterator[tuple[int, int]]:
    """The indices of each pair of `ones` and `others`, inputs with their answers, that are near and answered alike."""
    asked: defaultdict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, pairs in enumerate((ones, others)):
        for index, (_, answer) in enumerate(pairs):
            asked[normalise(answer)][side].append(index)
    for mine, theirs in asked.values():
        for i, j in near_duplicates([ones[i][0] for i in mine], [others[j][0] for j in theirs]) if theirs else ():
            yield mine[i], theirs[j]


def _words(text: str) -> str:
    """The words of a text in lower case, one blank between them; the text itself where it has no words."""
    return " ".join(re.findall(r"\w+", text.casefold())) or normalise(text)


def _visible(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    return character


def filled(template: Path, **values: Any) -> str:
    """A text file of ours written from its Jinja template; a name that the template lacks a value for is an error."""
    from jinja2 import Environment, StrictUndefined

    made = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    return made.from_string(template.read_text("utf-8")).render(values)
