"""MLX's training step: gradients of bounded memory, Adam as exact as torch's, its state, and several processes."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.nn.utils import average_gradients
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from engram.backends.mlx import blas, linux_cpu
from engram.backends.mlx.generate import repeats
from engram.backends.mlx.model import parts as parts_of
from engram.backends.mlx.model import token_losses, wanted
from engram.models.conversion import DTYPES
from engram.models.safetensors_file import Tensor
from engram.plan.batches import Batch, parts, shared_tokens, without_beginning
from engram.plan.checkpoint import State
from engram.plan.config import Config
from engram.plan.sharding import Ranks, joined


def corrections(config: Config, rates: Sequence[float]) -> tuple[list[float], list[float]]:
    """For each step, the first moment's factor lr / (1 - beta1^t) and the second's root factor 1 / √(1 - beta2^t).

    Kingma and Ba (2015), in double precision as in torch. MLX's own Adam computes 1 - beta2^t in float32, where the
    subtraction leaves an error of 2e-5: a hundred times the rounding of all else, on every weight, in every step.
    """
    firsts = [rate / (1 - config.beta1 ** (t + 1)) for t, rate in enumerate(rates)]
    return firsts, [1 / math.sqrt(1 - config.beta2 ** (t + 1)) for t in range(len(rates))]


def adamw(config: Config, rates: Sequence[float]) -> Any:
    """An `mlx.optimizers.AdamW` with a learning rate for each step, its gradients clipped where the recipe says so."""
    last = len(rates) - 1
    scheduled = mx.array(list(rates))
    firsts, roots = (mx.array(values) for values in corrections(config, rates))

    class AdamW(optim.AdamW):  # type: ignore[misc]
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

    betas, decay = [config.beta1, config.beta2], config.weight_decay
    return AdamW(lambda step: scheduled[mx.minimum(step, last)], betas, config.epsilon, decay)


WEIGHTS, MOMENTS = "adapter.", "optimizer."


def weights(model: Any) -> dict[str, Tensor]:
    """The adapter's tensors."""
    return {name: _tensor(value) for name, value in tree_flatten(model.trainable_parameters())}


def put_back(model: Any, kept: Mapping[str, Tensor]) -> None:
    """Give the model the adapter's tensors."""
    model.update(tree_unflatten([(name, _array(tensor)) for name, tensor in kept.items()]))


def state(model: Any, optimizer: Any) -> State:
    """The adapter, AdamW's moments and step, the random key."""
    moments = {name: value for name, value in optimizer.state.items() if isinstance(value, dict)}
    tensors = {WEIGHTS + name: tensor for name, tensor in weights(model).items()}
    tensors |= {MOMENTS + name: _tensor(value) for name, value in tree_flatten(moments)}
    random: Any = mx.random.state
    rest = {"step": int(optimizer.state["step"].item()), "random": random[0].tolist(), "threads": blas.threads()}
    return State(tensors, rest, int(mx.get_peak_memory()))


def restore(model: Any, optimizer: Any, found: State) -> None:
    """Put a state into a model whose adapter has just been attached, its new optimizer, and this process."""
    put_back(model, _under(WEIGHTS, found))
    step = mx.array(found.rest["step"], optimizer.state["step"].dtype)
    moments = tree_unflatten([(name, _array(tensor)) for name, tensor in _under(MOMENTS, found).items()])
    optimizer.state = {**optimizer.state, **moments, "step": step}
    blas.keep_threads(found.rest["threads"])
    high, low = found.rest["random"]
    mx.random.seed(high << 32 | low)  # the key is the seed's two halves; it cannot be set otherwise
    mx.eval(model.parameters(), optimizer.state)


