"""How an answer is scored: exact match first; prefix and similarity beside it."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from engram.text import normalise

VERSION = 1  # raise it whenever a score of the same answer may change: documents of different versions don't compare


class Score(NamedTuple):
    """Exact and prefix match after white-space normalisation, and difflib's similarity from 0 to 1."""

    exact: bool
    prefix: bool
    similarity: float


def score(expected: str, answer: str) -> Score:
    """Score one answer.

    Exact: equal after Unicode NFC and white-space normalisation; case and punctuation count. Prefix: the answer
    begins with the expected one, whatever follows. Similarity: difflib's ratio, 2·matches / total length.
    """
    wanted, given = normalise(expected), normalise(answer)
    similarity = difflib.SequenceMatcher(None, wanted, given, autojunk=False).ratio()
    return Score(wanted == given, given.startswith(wanted), similarity)
