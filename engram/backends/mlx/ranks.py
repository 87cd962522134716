"""Several MLX processes that `mlx.launch` started: connected, and each one's loss weighted by its tokens."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from engram.plan.batches import Batch
from engram.plan.config import Config
from engram.plan.sharding import Ranks, place, share, step_seed
from engram.support.errors import EngramError


@functools.cache
def join() -> Ranks:
    """The processes, connected in a ring; this one alone without a launcher. Raises EngramError where they are not."""
    rank, size, hosts = place("mlx")
    if size == 1:
        return Ranks()
    import mlx.core as mx

    try:
        mx.distributed.init(strict=True, backend="ring")
    except RuntimeError as error:
        what = f"the {size} processes do not reach each other: {str(error).splitlines()[0]}"
        raise EngramError(what, where="NPROC", fix="docs/distributed.md names the ports that must be open") from error
    return Ranks(rank, size, hosts, _largest, _total, _gather)


def portion(batch: Batch, ranks: Ranks, *, learn: bool) -> tuple[Batch, tuple[Any, ...]]:
    """This process's rows of a batch, and, where there are several processes, the weight of their mean loss.

    mlx-lm's trainer averages gradients and losses equally over the processes. To learn, the weight is therefore
    size · own tokens / all tokens, so that the average is the mean over all tokens. Its evaluation weights by tokens
    itself: 1. Both are 0 where the process has no row of this batch; one token is computed then, so that there is a
    mean.
    """
    if ranks.size == 1:
        return batch, ()
    import mlx.core as mx

    own = share(batch, ranks)
    if not own.answer_tokens:
        return dataclasses.replace(own, weights=own.weights + 1), (mx.array(0.0),)
    return own, (mx.array(ranks.size * own.answer_tokens / batch.answer_tokens if learn else 1.0),)


def loss_of(loss: Callable[..., tuple[Any, Any]], ranks: Ranks) -> Callable[..., tuple[Any, Any]]:
    """The loss and its number of tokens; of several processes for parts of which the last is this one's weight."""

    def weighted(model: Any, *parts: Any) -> tuple[Any, Any]:
        mean, count = loss(model, *parts[:-1])
        return mean * parts[-1], count * (parts[-1] > 0)

    return loss if ranks.size == 1 else weighted


def seed_dropout(config: Config, step: int, ranks: Ranks) -> None:
    """Where there are several processes, each draws numbers of its own in each step."""
    if ranks.size > 1:
        import mlx.core as mx

        mx.random.seed(step_seed(config.seed, step, ranks.rank))


def _largest(number: int) -> int:
    return int(_all("all_max", [number]).item())


def _total(number: float) -> float:
    return float(_all("all_sum", [number]).item())


def _all(operation: str, values: Any) -> Any:
    """What all processes get of the values of each, as an array of NumPy's."""
    import mlx.core as mx
    import numpy as np

    return np.array(getattr(mx.distributed, operation)(mx.array(np.array(values)), stream=mx.cpu))


def _gather(content: bytes) -> list[bytes]:
    import numpy as np

    lengths = _all("all_gather", [len(content)])
    rows = _all("all_gather", np.frombuffer(content.ljust(max(1, *lengths), b"\0"), np.uint8)[None])
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]
