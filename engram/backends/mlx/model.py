"""A model under mlx-lm: loaded, with an adapter put on, its losses computed at the learned positions alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from engram.backends import reason, silenced
from engram.backends.mlx import blas, linux_cpu
from engram.models import adapters, conversion
from engram.models.model import Model
from engram.models.tokenizer import without_torch
from engram.plan.batches import AT_ONCE, REST, Batch
from engram.plan.config import Config
from engram.support.errors import EngramError

GROUP = 64  # weights that share a scale, where they are quantized
SUMMED = 64  # logits whose exponentials are added up one after the other

if mx.default_device() == mx.cpu:
    mx.disable_compile()  # on a CPU it would build C++ at run time: slow to start, and it needs a compiler


def load(model: Model, quantize: str = "none") -> Any:
    """The model by mlx-lm's own loader, in float32 on a CPU, its matrices in the bits that `quantize` names, if any.

    Raises EngramError if mlx-lm does not know it.
    """
    with without_torch():
        import mlx_lm.tuner.trainer  # noqa: F401
    from mlx_lm.utils import load_model, quantize_model

    if mx.default_device() == mx.cpu:
        linux_cpu.use()
        blas.use_threads(model.parameters)
    try:
        loaded, _ = load_model(model.path, lazy=True)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        what = f"mlx-lm cannot load this model: {reason(error)}"
        raise EngramError(what, where=model.name, fix="take another MODEL") from error
    if mx.default_device() == mx.cpu:
        loaded.set_dtype(mx.float32)  # no half-precision matrix product is fast there
    if quantize != "none":
        with silenced():
            quantize_model(loaded, {}, GROUP, int(quantize.removesuffix("bit")))
    loaded.has_seam = has_seam(loaded)
    return loaded


def put_on(loaded: Any, adapter: Path, name: str) -> None:
    """Give the model an adapter in either layout, by mlx-lm's own loader, and `merge` it; raises EngramError if it
    does not fit."""
    from mlx_lm.tuner.utils import load_adapters

    adapters.read_adapter(adapter, adapters.MLX_WEIGHTS)
    with conversion.readable(adapter, adapters.MLX_WEIGHTS) as folder:
        try:
            load_adapters(loaded, str(folder))
            mx.eval(loaded.parameters())  # MLX reads a file when it needs it, and this one may go
        except (ValueError, KeyError, RuntimeError) as error:
            first, *more = str(error).replace(str(folder), str(adapter)).splitlines()
            what = f"the adapter does not fit {name}: {first}"
            problems = sorted(line.strip() for line in more)[:5]
            raise EngramError(what, where=str(adapter), problems=problems, fix="make train") from error
    merge(loaded)


def merge(loaded: Any) -> None:
    """On a CPU add the adapter to the weights that it is on, which makes it free.

    In float32 the answers stay the same. On a GPU the sum would be rounded to 16 bits: there it stays beside them.
    """
    from mlx import nn
    from mlx_lm.tuner.lora import LoRALinear

    if mx.default_device() == mx.cpu:
        beside = [(name, layer) for name, layer in loaded.named_modules() if type(layer) is LoRALinear]
        fused = [(name, layer.fuse()) for name, layer in beside if type(layer.linear) is nn.Linear]
        loaded.update_modules(tree_unflatten(fused))


def attach(model: Any, config: Config) -> int:
    """Put LoRA on every linear layer of every block, at engram's own initial adapter; the number of its parameters."""
    from mlx_lm.tuner.utils import linear_to_lora_layers

    settings = {"rank": config.rank, "scale": config.scale, "dropout": config.dropout}
    linear_to_lora_layers(model, -1, settings)
    mx.random.seed(config.seed)  # dropout
    first = {
        name: mx.array(adapters.initial_factor(name.removesuffix(".lora_a"), value.shape[0], config.rank, config.seed))
        for name, value in tree_flatten(model.trainable_parameters())
        if name.endswith(".lora_a")
    }
    model.update(tree_unflatten(list(first.items())))
    mx.eval(model.parameters())
    return sum(value.size for _, value in tree_flatten(model.trainable_parameters()))


