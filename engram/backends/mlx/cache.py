"""Keys and values of tokens that many rows begin with: computed in one row, repeated in all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def repeats(model: Any) -> bool:
    """Whether every layer keeps plain keys and values, which can be repeated: no window, no state, not quantized."""
    from mlx_lm.models.cache import KVCache

    return all(type(cache) is KVCache for cache in _fresh(model))


def computed(model: Any, tokens: Sequence[int]) -> list[Any]:
    """A cache for each layer that holds these tokens in one row."""
    import mlx.core as mx

    caches = _fresh(model)
    model(mx.array([list(tokens)]), cache=caches)
    mx.eval([cache.state for cache in caches])  # no logits: nothing asks for them
    return caches


def repeated(model: Any, known: Sequence[Any], count: int, rows: int, room: int = 0) -> list[Any]:
    """Caches of `rows` rows, each with the first `count` tokens of the one row in `known`, and room for `room` more.

    Nothing is known where `known` is empty.
    """
    import mlx.core as mx

    caches = _fresh(model)
    for cache in caches:
        cache.step = count + room
    for cache, one in zip(caches, known):
        parts = (one.keys[..., :count, :], one.values[..., :count, :])
        cache.update_and_fetch(*[mx.broadcast_to(part, (rows, *part.shape[1:])) for part in parts])
    return caches


def _fresh(model: Any) -> list[Any]:
    from mlx_lm.models.cache import make_prompt_cache

    caches: list[Any] = make_prompt_cache(model)
    return caches
