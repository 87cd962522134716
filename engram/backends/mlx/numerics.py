"""Where MLX computes less exactly than torch, and training notices: the loss's sum and Adam's bias corrections."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from engram.plan.config import Config

SUMMED = 64  # logits whose exponentials are added up one after the other


def cross_entropy(logits: Any, targets: Any) -> Any:
    """Cross-entropy in float32 [rows] of logits [rows, vocabulary] at the targets [rows].

    The vocabulary is summed in pieces. On a CPU MLX adds its exponentials one after the other, and thousands of small
    ones vanish beside a large sum: 1e-5 too little, which once a target is nearly certain is a thousandth of its
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
