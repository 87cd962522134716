"""Which of llama.cpp's named ways to split text before BPE is a tokenizer's own: found by what it does.

A GGUF file names the split, it cannot hold it. Each candidate is put into the model's own tokenizer, and the ids are
compared over the prompts of the test set and over a text of hard cases.
"""

# ruff: noqa: E501 - the hard cases stand in rows of one kind

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engram.support.errors import EngramError
from engram.support.files import read_bytes

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _bytes(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


# llama.cpp's names, the common ones first, and the same split in the words of tokenizer.json
CANDIDATES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "gpt-2": [_bytes(True)],
    "smollm": [_split(r"\p{N}"), _bytes(True)],
    "qwen2": [_split(_CONTRACTIONS + _WORDS + r"\p{N}" + _REST), _bytes(False)],
    "llama-bpe": [_split(_CONTRACTIONS + _WORDS + r"\p{N}{1,3}" + _REST), _bytes(False)],
    "ufakzeka": [_split(_WORDS + r"\p{N}" + _REST), _bytes(False)],
}
WHOLE_WORDS = "llama-bpe"  # llama.cpp takes a word that is a token as it is, with this split alone

# what splits differ in: contractions, numbers, blanks, line ends, scripts, marks, symbols
HARD_CASES = (
    *("it's", "IT'S", "we'll we've we're I'm he'd don't", "o'reilly", "'static' x'static'", "rock'n'roll d'accord"),
    *("7", "42", "1234567", "3.14159", "a1b2c3", " 42", "  42", "x  1", "1  2", "20 %", "$1,234.56", "0x1F", "１２３", "½"),
    *(" a", "  a", "   a", "a ", "a  ", "a   b", "\ta", "\t\ta", " \t a", "a\u00a0b", "a\u3000b", " ", "    "),
    *("a\nb", "a\n\nb", "a\n\n\nb", "a \n b", "a\n  b", "a\n    b\n", "\n", "\n\n", "a\r\nb", "a:\n\nb", "a\n \nb"),
    *("def f(x):\n    return x[0] + 1\n", "for i in range(10):\n\tprint(i)", "x += 1; y -= 2", "a->b::c", "!= <= >= =="),
    *("snake_case camelCase PascalCase SCREAMING_CASE", "/usr/local/bin:$PATH", "user@example.com", "(((a)))", "....!?"),
    *("café naïve", "cafe\u0301", "Straße", "Привет, мир", "Ελληνικά", "שלום", "مرحبا", "नमस्ते", "สวัสดี", "日本語の文", "漢字1字", "한국어"),
    *("😀", "👍🏽 ok", "👩‍👩‍👧", "❤️", "—“”…", "→∑≠", "\u200bx", "\ufeffx", "a\u0000b", "<|im_start|>user\nhi<|im_end|>", "<|im_end"),
)  # fmt: skip


class Found(NamedTuple):
    """The nearest candidate, how many hard cases there are, and those that it splits otherwise."""

    name: str
    texts: int
    differing: tuple[str, ...]


def identify(folder: Path, prompts: Sequence[str]) -> Found:
    """The candidate that gives the same ids as the tokenizer in `folder` for every prompt and the most hard cases.

    Of equal ones the first. Raises EngramError where no candidate agrees on every
    prompt, and on nine in ten of the hard cases.
    """
    from tokenizers import Tokenizer

    own = json.loads(read_bytes(folder / "tokenizer.json"))
    right = Tokenizer.from_str(json.dumps(own))
    wanted = {text: _ids(right, text) for text in (*prompts, *HARD_CASES)}
    best: Found | None = None
    for name in CANDIDATES:
        other = Tokenizer.from_str(json.dumps(_with(own, name)))
        if any(_ids(other, text) != wanted[text] for text in prompts):
            continue
        differing = tuple(text for text in HARD_CASES if _ids(other, text) != wanted[text])
        if best is None or len(differing) < len(best.differing):
            best = Found(name, len(HARD_CASES), differing)
    if best is None or len(best.differing) > len(HARD_CASES) // 10:
        raise EngramError(
            f"pre-tokenizer: none that is known here ({', '.join(CANDIDATES)}) splits text as this model does",
            where="--format gguf",
            fix="export another format: fused, peft or mlx",
        )
    return best


def _with(own: Mapping[str, Any], name: str) -> dict[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(dict(own))
    changed["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": list(CANDIDATES[name])}
    changed["normalizer"] = None  # llama.cpp has none
    changed["model"]["ignore_merges"] = name == WHOLE_WORDS
    return changed


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)
