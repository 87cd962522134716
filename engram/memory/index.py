"""From addresses to row numbers: a hash table of two arrays that can stay on the disk, whatever its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engram.memory.addresses import EMPTY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MISS = -1


def build(addresses: NDArray[np.uint64], rows: NDArray[np.uint32]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Slots with the addresses, and the row of each slot: at most half of them taken, each address at its home or in
    the next free slot after it. The addresses must differ."""
    import numpy as np

    bits = _bits(len(addresses))
    order = np.argsort(addresses, kind="stable")
    homes = (addresses[order] >> np.uint64(64 - bits)).astype(np.int64)
    count = np.arange(len(order))
    places = np.maximum.accumulate(homes - count) + count if len(order) else homes
    size = max(1 << bits, int(places[-1]) + 1 if len(order) else 0) + 1  # the last slot is free: every search ends
    slots, numbers = np.full(size, EMPTY, np.uint64), np.zeros(size, np.uint32)
    slots[places], numbers[places] = addresses[order], rows[order]
    return slots, numbers


def find(
    slots: NDArray[np.uint64], numbers: NDArray[np.uint32], count: int, wanted: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """The row of each wanted address, MISS where it is none of the `count` that are there; int64, `wanted`'s shape."""
    import numpy as np

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


def fewest(count: int) -> int:
    """The least number of slots of a table of `count` addresses, the free one at its end included."""
    return (1 << _bits(count)) + 1


def _bits(count: int) -> int:
    return max(4, (2 * count - 1).bit_length()) if count else 4
