"""MLX's training step: a loss and an Adam as exact as torch's, its state for checkpoints, and several processes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engram.backends import silenced
from engram.models.conversion import DTYPES
from engram.models.safetensors_file import Tensor
from engram.plan.batches import Batch
from engram.plan.checkpoint import State
from engram.plan.config import Config
from engram.plan.sharding import Ranks, lost_process, place, share, step_seed
from engram.support.errors import EngramError

SUMMED = 64  # logits whose exponentials are added up one after the other


def cross_entropy(logits: Any, targets: Any) -> Any:
    """Cross-entropy in float32 [rows] of logits [rows, vocabulary] at the targets [rows].

    The vocabulary is summed in pieces. On a CPU MLX adds its exponentials one after the other, and thousands of small
    ones vanish in a large sum: 1e-5 too little, which once a target is nearly certain is a thousandth of its
    gradient.
    """
    import mlx.core as mx

    whole = logits.shape[-1] // SUMMED * SUMMED
    pieces = mx.logsumexp(logits[:, :whole].reshape(logits.shape[0], -1, SUMMED), axis=-1)
    total = mx.logsumexp(mx.concatenate([pieces, logits[:, whole:]], axis=-1), axis=-1)
    return total - mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]


def corrections(config: Config, rates: Sequence[float]) -> tuple[list[float], list[float]]:
    """For each step, the first moment's factor lr / (1 - beta1^t) and the second's root factor 1 / √(1 - beta2^t).

    Kingma and Ba (2015), in double precision as in torch. MLX's own Adam computes 1 - beta2^t in float32, where the
    subtraction leaves an error of 2e-5: a hundred times the rounding of all else, on every weight, in every step.
    """
    firsts = [rate / (1 - config.beta1 ** (t + 1)) for t, rate in enumerate(rates)]
    return firsts, [1 / math.sqrt(1 - config.beta2 ** (t + 1)) for t in range(len(rates))]


def adamw(config: Config, rates: Sequence[float]) -> Any:
    """An `mlx.optimizers.AdamW` with a learning rate for each step, its gradients clipped where the recipe says so.

    All parameters are updated as one array: an adapter is many small ones, and a dozen operations on each of them cost
    more than their arithmetic.
    """
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten, tree_unflatten

    last = len(rates) - 1
    scheduled = mx.array(list(rates))
    firsts, roots = (mx.array(values) for values in corrections(config, rates))

    class AdamW(optim.AdamW):  # type: ignore[misc]
        def apply_gradients(self, gradients: Any, parameters: Any) -> Any:
            named = tree_flatten(gradients)
            of = dict(tree_flatten(parameters))
            whole = {"all": _joined([of[name] for name, _ in named])}
            updated = super().apply_gradients({"all": _joined([value for _, value in named])}, whole)["all"]
            return tree_unflatten(list(zip((name for name, _ in named), _parted(updated, [of[n] for n, _ in named]))))

        def apply_single(self, gradient: Any, parameter: Any, state: dict[str, Any]) -> Any:
            step = mx.minimum(self.step - 1, last)
            beta1, beta2 = self.betas
            state["m"] = beta1 * state["m"] + (1 - beta1) * gradient
            state["v"] = beta2 * state["v"] + (1 - beta2) * mx.square(gradient)
            decayed = parameter * (1 - scheduled[step] * self.weight_decay).astype(parameter.dtype)
            first, root = firsts[step].astype(gradient.dtype), roots[step].astype(gradient.dtype)
            return decayed - first * state["m"] / (mx.sqrt(state["v"]) * root + self.eps)

        def update(self, model: Any, gradients: Any) -> None:
            if config.clip:
                gradients = optim.clip_grad_norm(gradients, config.clip)[0]
            super().update(model, gradients)

    return AdamW(
        learning_rate=lambda step: scheduled[mx.minimum(step, last)],
        betas=[config.beta1, config.beta2],
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )


def _joined(arrays: Sequence[Any]) -> Any:
    import mlx.core as mx

    return mx.concatenate([array.reshape(-1) for array in arrays])


def _parted(whole: Any, like: Sequence[Any]) -> list[Any]:
    """The joined array in parts again, each of the shape and dtype of one of `like`."""
    import mlx.core as mx

    ends = list(itertools.accumulate(array.size for array in like))[:-1]
    return [part.reshape(one.shape).astype(one.dtype) for part, one in zip(mx.split(whole, ends), like)]


WEIGHTS, MOMENTS = "adapter.", "optimizer."


def state(model: Any, optimizer: Any) -> State:
    """The adapter, AdamW's moments and step, the random key."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    moments = {name: value for name, value in optimizer.state.items() if isinstance(value, dict)}
    named = [(WEIGHTS + name, value) for name, value in tree_flatten(model.trainable_parameters())]
    named += [(MOMENTS + name, value) for name, value in tree_flatten(moments)]
    random: Any = mx.random.state
    rest = {"step": int(optimizer.state["step"].item()), "random": random[0].tolist()}
    return State({name: _tensor(value) for name, value in named}, rest, int(mx.get_peak_memory()))


def restore(model: Any, optimizer: Any, found: State) -> None:
    """Put a state into a model whose adapter has just been attached, its new optimizer, and this process."""
    import mlx.core as mx
    from mlx.utils import tree_unflatten

    model.update(tree_unflatten(list(_under(WEIGHTS, found))))
    step = mx.array(found.rest["step"], optimizer.state["step"].dtype)
    optimizer.state = {**optimizer.state, **tree_unflatten(list(_under(MOMENTS, found))), "step": step}
    high, low = found.rest["random"]
    mx.random.seed(high << 32 | low)  # the key is the seed's two halves; it cannot be set otherwise
    mx.eval(model.parameters(), optimizer.state)


@contextlib.contextmanager
def quiet(folder: Path) -> Iterator[None]:
    """Nothing that mlx-lm prints is seen, since the progress shown is ours; what it cannot write is an EngramError.

    MLX says in a RuntimeError what it could not write, and no more than that: a full disk, most of all. So it says that
    another process of the same run does not answer any more.
    """
    try:
        with silenced():
            yield
    except RuntimeError as error:
        if str(error).startswith("[ring]"):
            raise lost_process() from error
        if not str(error).startswith(("[write]", "[save_safetensors]")):
            raise
        what = f"cannot write the adapter: {str(error).partition(' ')[2]}"
        raise EngramError(what, where=str(folder), fix="check the permissions and the free disk space") from error


def _under(prefix: str, found: State) -> Iterator[tuple[str, Any]]:
    for name, tensor in found.tensors.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), _array(tensor)


def _tensor(value: Any) -> Tensor:
    import mlx.core as mx
    import numpy as np

    long = str(value.dtype).rpartition(".")[2]
    short = next(short for short, name in DTYPES.items() if name == long)
    return Tensor(short, tuple(value.shape), np.array(value.reshape(-1).view(mx.uint8)).tobytes())


def _array(tensor: Tensor) -> Any:
    import mlx.core as mx
    import numpy as np

    flat = mx.array(np.frombuffer(tensor.data, np.uint8)).view(getattr(mx, DTYPES[tensor.dtype]))
    return flat.reshape(tensor.shape)


@functools.cache
def join() -> Ranks:
    """The processes, connected in a ring; this one alone without a launcher. Raises EngramError if they are not."""
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
    """With several processes, each draws different numbers in each step."""
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