def arrays(batch: Batch) -> tuple[Any, ...]:
    """A batch's tokens [rows, length], and positions, targets and weights of what is learned [targets] each."""
    return tuple(mx.array(part) for part in (batch.tokens, batch.positions, batch.targets, batch.weights))


def wanted(batch: Batch) -> list[Any]:
    """What a batch's losses are of: its targets [targets], or the `Likely` of each."""
    return [mx.array(part) for part in (batch.likely or (batch.targets,))]


def token_losses(model: Any, tokens: Any, positions: Any, *of: Any, known: Sequence[Any] | None = None) -> Any:
    """The losses in float32 [targets] at the learned positions; the logits of no other are computed.

    More than AT_ONCE logits are computed in pieces, and again for the gradient. `of` is all that `wanted` gives;
    `known` holds what every row begins with before its `tokens`, if anything.
    """
    chosen, head = hidden(model, tokens, positions, known), parts(model)[1]

    def piece(at: int) -> Any:
        right = [one[at : at + AT_ONCE] for one in of]

        def losses(some: Any) -> Any:
            return loss(head(some).astype(mx.float32), *right)

        return (losses if len(positions) <= AT_ONCE else mx.checkpoint(losses))(chosen[at : at + AT_ONCE])

    return mx.concatenate([piece(at) for at in range(0, len(positions), AT_ONCE)])


def loss(logits: Any, *of: Any) -> Any:
    """In float32 [rows] for logits [rows, vocabulary]: cross-entropy at targets, or KL divergence from a `Likely`."""
    if len(of) == 1:
        return cross_entropy(logits, of[0])
    tokens, chances = of
    each = mx.take_along_axis(logits, tokens, axis=-1) - _log_total(logits)[:, None]
    rest = mx.log(mx.maximum(1 - mx.exp(each).sum(axis=-1, keepdims=True), REST))
    given = mx.log(mx.maximum(chances, 1e-30))  # 0 on padding
    return (chances * (given - mx.concatenate([each, rest], axis=-1))).sum(axis=-1)


def cross_entropy(logits: Any, targets: Any) -> Any:
    """Cross-entropy in float32 [rows] of logits [rows, vocabulary] at the targets [rows].

    The vocabulary is summed in pieces. On a CPU MLX adds its exponentials one after the other, and thousands of small
    ones vanish in a large sum: 1e-5 too little, which once a target is nearly certain is a thousandth of its
    gradient.
    """
    return _log_total(logits) - mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]


def _log_total(logits: Any) -> Any:
    total = logits
    while (count := total.shape[-1]) > SUMMED:
        whole = count // SUMMED * SUMMED
        pieces = mx.logsumexp(total[:, :whole].reshape(len(total), -1, SUMMED), axis=-1)
        total = mx.concatenate([pieces, total[:, whole:]], axis=-1)
    return mx.logsumexp(total, axis=-1)


def hidden(model: Any, tokens: Any, positions: Any, known: Sequence[Any] | None = None) -> Any:
    """The last hidden states at the learned positions [targets, width]."""
    body, _ = parts(model)
    states = body(tokens, cache=known) if known else body(tokens)
    return states.reshape(-1, states.shape[-1])[positions]


def parts(model: Any) -> tuple[Any, Any]:
    """The model up to its last hidden state, and the head that makes logits; whole and identity without a seam."""
    body = getattr(model, "model", None)
    if getattr(model, "has_seam", True) and body is not None:
        if "lm_head" in model:
            return body, model.lm_head
        if "embed_tokens" in body and getattr(getattr(model, "args", None), "tie_word_embeddings", False):
            return body, body.embed_tokens.as_linear
    return model, lambda logits: logits


def has_seam(model: Any) -> bool:
    """Whether head(body(tokens)) is what the model itself computes: some models scale or cap their logits after it."""
    tokens = mx.array([[1, 2, 3]])
    body, head = parts(model)
    whole = model(tokens)
    seamed = head(body(tokens))
    return whole.shape == seamed.shape and bool(mx.allclose(whole, seamed, rtol=1e-3, atol=1e-3).item())
