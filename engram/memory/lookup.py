"""Which row answers at which token: the longest address that is in the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engram.memory import addresses, index
from engram.memory.addresses import MOST_ANSWERED, Frame
from engram.memory.index import MISS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Index:
    """The addresses of a table: `slots` and `numbers` of `index.build`, of `count` addresses, and the numbers of asked
    tokens that occur in them, `orders`, longest first."""

    slots: NDArray[np.uint64]
    numbers: NDArray[np.uint32]
    count: int
    orders: tuple[int, ...]


@dataclass(frozen=True)
class Memory:
    """A table ready to be asked: `table` float32 [rows, width] may lie on the disk."""

    index: Index
    frame: Frame
    table: NDArray[np.float32]

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return int(self.table.shape[1])

    def rows(self, tokens: NDArray[np.integer], starts: Sequence[int] | None = None) -> NDArray[np.int64]:
        """The row of every token; see `rows` of this module."""
        return rows(self.index, self.frame, tokens, starts)

    def following(
        self,
        tokens: NDArray[np.integer],
        starts: Sequence[int] | NDArray[np.integer] | None,
        new: int,
        last: NDArray[np.integer] | None,
    ) -> NDArray[np.int64]:
        """The rows of the last `new` tokens; `last` int [sequences] are those of the tokens before, if there are any.

        Every answer's rows begin with its first token's: where one token was a miss, so is the next, unless a new
        answer begins at it. So a sequence that nothing answers costs a look at its last tokens, and no search.
        """
        import numpy as np

        first = tokens.shape[1] - new
        if new > 1 or last is None:
            return rows(self.index, self.frame, tokens, starts, first)
        size = len(self.frame.header)
        live = last != MISS
        if tokens.shape[1] >= size:
            live |= (tokens[:, -size:] == np.array(self.frame.header)).all(axis=1)
        found = np.full((len(tokens), 1), MISS, np.int64)
        if live.any():
            begins = None if starts is None else np.asarray(starts)[live]
            found[live] = rows(self.index, self.frame, tokens[live], begins, first)
        return found


def rows(
    known: Index,
    frame: Frame,
    tokens: NDArray[np.integer],
    starts: Sequence[int] | NDArray[np.integer] | None = None,
    first: int = 0,
) -> NDArray[np.int64]:
    """The row that answers at each token from column `first` on, int64 [sequences, length - first]; MISS is none.

    `tokens` [sequences, length] are whole sequences of ids; each begins at its column of `starts`, what is before it is
    padding. It depends on nothing else: a token's row is the same in a batch, in a stream and when it is scored.
    """
    import numpy as np

    count, length = tokens.shape
    found = np.full((count, length - first), MISS, np.int64)
    begins = np.zeros(count, np.int64) if starts is None else np.asarray(starts, np.int64)
    ends = _headers(tokens, frame.header, begins)
    places = np.maximum.accumulate(np.where(ends, np.arange(length), -1), axis=1)  # of the last header's last token
    row, column = np.nonzero(places[:, first:] >= 0)
    if not len(row) or not known.orders:
        return found
    column += first
    end = places[row, column]
    so_far = _answered(tokens, places)[row, column]
    keys = row * length + end  # in order: the tokens of one answer follow each other
    new = np.append(True, keys[1:] != keys[:-1])
    which = np.cumsum(new) - 1
    asked, usable = _asked(known, frame, tokens, begins, row[new], end[new])
    wanted = addresses.address(asked[which], so_far[:, None])
    there = np.full(wanted.shape, MISS, np.int64)
    may = usable[which] & (column - end < MOST_ANSWERED)[:, None]
    there[may] = index.find(known.slots, known.numbers, known.count, wanted[may])
    hit = there != MISS
    longest = hit.argmax(axis=1)
    found[row, column - first] = np.where(hit.any(axis=1), there[np.arange(len(row)), longest], MISS)
    return found


def _headers(tokens: NDArray[np.integer], header: tuple[int, ...], begins: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a header ends at each token, bool [sequences, length]."""
    import numpy as np

    count, length = tokens.shape
    ends = np.zeros((count, length), bool)
    size = len(header)
    if length < size:
        return ends
    there = tokens[:, size - 1 :] == header[-1]
    for i, token in enumerate(header[:-1]):
        there &= tokens[:, i : length - size + 1 + i] == token
    ends[:, size - 1 :] = there & (np.arange(length - size + 1) >= begins[:, None])
    return ends


def _answered(tokens: NDArray[np.integer], places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The part of an address that the answer so far gives at each token, uint64 [sequences, length]."""
    import numpy as np

    count, length = tokens.shape
    number = np.arange(length) - places  # of a token of the answer, from 1; 0 at the end of a header
    factors = addresses.multipliers(1, MOST_ANSWERED)
    terms = (tokens.astype(np.int64) + 1).astype(np.uint64) * factors[np.clip(number - 1, 0, MOST_ANSWERED - 1)]
    sums = np.cumsum(np.where((places >= 0) & (number > 0), terms, np.uint64(0)), axis=1, dtype=np.uint64)
    rows = np.arange(count)[:, None]
    return np.asarray(sums - np.where(places >= 0, sums[rows, np.maximum(places, 0)], np.uint64(0)))


def _asked(
    known: Index,
    frame: Frame,
    tokens: NDArray[np.integer],
    begins: NDArray[np.int64],
    row: NDArray[np.int64],
    end: NDArray[np.int64],
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """For each message, whose header ends at `end` of a sequence, and each order: its part of the address, and whether
    so many tokens are there and begin with a word; uint64 and bool [messages, orders]."""
    import numpy as np

    longest = known.orders[0]
    columns = (end - len(frame.header))[:, None] - np.arange(longest + 1)  # one more, to see what comes before
    inside = columns >= begins[row][:, None]
    ids = np.where(inside, tokens[row[:, None], np.maximum(columns, 0)], 0).astype(np.int64)
    words = frame.opens[ids[:, :-1]] | frame.closes[ids[:, 1:]] | ~inside[:, 1:]
    chosen = np.array(known.orders) - 1
    return addresses.asked(ids[:, :-1], frame)[:, chosen], (inside[:, :-1] & words)[:, chosen]
