"""Texts of one length as a table: a row each, a column for each place; NumPy looks things up in it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engram.support.text import folded

Codes = NDArray[np.uint16]
Bits = NDArray[np.uint64]
Numbers = NDArray[np.int64]

_STEP = 1 << 21  # characters, and pairs, that are looked at in one step
_SAMPLE = 1000  # texts that say where the texts of one length differ
_MIX = np.uint64(0x9E3779B97F4A7C15)
_FLAGS: Bits = np.uint64(1) << (np.arange(1 << 16, dtype=np.uint64) * _MIX >> np.uint64(58))


class Part(NamedTuple):
    """A part of all texts of one length: its columns, its hashes in order, and which text has each."""

    first: int
    last: int
    hashes: Bits
    owners: NDArray[np.int32]


class Table(NamedTuple):
    """Texts of one length: a row of codes each, their indices, and two sets of flags."""

    codes: Codes
    indices: Numbers
    letters: Bits
    couples: Bits


def tables(texts: Sequence[str]) -> Iterator[tuple[int, Table]]:
    """The texts of each length, folded."""
    sizes: defaultdict[int, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        sizes[len(folded(text))].append(index)
    for size, indices in sizes.items():
        codes = np.empty((len(indices), size), np.uint16)
        letters, couples = np.zeros((2, len(indices)), np.uint64)
        step = _STEP // (size + 1) + 1
        for first in range(0, len(indices), step):
            rows = slice(first, first + step)
            codes[rows] = _codes([folded(texts[i]) for i in indices[rows]], size)
            letters[rows] = np.bitwise_xor.reduce(_FLAGS[codes[rows]], axis=1, initial=0)
            couple = codes[rows, 1:] * np.uint16(31) + codes[rows, :-1]
            couples[rows] = np.bitwise_xor.reduce(_FLAGS[couple], axis=1, initial=0)
        yield size, Table(codes, np.array(indices, np.int64), letters, couples)


def _codes(texts: list[str], size: int) -> Codes:
    """A number for each character; two characters may have one, which only makes a candidate more."""
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    return (points ^ points >> 16).astype(np.uint16).reshape(len(texts), size)


def hashes_of(codes: Codes) -> Bits:
    """A hash of each row."""
    hashes = np.zeros(len(codes), np.uint64)
    for column in codes.T:
        hashes = (hashes ^ column) * _MIX
    return hashes


def cut(codes: Codes, count: int) -> list[Part]:
    """The rows cut into `count` parts, at columns that let each part tell them apart about equally well."""
    parts = []
    for first, last in _cuts(codes[:: len(codes) // _SAMPLE + 1], count):
        hashes = hashes_of(codes[:, first:last])
        order = np.argsort(hashes, kind="stable")
        parts.append(Part(first, last, hashes[order], order.astype(np.int32)))
    return parts


def _cuts(sample: Codes, count: int) -> Iterator[tuple[int, int]]:
    """Columns in `count` parts that hold about as much of what tells the sample's rows apart, none of them empty."""
    size = sample.shape[1]
    told = np.cumsum([0.01 + _told(column) for column in sample.T])
    first = 0
    for number in range(1, count + 1):
        last = int(np.searchsorted(told, told[-1] * number / count)) + 1 if size else 0
        last = size if number == count else min(max(last, first + 1), size - (count - number))
        yield first, last
        first = last


def _told(column: Codes) -> float:
    """How many bits a column tells: the logarithm of how seldom two rows have the same there."""
    counts = np.unique(column, return_counts=True)[1]
    return -math.log2(float((counts / len(column)) @ (counts / len(column))))


def matches(part: Part, hashes: Bits) -> Iterator[tuple[NDArray[np.integer], Numbers]]:
    """Rows whose part has a hash of `hashes`, and where that stands there; not all at once."""
    if not len(part.hashes):
        return
    first = np.searchsorted(part.hashes, hashes)
    hits = np.flatnonzero(part.hashes[np.minimum(first, len(part.hashes) - 1)] == hashes)
    first = first[hits]
    count = np.searchsorted(part.hashes, hashes[hits], "right") - first
    total = np.cumsum(count)
    begin = 0
    while begin < len(hits):
        done = int(total[begin - 1]) if begin else 0
        end = max(int(np.searchsorted(total, done + _STEP, "right")), begin + 1)
        counts = count[begin:end]
        others = np.repeat(hits[begin:end], counts)
        within = np.arange(len(others)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield part.owners[np.repeat(first[begin:end], counts) + within], others
        begin = end


def alike(own: Table, ones: NDArray[np.integer], found: Table, others: Numbers, most: int) -> NDArray[np.bool_]:
    """Which pairs may be near: a character too many changes one letter's flag, and those of three couples at most."""
    letters = _count(own.letters[ones] ^ found.letters[others]) <= most
    return letters & (_count(own.couples[ones] ^ found.couples[others]) <= 3 * most)


def _count(flags: Bits) -> NDArray[np.integer]:
    """How many flags are set in each."""
    if hasattr(np, "bitwise_count"):
        counts: NDArray[np.integer] = np.bitwise_count(flags)
        return counts
    bits: NDArray[np.integer] = np.unpackbits(flags.view(np.uint8)).reshape(-1, 64).sum(axis=1)  # NumPy 1
    return bits