class Gradients:
    """Loss and gradients of planned batches, at a bounded size.

    What all rows of a batch begin with, mostly the chat template's system message, is computed once: its keys and
    values are repeated to all rows, and the gradients that reach them go back through it at the end. The rest is
    computed in parts of at most `tokens` tokens, whose gradients add up. Both are exact, up to the rounding of sums.
    The activations of a row that is longer than a part, and of all rows with `recompute`, are computed twice.
    """

    def __init__(self, model: Any, tokens: int, *, dropout: bool, recompute: bool) -> None:
        self.model, self.tokens, self.recompute = model, tokens, recompute
        self._shares = not dropout and not recompute and continues(model)
        random = [mx.random.state]
        compiled = functools.partial(mx.compile, inputs=random, outputs=random)
        self._part = compiled(mx.value_and_grad(self._loss, argnums=(0, 1)))
        self._back = compiled(mx.grad(self._product))

    def __call__(self, batch: Batch, total: float) -> tuple[float, Any]:
        """The sum of the batch's nats / `total`, and the gradient of that, a tree like the trainable parameters."""
        weights = self.model.trainable_parameters()
        long = self.recompute or batch.tokens.shape[1] > self.tokens
        count = shared_tokens(batch) if self._shares and not long else 0
        first = mx.array(batch.tokens[0, :count])[None]
        known = _beginning(self.model, first) if count else []
        sums: Any = None
        with linux_cpu.lazily(), _recomputed(self.model) if long else contextlib.nullcontext():
            for part in parts(without_beginning(batch, count), self.tokens):
                arrays = [mx.array(one) for one in (part.tokens, part.positions, part.weights / total)]
                found = self._part(weights, known, *arrays, *wanted(part))
                sums = found if sums is None else tree_map(mx.add, sums, found)
                mx.eval(sums)
        loss, (gradients, upper) = sums
        if count:
            with linux_cpu.lazily():
                gradients = tree_map(mx.add, gradients, self._back(weights, first, upper))
        self.model.update(weights)
        return float(loss), gradients

    def _loss(self, weights: Any, known: Any, tokens: Any, positions: Any, shares: Any, *of: Any) -> Any:
        self.model.update(weights)
        caches = _begun(known, len(tokens)) or None
        return (token_losses(self.model, tokens, positions, *of, known=caches) * shares).sum()

    def _product(self, weights: Any, tokens: Any, upper: Any) -> Any:
        """The beginning's keys and values times the gradients that reached them: the gradient of it is theirs."""
        self.model.update(weights)
        pairs = zip(_beginning(self.model, tokens), upper)
        return sum((one * gradient).sum() for pair, above in pairs for one, gradient in zip(pair, above))


def _beginning(model: Any, tokens: Any) -> list[Any]:
    """Every layer's keys and values [1, heads, tokens, size] of one row."""
    from mlx_lm.models.cache import ConcatenateKVCache

    caches: list[Any] = [ConcatenateKVCache() for _ in model.layers]
    parts_of(model)[0](tokens, cache=caches)
    return [cache.state for cache in caches]


def _begun(known: Sequence[Any], rows: int) -> list[Any]:
    """Caches of so many rows, each with the keys and values of one beginning."""
    from mlx_lm.models.cache import ConcatenateKVCache

    caches: list[Any] = [ConcatenateKVCache() for _ in known]
    for cache, pair in zip(caches, known):
        cache.state = [mx.broadcast_to(one, (rows, *one.shape[1:])) for one in pair]
    return caches


def continues(model: Any) -> bool:
    """Whether the model can go on from a beginning: every layer has plain keys and values."""
    body, _ = parts_of(model)
    if body is model or not repeats(model):
        return False
    tokens = mx.array([[1, 2, 3, 4, 5]])
    try:
        rest = body(tokens[:, 3:], cache=_begun(_beginning(model, tokens[:, :3]), 1))
    except (AttributeError, TypeError, ValueError):
        return False
    return bool(mx.allclose(body(tokens)[:, 3:], rest, rtol=1e-2, atol=1e-3).item())


@contextlib.contextmanager
def _recomputed(model: Any) -> Iterator[None]:
    """In the block, the activations inside the model's blocks are computed again for the gradient, not kept."""
    from mlx_lm.tuner.trainer import grad_checkpoint

    kind = type(model.layers[0])
    plain = kind.__call__
    grad_checkpoint(model.layers[0])
    try:
        yield
    finally:
        kind.__call__ = plain


def _under(prefix: str, found: State) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): found.tensors[name] for name in found.tensors if name.startswith(prefix)}


def _tensor(value: Any) -> Tensor:
    long = str(value.dtype).rpartition(".")[2]
    short = next(short for short, name in DTYPES.items() if name == long)
    return Tensor(short, tuple(value.shape), np.array(value.reshape(-1).view(mx.uint8)).tobytes())


def _array(tensor: Tensor) -> Any:
    flat = mx.array(np.frombuffer(tensor.data, np.uint8)).view(getattr(mx, DTYPES[tensor.dtype]))
    return flat.reshape(tensor.shape)


@functools.cache
def join() -> Ranks:
    """The processes, connected in a ring; this one alone without a launcher. Raises EngramError if they are not."""
    return joined("mlx", lambda: mx.distributed.init(strict=True, backend="ring"), _gather)


def is_lost(error: RuntimeError) -> bool:
    """Whether the error says that another process is gone."""
    return str(error).startswith("[ring]")


def summed(gradients: Any, ranks: Ranks) -> Any:
    """The sum of all processes' gradients."""
    return gradients if ranks.size == 1 else tree_map(lambda g: g * ranks.size, average_gradients(gradients))


def _gather(content: bytes) -> list[bytes]:
    def of_all(values: Any) -> Any:
        return np.array(mx.distributed.all_gather(mx.array(values), stream=mx.cpu))

    lengths = of_all([len(content)])
    rows = of_all(np.frombuffer(content.ljust(max(1, *lengths), b"\0"), np.uint8)[None])
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]
