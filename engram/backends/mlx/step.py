"""A new token of many rows on MLX's CPU build: what it computes one number at a time, by NumPy or only once.

Where each row has one new token there is little to multiply, and much of a step went into the exponentials of
attention's softmax and into the sines and cosines of positions, which every layer computed anew. Nothing here has a
gradient: training never has a cache.
"""

from __future__ import annotations

import functools
from typing import Any

FEW = 2048  # numbers; for fewer, waiting for MLX costs more than it saves


def attention(plain: Any) -> Any:
    """mlx-lm's `scaled_dot_product_attention`, the softmax of new tokens in NumPy."""
    import mlx.core as mx

    def scaled(
        queries: Any, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: Any = None, **more: Any
    ) -> Any:
        rows, heads, new, size = queries.shape
        if (
            cache is None
            or new != 1
            or sinks is not None
            or more
            or not _plain_float32(keys, queries)
            or not (mask is None or (isinstance(mask, mx.array) and mask.dtype == mx.bool_))
            or rows * heads * keys.shape[2] < FEW
        ):
            return plain(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks, **more)
        shared = keys.shape[1]
        scores = (queries * scale).reshape(rows, shared, heads // shared, size) @ keys.swapaxes(-1, -2)
        shares = mx.array(_softmax(scores, mask))
        return (shares @ values).reshape(rows, heads, 1, values.shape[-1])

    scaled.plain = plain  # type: ignore[attr-defined]
    return scaled


def _plain_float32(keys: Any, queries: Any) -> bool:
    """Whether keys are an array, not a quantized one's parts, and all is float32."""
    import mlx.core as mx

    return isinstance(keys, mx.array) and queries.dtype == keys.dtype == mx.float32


def _softmax(scores: Any, mask: Any) -> Any:
    """The softmax of scores [rows, shared, heads, columns], 0 where the mask [rows, 1, 1, columns] is false."""
    import numpy as np

    shares = np.array(scores)
    if mask is not None:
        np.copyto(shares, -np.inf, where=~np.array(mask))
    shares -= shares.max(axis=-1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def rotation(plain: Any) -> Any:
    """`mlx.nn.RoPE.__call__`, for new tokens with sines and cosines that were computed before; to the last bit."""
    import mlx.core as mx
    import numpy as np

    known: list[Any] = [None, None, None]  # settings, places, cosines and sines: every layer asks for the same

    def rotated(layer: Any, x: Any, offset: Any = 0) -> Any:
        whole = x.ndim == 4 and x.shape[2] == 1 and x.shape[3] == layer.dims and not layer.traditional
        if not whole or x.dtype != mx.float32 or not isinstance(offset, mx.array) or not offset.ndim:
            return plain(layer, x, offset)
        places, settings = np.array(offset), (layer.dims, layer.base, layer.scale)  # a copy: offsets may grow in place
        if places.min() < 0:  # padding
            return plain(layer, x, offset)
        if known[0] != settings or not np.array_equal(known[1], places):
            known[:] = settings, places, _turns(places, *settings)
        cosine, sine = known[2]
        first, last = x[..., : layer.dims // 2], x[..., layer.dims // 2 :]
        return mx.concatenate([first * cosine - last * sine, first * sine + last * cosine], axis=-1)

    return rotated


def _turns(places: Any, dims: int, base: float, scale: float) -> tuple[Any, Any]:
    """Cosines and sines of places [rows], each [rows, 1, 1, dims / 2]."""
    import mlx.core as mx

    size = 1 << max(int(places.max()).bit_length(), 9)
    both = _positions(dims, base, scale, size)[places]
    return mx.array(both[:, None, None, : dims // 2]), mx.array(both[:, None, None, dims // 2 :])


@functools.lru_cache(maxsize=8)
def _positions(dims: int, base: float, scale: float, size: int) -> Any:
    """Cosines and sines of the first `size` positions [size, dims], as MLX computes them: a one and a zero, rotated."""
    import mlx.core as mx
    import numpy as np

    ones = mx.concatenate([mx.ones((1, 1, size, dims // 2)), mx.zeros((1, 1, size, dims // 2))], axis=-1)
    return np.array(mx.fast.rope(ones, dims, traditional=False, base=base, scale=scale, offset=0)[0, 0])


def most_likely(logits: Any) -> Any:
    """The index of the largest of each row's logits [rows, vocabulary], the first of equal ones."""
    import mlx.core as mx
    import numpy as np

    if mx.default_device() != mx.cpu or logits.dtype != mx.float32:
        return mx.argmax(logits, axis=-1)
    return mx.array(np.array(logits, copy=False).argmax(axis=-1).astype(np.uint32))
