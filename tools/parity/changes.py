"""A run with one thing as a stock program has it, or with a change that is none in exact arithmetic."""

from __future__ import annotations

import contextlib
import dataclasses
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

from engram.models import adapters
from engram.models.tokenizer import Encoded, Encoder
from engram.plan.config import Config

SETTINGS: dict[str, Callable[[Config], dict[str, Any]]] = {
    "scale-20": lambda config: {"alpha": 20.0 * config.rank},
    "constant-rate": lambda _: {"schedule": "constant"},
    "linear-decay": lambda _: {"schedule": "linear"},
    "clip-1": lambda _: {"clip": 1.0},
    "weight-decay": lambda _: {"weight_decay": 0.01},
}
ENVIRONMENT = {"reference-blas": {"ENGRAM_BLAS": "reference"}}


def settings(name: str, config: Config) -> Config:
    """The configuration with the deviation `name`."""
    return dataclasses.replace(config, **SETTINGS[name](config)) if name in SETTINGS else config


def plan(
    name: str, encoded: Sequence[Encoded], planned: Sequence[Sequence[int]], config: Config, encoder: Encoder
) -> list[list[Encoded]]:
    """The rows of every batch, planned as indices, with the deviation `name`."""
    numbers = stock_plan(encoded, config) if name == "stock-batches" else planned
    batches = [[encoded[i] for i in rows] for rows in numbers]
    if name == "reversed":
        return [rows[::-1] for rows in batches]
    if name == "padding-target":
        return [[dataclasses.replace(e, tokens=(*e.tokens, encoder.pad_id)) for e in rows] for rows in batches]
    if name == "prompt-in-loss":
        return [[dataclasses.replace(e, prompt_length=1) for e in rows] for rows in batches]
    return batches


def stock_plan(encoded: Sequence[Encoded], config: Config) -> list[list[int]]:
    """The batches of `mlx_lm.tuner.trainer.iterate_batches`, seeded as `mlx_lm.lora` does."""
    import numpy as np

    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].tokens))
    size = config.batch_size
    whole = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    generator = np.random.RandomState(config.seed)
    batches: list[list[int]] = []
    while len(batches) < config.steps:
        batches += [whole[i] for i in generator.permutation(len(whole))]
    return batches[: config.steps]


@contextlib.contextmanager
def in_place(name: str) -> Iterator[None]:
    """This process's backend with the deviation `name` for the time of the block."""
    with contextlib.ExitStack() as stack:
        if patch := _PATCHES.get(name):
            stack.enter_context(patch())
        yield


def _stock_adam(bias_correction: bool) -> Any:
    def adamw(config: Config, rates: Sequence[float]) -> Any:
        import mlx.core as mx
        import mlx.optimizers as optim

        scheduled, last = mx.array(list(rates)), len(rates) - 1
        betas = [config.beta1, config.beta2]
        return optim.Adam(lambda step: scheduled[mx.minimum(step, last)], betas, config.epsilon, bias_correction)

    return mock.patch("engram.backends.mlx.training.adamw", adamw)


def _stock_sum() -> Any:
    def cross_entropy(logits: Any, targets: Any) -> Any:
        import mlx.nn as nn

        return nn.losses.cross_entropy(logits, targets)

    return mock.patch("engram.backends.mlx.model.cross_entropy", cross_entropy)


def _initial(change: Callable[..., Any]) -> Any:
    shared = adapters.initial_factor
    return mock.patch("engram.models.adapters.initial_factor", lambda *arguments: change(shared, *arguments))


def _other_draw(shared: Any, name: str, inputs: int, rank: int, seed: int) -> Any:
    return shared(f"other:{name}", inputs, rank, seed)


def _one_ulp(shared: Any, name: str, inputs: int, rank: int, seed: int) -> Any:
    import numpy as np

    return np.nextafter(shared(name, inputs, rank, seed), np.float32(np.inf))


def _away(weights: Any) -> Any:
    """Each weight one unit in the last place away, up or down."""
    import numpy as np

    up = np.random.default_rng(0).random(weights.shape) < 0.5
    return np.nextafter(weights, np.where(up, np.inf, -np.inf).astype(np.float32))


def _other_weights() -> Any:
    """The model that training loads, on this process's backend, with other weights than its own by rounding."""
    torch = "engram.backends.unsloth.backend" in sys.modules
    name = "engram.backends.unsloth.backend.load_model" if torch else "engram.backends.mlx.model.load"
    whole = pkgutil.resolve_name(name)

    def load(*arguments: Any) -> Any:
        loaded = whole(*arguments)
        if torch:
            import torch as library

            with library.no_grad():
                for weights in loaded.parameters():
                    weights.copy_(library.from_numpy(_away(weights.numpy())))
        else:
            import mlx.core as mx
            import numpy as np
            from mlx.utils import tree_map

            loaded.update(tree_map(lambda weights: mx.array(_away(np.array(weights))), loaded.parameters()))
        return loaded

    return mock.patch(name, load)


def _half_mlx() -> Any:
    from engram.backends.mlx import model as mlx_model

    whole = mlx_model.load

    def load(model: Any) -> Any:
        import mlx.core as mx

        loaded = whole(model)
        loaded.set_dtype(mx.bfloat16)
        return loaded

    return mock.patch("engram.backends.mlx.model.load", load)


def _half_torch() -> Any:
    import trl

    whole = trl.SFTConfig
    return mock.patch("trl.SFTConfig", lambda **fields: whole(**(fields | {"bf16": True})))


_PATCHES: dict[str, Callable[[], Any]] = {
    "bias-correction": lambda: _stock_adam(False),
    "float32-corrections": lambda: _stock_adam(True),
    "stock-sum": _stock_sum,
    "own-initial-adapter": lambda: _initial(_other_draw),
    "ulp": lambda: _initial(_one_ulp),
    "weights": _other_weights,
    "bf16-mlx": _half_mlx,
    "bf16-torch": _half_torch,
}
