"""Which of many texts are near duplicates of others: as `near_duplicate` of every pair, without looking at every pair.

Two near duplicates of n and m characters (case and punctuation aside) leave at most d = 0.06 (n + m) characters
unmatched. So of any d + 1 parts into which the one is cut, one at least stands unchanged in the other, moved by no more
than d characters (pass-join: Li et al., PVLDB 5, 2011). Hashes of such parts give the candidates; bits that each
unmatched character changes, and the longest common subsequence, rule out most; `near_duplicate` has the last word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, reduce
from operator import xor

import numpy as np

from engram.support.columns import Part, Table, alike, cut, hashes_of, matches, tables
from engram.support.text import folded, near_duplicate

FEW = 1 << 14  # pairs up to which each is looked at: the tables of a `Near` take as long as these
ROOM = 48 << 20  # bytes that the parts of one block of texts may take, about
_BATCH = 1 << 21  # characters, and pairs, that are looked at in one step


def unmatched(n: int, m: int) -> int:
    """How many characters two near duplicates of n and m characters leave unmatched at most; below 0 where none are."""
    most = 6 * (n + m) // 100  # of a ratio of 0.94
    most -= (most + n + m) % 2  # matching takes two away at a time
    return most if most >= abs(n - m) else -1


def pairs(ones: Sequence[str], others: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The indices of each two of `ones` and `others` that are near duplicates, in any order; a pair may come again."""
    if len(ones) * len(others) <= FEW:
        known = [*others]  # made once
        yield from ((i, j) for i, one in enumerate(ones) for j, other in enumerate(known) if _near(one, other))
        return
    for block in _blocks(ones, range(len(ones))):
        near = Near([ones[i] for i in block])
        for start, batch in _batches(others):
            yield from ((block[index], start + other) for index, other in near.among(batch))


def reached(ones: Sequence[str], others: Sequence[str]) -> set[int]:
    """The indices of those of `ones` that are near duplicates of one of `others`, or of one that is, and so on."""
    if len(ones) * (len(ones) + len(others)) <= FEW:
        return _reached_of_few([*ones], [*others])
    found: set[int] = set()
    while len(others):
        fresh: list[int] = []
        blocks = 0
        for block in _blocks(ones, (i for i in range(len(ones)) if i not in found)):
            fresh += [block[index] for index in Near([ones[i] for i in block]).reached(others)]
            blocks += 1
        found.update(fresh)
        others = [ones[i] for i in fresh] if blocks > 1 else []  # one block reaches all of its own
    return found


def _reached_of_few(ones: list[str], others: list[str]) -> set[int]:
    found: set[int] = set()
    while others:
        other = others.pop()
        fresh = [i for i, one in enumerate(ones) if i not in found and _near(one, other)]
        others += [ones[i] for i in fresh]
        found.update(fresh)
    return found


