"""An activation that MLX computes one number at a time on a CPU, computed by NumPy while nothing is trained.

MLX's exponential on x86 takes some fifty times NumPy's time, and SiLU, which most models have in every layer, was a
third of an answer's time. Both are within a unit in the last place of the exact value.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def fast_silu() -> Iterator[None]:
    """In the block, on a CPU, SiLU is NumPy's: no gradient goes through it. On a GPU nothing changes."""
    import mlx.core as mx
    import mlx.nn as nn

    if mx.default_device() != mx.cpu:
        yield
        return
    own = nn.silu
    nn.silu = lambda x: _silu(x, own)
    try:
        yield
    finally:
        nn.silu = own


def _silu(x: Any, own: Callable[[Any], Any]) -> Any:
    """x / (1 + exp(-x)) in float32; of other numbers MLX's own."""
    import mlx.core as mx
    import numpy as np

    if x.dtype != mx.float32:
        return own(x)
    mx.eval(x)
    values = np.array(x, copy=False)
    with np.errstate(over="ignore"):  # an infinite exponential is a SiLU of 0
        below = np.exp(-values)
    below += 1
    return mx.array(np.divide(values, below, out=below))
