"""Find the row that answers at each token: the longest address that is in the table.

The addresses are a hash table of two arrays, which can stay on disk whatever its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engram.memory import addresses
from engram.memory.addresses import EMPTY, MOST_ANSWERED, Frame
from engram.support.errors import EngramError

MISS = -1
Ids = NDArray[np.integer]


@dataclass(frozen=True)
class Memory:
    """A table that is ready for lookups; its arrays may be on disk.

    `slots` and `numbers` are those of `build`, of `count` addresses; `orders` the input lengths in tokens that occur in
    them, longest first; `table` float32 [rows, width].
    """

    slots: NDArray[np.uint64]
    numbers: NDArray[np.uint32]
    count: int
    orders: tuple[int, ...]
    frame: Frame
    table: NDArray[np.float32]

    def rows(self, tokens: Ids, starts: Sequence[int] | Ids | None = None, first: int = 0) -> NDArray[np.int64]:
        """The row that answers at each token from column `first` on, int64 [sequences, length - first]; MISS is none.

        `tokens` [sequences, length] are whole sequences of ids; each begins at its column of `starts`, after padding.
        The result depends on nothing else: a token's row is the same in a batch, in a stream and in scoring.
        """
        count, length = tokens.shape
        found = np.full((count, length - first), MISS, np.int64)
        begins = np.zeros(count, np.int64) if starts is None else np.asarray(starts, np.int64)
        ends = _headers(tokens, self.frame.header, begins)
        places = np.maximum.accumulate(np.where(ends, np.arange(length), -1), axis=1)  # of the last header's last token
        row, column = np.nonzero(places[:, first:] >= 0)
        if not len(row) or not self.orders:
            return found
        column += first
        end = places[row, column]
        so_far = _answered(tokens, places)[row, column]
        keys = row * length + end  # in order: the tokens of one answer follow each other
        new = np.append(True, keys[1:] != keys[:-1])
        which = np.cumsum(new) - 1
        asked, usable = _asked(self, tokens, begins, row[new], end[new])
        wanted = addresses.address(asked[which], so_far[:, None])
        there = np.full(wanted.shape, MISS, np.int64)
        may = usable[which] & (column - end < MOST_ANSWERED)[:, None]
        there[may] = find(self.slots, self.numbers, self.count, wanted[may])
        longest = (there != MISS).argmax(axis=1)
        found[row, column - first] = there[np.arange(len(row)), longest]
        return found

    def following(self, tokens: Ids, starts: Ids | None, new: int, last: Ids | None) -> NDArray[np.int64]:
        """The rows of the last `new` tokens; `last` int [sequences] are those of the tokens before, if there are any.

        The rows of an answer begin with its first token's: after a miss the next token is a miss too, unless a new
        answer begins there. So a sequence that nothing answers costs a look at its last tokens, and no search.
        """
        first = tokens.shape[1] - new
        if new > 1 or last is None:
            return self.rows(tokens, starts, first)
        size = len(self.frame.header)
        live = last != MISS
        if tokens.shape[1] >= size:
            live |= (tokens[:, -size:] == np.array(self.frame.header)).all(axis=1)
        found = np.full((len(tokens), 1), MISS, np.int64)
        if live.any():
            found[live] = self.rows(tokens[live], None if starts is None else starts[live], first)
        return found


def no_place(layer: int) -> EngramError:
    """The error for a model without a block before which a memory could be read."""
    what = f"this model has no place for a memory before block {layer}"
    return EngramError(what, where="memory_blocks", fix="fewer blocks (--set memory_blocks=1), or another MODEL")


def build(addresses: NDArray[np.uint64], rows: NDArray[np.uint32]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """The slots of a hash table and the row of each slot; the addresses must differ.

    At most half of the slots are taken. Each address is in its home slot or in the next free slot after it.
    """
    bits = _bits(len(addresses))
    order = np.argsort(addresses, kind="stable")
    homes = (addresses[order] >> np.uint64(64 - bits)).astype(np.int64)
    count = np.arange(len(order))
    places = np.maximum.accumulate(homes - count) + count
    size = max(1 << bits, int(places.max(initial=0)) + 1) + 1  # the last slot is free: every search ends
    slots, numbers = np.full(size, EMPTY, np.uint64), np.zeros(size, np.uint32)
    slots[places], numbers[places] = addresses[order], rows[order]
    return slots, numbers


def find(
    slots: NDArray[np.uint64], numbers: NDArray[np.uint32], count: int, wanted: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """The row of each wanted address in a table of `count` addresses, MISS if it is absent; int64, `wanted`'s shape."""
    flat = wanted.reshape(-1)
    found = np.full(len(flat), MISS, np.int64)
    open_, places = np.arange(len(flat)), (flat >> np.uint64(64 - _bits(count))).astype(np.int64)
    while len(open_):
        there = slots[places]
        hit = there == flat[open_]
        found[open_[hit]] = numbers[places[hit]]
        more = ~hit & (there != EMPTY)
        open_, places = open_[more], places[more] + 1
    return found.reshape(wanted.shape)


def _bits(count: int) -> int:
    return max(4, (2 * count - 1).bit_length())


def _headers(tokens: Ids, header: tuple[int, ...], begins: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a header ends at each token, bool [sequences, length]."""
    ends, size = np.zeros(tokens.shape, bool), len(header)
    if tokens.shape[1] >= size:
        there = (np.lib.stride_tricks.sliding_window_view(tokens, size, axis=1) == header).all(axis=2)
        ends[:, size - 1 :] = there & (np.arange(there.shape[1]) >= begins[:, None])
    return ends


def _answered(tokens: Ids, places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The part of an address from the answer so far, at each token; uint64 [sequences, length]."""
    count, length = tokens.shape
    number = np.arange(length) - places  # of a token of the answer, from 1; 0 at the end of a header
    factors = addresses.multipliers(1, MOST_ANSWERED)
    terms = (tokens.astype(np.int64) + 1).astype(np.uint64) * factors[np.clip(number - 1, 0, MOST_ANSWERED - 1)]
    sums = np.cumsum(np.where((places >= 0) & (number > 0), terms, np.uint64(0)), axis=1, dtype=np.uint64)
    rows = np.arange(count)[:, None]
    return np.asarray(sums - np.where(places >= 0, sums[rows, np.maximum(places, 0)], np.uint64(0)))


def _asked(
    memory: Memory, tokens: Ids, begins: NDArray[np.int64], row: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """The part of an address from the input, for each message, whose header ends at `end` of a sequence, and each
    order; and whether that many tokens are there and begin with a word. uint64 and bool [messages, orders]."""
    longest = memory.orders[0]
    columns = (end - len(memory.frame.header))[:, None] - np.arange(longest + 1)  # one more, to see the token before
    inside = columns >= begins[row][:, None]
    ids = np.where(inside, tokens[row[:, None], np.maximum(columns, 0)], 0).astype(np.int64)
    words = memory.frame.opens[ids[:, :-1]] | memory.frame.closes[ids[:, 1:]] | ~inside[:, 1:]
    chosen = np.array(memory.orders) - 1
    return addresses.asked(ids[:, :-1], memory.frame)[:, chosen], (inside[:, :-1] & words)[:, chosen]