def _blocks(texts: Sequence[str], numbers: Iterable[int]) -> Iterator[list[int]]:
    """Numbers of texts, in blocks whose `Near` has room in memory."""
    block: list[int] = []
    taken = 0
    for number in numbers:
        size = len(folded(texts[number]))
        most = unmatched(size, size) + 2
        need = 150 + 3 * size + 12 * most * (most // 8 + 3)  # its parts, of each number of parts that it is cut into
        if block and taken + need > ROOM:
            yield block
            block, taken = [], 0
        block.append(number)
        taken += need
    if block:
        yield block


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Texts in batches, each with the index of its first; small ones first, which may leave less to look for."""
    start, most = 0, 512
    while start < len(texts):
        batch: list[str] = []
        size = 0
        while start + len(batch) < len(texts) and len(batch) < most and size < _BATCH:
            batch.append(texts[start + len(batch)])
            size += len(batch[-1])
        yield start, batch
        start, most = start + len(batch), min(most * 4, 1 << 16)


class Near:
    """Texts that others may be near duplicates of.

    `texts[i]` is asked for again where a pair must be confirmed; what is kept of each is two bytes a character and
    the hashes of its parts.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._wanted = np.ones(len(texts), bool)
        self._sizes = dict(tables(texts))
        self._parts: dict[tuple[int, int], list[Part]] = {}
        self.confirmed = 0  # pairs that were looked at one by one

    def drop(self, index: int) -> None:
        """Look for no more near duplicates of this text."""
        self._wanted[index] = False

    def reached(self, others: Sequence[str]) -> list[int]:
        """The indices of the texts that are near duplicates of one of `others`, or of one that is, and so on."""
        found: list[int] = []
        for _, batch in _batches(others):
            found += self._taken(batch)
        done = 0
        while done < len(found):
            batch, done = [self._texts[index] for index in found[done:]], len(found)
            found += self._taken(batch)
        return found

    def _taken(self, others: list[str]) -> Iterator[int]:
        for index, _ in self.among(others):
            self.drop(index)
            yield index

    def among(self, others: Sequence[str]) -> Iterator[tuple[int, int]]:
        """The indices of each text and each of `others` that are near duplicates; a pair may come again."""
        if len(self._texts) * len(others) <= FEW:
            pairs: Iterable[tuple[int, int]] = ((i, j) for i in range(len(self._texts)) for j in range(len(others)))
        else:
            pairs = self._candidates(others)
        for index, other in pairs:
            if self._wanted[index]:
                self.confirmed += 1
                if _near(self._texts[index], others[other]):
                    yield index, other

    def _candidates(self, others: Sequence[str]) -> Iterator[tuple[int, int]]:
        for size, found in tables(others):
            for own_size, own in self._sizes.items():
                if (most := unmatched(own_size, size)) >= 0 and self._wanted[own.indices].any():
                    yield from self._pairs(own, found, most)

    def _pairs(self, own: Table, found: Table, most: int) -> Iterator[tuple[int, int]]:
        seen: set[tuple[int, int]] = set()
        size, more = own.codes.shape[1], found.codes.shape[1] - own.codes.shape[1]
        for part in self._cut(size, most):
            for shift in range(-((most - more) // 2), (most + more) // 2 + 1):
                if part.first + shift >= 0 and part.last + shift <= size + more:
                    hashes = hashes_of(found.codes[:, part.first + shift : part.last + shift])
                    for ones, others in matches(part, hashes):
                        wanted = self._wanted[own.indices[ones]]
                        ones, others = ones[wanted], others[wanted]
                        near = alike(own, ones, found, others, most)
                        pairs = zip(own.indices[ones[near]].tolist(), found.indices[others[near]].tolist())
                        fresh = [pair for pair in pairs if pair not in seen]
                        seen = seen if len(seen) < _BATCH // 8 else set()
                        seen.update(fresh)
                        yield from fresh

    def _cut(self, size: int, most: int) -> list[Part]:
        if (size, most) not in self._parts:
            self._parts[size, most] = cut(self._sizes[size].codes, most + 1)
        return self._parts[size, most]


def _near(one: str, other: str) -> bool:
    """`near_duplicate`, which costs most and is asked last; a character too many changes one flag."""
    a, b = folded(one), folded(other)
    most = unmatched(len(a), len(b))
    if most < 0 or (_flags(a) ^ _flags(b)).bit_count() > most:
        return False
    return 2 * _common(a, b) >= len(a) + len(b) - most and near_duplicate(one, other)


@lru_cache(maxsize=65536)
def _flags(text: str) -> int:
    """A flag for each of 61 sets of characters: whether their number is odd."""
    return reduce(xor, (1 << ord(character) % 61 for character in text), 0)


def _common(a: str, b: str) -> int:
    """The length of the longest common subsequence: what begins and ends alike, and the longest between them."""
    most = min(len(a), len(b))
    begin = next((i for i in range(most) if a[i] != b[i]), most)
    end = next((i for i in range(most - begin) if a[-1 - i] != b[-1 - i]), most - begin)
    return begin + end + _between(a[begin : len(a) - end], b[begin : len(b) - end])


def _between(a: str, b: str) -> int:
    """All columns of a row at once (Hyyrö, 2004)."""
    places, whole = _places(a), (1 << len(a)) - 1
    rest = whole
    for character in b:
        match = rest & places.get(character, 0)
        rest = (rest + match | rest - match) & whole
    return len(a) - rest.bit_count()


@lru_cache(maxsize=16)
def _places(text: str) -> dict[str, int]:
    places: dict[str, int] = defaultdict(int)
    for place, character in enumerate(text):
        places[character] |= 1 << place
    return dict(places)
