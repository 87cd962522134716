"""Losses of a batch whose rows begin alike: the beginning is computed once, and stands for it in every row."""

from __future__ import annotations

import dataclasses
from typing import Any

from engram.backends.mlx import cache
from engram.plan.batches import Batch

FEWEST = 8  # tokens; what is shorter is not worth a pass of its own


def begun(model: Any, batch: Batch) -> tuple[list[Any] | None, Batch]:
    """Caches that hold what the rows begin with, None where that is not worth it, and the batch without it."""
    count = shared(batch)
    if not count:
        return None, batch
    one = cache.computed(model, batch.tokens[0, :count].tolist())
    rows, length = batch.tokens.shape
    return cache.repeated(model, one, count, rows, length), without(batch, count)


def shared(batch: Batch) -> int:
    """With how many equal tokens the rows begin, none of them one whose loss is asked for; 0 where it is not worth it.

    The answers' losses are asked for at `positions`, the token before each learned one, so those stay.
    """
    import numpy as np

    rows, length = batch.tokens.shape
    columns = batch.positions[batch.weights > 0] % length
    first = min(int(columns.min()), length - 1) if columns.size else 0
    equal = (batch.tokens[:, :first] == batch.tokens[:1, :first]).all(axis=0)
    count = int(np.argmin(equal)) if not equal.all() else first
    return count if rows > 1 and count >= FEWEST else 0


def without(batch: Batch, count: int) -> Batch:
    """The batch without its first `count` columns; positions index what is left."""
    import numpy as np

    length = batch.tokens.shape[1]
    rows, columns = np.divmod(batch.positions, length)
    positions = rows * (length - count) + np.maximum(columns - count, 0)  # padding points anywhere
    return dataclasses.replace(batch, tokens=batch.tokens[:, count:], positions=positions.astype(np.int32))
