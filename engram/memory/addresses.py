"""The address of a row: the words that a message ends with, and the answer so far, as one 64-bit number.

It covers the tokens from a word of the input up to the token to be answered, without those of the chat template.
Leading white space of the first token does not count, so that an address is the same at the start of a message and
after other words. docs/memory.md has the definition.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engram.models.tokenizer import Encoder
from engram.support.errors import EngramError
from engram.support.files import sha256_text
from engram.support.text import common

VERSION = "multilinear-64/1"  # of the hash; tables of another version are refused
MOST_ASKED = 128  # tokens of an input
MOST_ANSWERED = 256  # tokens of an answer, with its end token
SPACES = "ĠĊĉč▁ \n\t\r"  # white space in the vocabularies of byte-level and of SentencePiece tokenizers
EMPTY = 0  # no address has this number


@dataclass(frozen=True)
class Frame:
    """The properties of a tokenizer and its chat template that addresses depend on.

    `header` are the ids between a message and its answer; `sha256` covers all fields and the vocabulary. For each id:
    `folded` int64 is the id that it counts as at the start of an address, `opens` whether it begins with white space,
    `closes` whether a word may begin after it, `special` whether it has no text.
    """

    sha256: str
    header: tuple[int, ...]
    folded: NDArray[np.int64]
    opens: NDArray[np.bool_]
    closes: NDArray[np.bool_]
    special: NDArray[np.bool_]


def frame(encoder: Encoder) -> Frame:
    """The frame of a model's tokenizer; raises EngramError if its chat template does not end messages."""
    one, other = encoder.prompt("one question"), encoder.prompt("7")
    count = common(one[::-1], other[::-1])
    if not count:
        what = "nothing in this model's chat template says where an answer begins, so a memory cannot be addressed"
        raise EngramError(what, where="MODEL", fix="take another MODEL, or METHOD=lora")
    tokenizer = encoder.tokenizer
    texts = [text or "" for text in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    special = set(tokenizer.all_special_ids)
    first: dict[str, int] = {}
    # the lowest id of the same letters
    folded = [i if i in special else first.setdefault(text.lstrip(SPACES), i) for i, text in enumerate(texts)]
    opens = [i not in special and text[:1] in SPACES for i, text in enumerate(texts)]
    closes = [i in special or text[-1:] in SPACES for i, text in enumerate(texts)]
    header, special_ids = tuple(one[len(one) - count :]), [i in special for i in range(len(texts))]
    digest = sha256_text("\0".join((VERSION, repr(header), repr(sorted(special)), *texts)))
    return Frame(digest, header, np.array(folded, np.int64), np.array(opens), np.array(closes), np.array(special_ids))


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele, Lea, Flood 2014): every bit of the result depends on every bit of a number."""
    x = numbers + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@functools.cache
def multipliers(side: int, count: int) -> NDArray[np.uint64]:
    """The odd factors of a side (0: input, 1: answer), uint64 [count]; the same on every machine."""
    return mixed(np.arange(count, dtype=np.uint64) + np.uint64(side << 32)) | np.uint64(1)


def asked(tails: NDArray[np.int64], frame: Frame) -> NDArray[np.uint64]:
    """The input's part of an address, for each number of tokens; uint64 [messages, length], column n for n + 1 tokens.

    `tails` int64 [messages, length] are the last ids of each message, the last one first. A sum of products
    (multilinear hashing, Lemire and Kaser 2014), so that all lengths cost one pass.
    """
    factors = multipliers(0, tails.shape[1])
    known = np.maximum(tails, 0)  # -1 is before the message
    terms = (known + 1).astype(np.uint64) * factors
    before = np.cumsum(terms, axis=1, dtype=np.uint64) - terms
    folded = (frame.folded[known] + 1).astype(np.uint64) * factors
    return np.asarray(before + folded + multipliers(2, tails.shape[1]))


def address(asked: NDArray[np.uint64], answered: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The addresses of input and answer parts, uint64 in the shape that they broadcast to; never EMPTY."""
    found = mixed(asked + answered)
    return np.where(found == EMPTY, np.uint64(1), found)


def answered(tokens: Sequence[int]) -> NDArray[np.uint64]:
    """The answer's part of an address: before each of its tokens, and after the last; uint64 [tokens + 1]."""
    terms = (np.array(tokens, np.int64) + 1).astype(np.uint64) * multipliers(1, len(tokens))
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
