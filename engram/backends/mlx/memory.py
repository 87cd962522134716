"""A memory for an MLX model: rows added to what a block reads, at the tokens that an address answers.

Model and block get a subclass of their own class, for MLX has no hooks: parameters keep their names. What has been read
so far is kept with the keys and values, as one cache more whose keys are token ids and whose values are rows found, so
that it is padded, joined, filtered and trimmed with them.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from engram.backends.mlx import linux_cpu
from engram.backends.mlx.model import arrays, token_losses
from engram.memory.lookup import MISS, Memory, no_place
from engram.plan.batches import Batch, Floats


class Attached:
    """A memory at work in a model: what the next call of its block adds, or gives it to read instead."""

    def __init__(self, memory: Memory | None) -> None:
        self.memory = memory
        self.adds: Any = None  # [rows, length, width] and where, of the call that runs
        self.reads: Any = None  # a hidden state that stands for what the blocks before would give
        self.seen: Any = None  # the hidden state that the block was last given

    def read(self, tokens: Any, cache: Any) -> None:
        """Find the rows of these new tokens, before a model's blocks see them."""
        self.adds = None
        if self.memory is None:
            return
        found = self._found(self.memory, tokens, cache)
        if (hit := found != MISS).any():
            rows = np.zeros((*found.shape, self.memory.table.shape[1]), np.float32)
            rows[hit] = self.memory.table[found[hit]]
            self.adds = mx.array(rows), mx.array(hit[..., None])

    def block(self, hidden: Any) -> Any:
        """What the block reads: exactly `hidden` where no address answers."""
        self.seen = hidden = hidden if self.reads is None else self.reads
        if self.adds is None:
            return hidden
        rows, where = self.adds
        return mx.where(where, hidden + rows.astype(hidden.dtype), hidden)

    def _found(self, memory: Memory, tokens: Any, cache: Any) -> NDArray[np.int64]:
        """The rows of new tokens, int64 [sequences, tokens], which are written into the cache with them."""
        if cache is None:
            return memory.rows(np.array(tokens))
        kept, new = cache[-1], np.array(tokens)
        if before := int(kept._idx if hasattr(kept, "_idx") else kept.offset):
            whole = np.concatenate([np.array(kept.keys[:, 0, :before, 0]), new], axis=1)
            last = np.array(kept.values[:, 0, before - 1, 0]).astype(np.int64)
        else:
            whole, last = new, None
        starts = np.array(kept.left_padding) if hasattr(kept, "left_padding") else None
        found = memory.following(whole, starts, new.shape[1], last)
        kept.update_and_fetch(tokens[:, None, :, None], mx.array(found.astype(np.int32)[:, None, :, None]))
        return found


def attach(model: Any, memory: Memory | None, layer: int) -> Attached:
    """Put a memory before block `layer` of a model, or before its last norm where that is the number of its blocks.

    `memory` None finds nothing: to watch and to replace what the block reads. Raises EngramError if the model has no
    such place.
    """
    from mlx_lm.models.cache import KVCache

    body = getattr(model, "model", None)
    blocks = getattr(body, "layers", None)
    norm = _norm(body)
    if not isinstance(blocks, list) or not 0 <= layer <= len(blocks) or norm is None:
        raise no_place(layer)
    attached = Attached(memory)
    place = blocks[layer] if layer < len(blocks) else norm

    def reading(self: Any, tokens: Any, cache: Any = None, *args: Any, **more: Any) -> Any:
        attached.read(tokens, cache)
        return type(self).__mro__[1].__call__(self, tokens, cache[:-1] if cache and memory else cache, *args, **more)

    def adding(self: Any, hidden: Any, *args: Any, **more: Any) -> Any:
        return type(self).__mro__[1].__call__(self, attached.block(hidden), *args, **more)

    _change(body, reading)
    _change(place, adding)
    if memory is not None:
        make = getattr(model, "make_cache", None) or (lambda: [KVCache() for _ in blocks])
        model.make_cache = lambda: [*make(), KVCache()]
    return attached


def _norm(body: Any) -> Any:
    """The norm behind the last block; None if there is none."""
    return next((body[name] for name in ("norm", "final_layernorm") if name in (body or {})), None)


def _change(module: Any, call: Any) -> None:
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})


class Teacher:
    """A frozen model, cut before a block: below it computed once, above it with rows and their gradients."""

    def __init__(self, model: Any, blocks: int) -> None:
        """Rows are read by the last `blocks` blocks."""
        self.model = model
        self.layer = len(getattr(getattr(model, "model", None), "layers", ())) - blocks
        self.attached = attach(model, None, self.layer)
        self.width = int(model.model.embed_tokens(mx.array([0])).shape[-1])
        model.freeze()

    def below(self, batch: Batch) -> Any:
        """What the block reads of a batch without rows, [rows, length, width]."""
        self.attached.reads = self.attached.adds = None
        self.model.model(mx.array(batch.tokens))
        mx.eval(self.attached.seen)
        return self.attached.seen

    def root_mean_square(self, batch: Batch, hidden: Any) -> float:
        """The size of a number in it, at the positions where rows are added."""
        flat = hidden.reshape(-1, self.width)[mx.array(batch.positions[: batch.answer_tokens])]
        size: Any = mx.sqrt(mx.mean(mx.square(flat.astype(mx.float32))))
        return float(size.item())

    def toward(self, tokens: NDArray[np.int32]) -> Floats:
        """For each token the head's weights of its logit, behind the last norm's factors, of root mean square 1."""
        head = self.model.get("lm_head", self.model.model.embed_tokens)
        found = head.weight[mx.array(tokens)].astype(mx.float32)
        if (gain := _norm(self.model.model).get("weight")) is not None:
            found = found * gain.astype(mx.float32)
        size = mx.sqrt(mx.mean(mx.square(found), axis=-1, keepdims=True))
        return np.array(found / mx.maximum(size, 1e-12))

    def above(self, batch: Batch, hidden: Any, rows: Floats) -> tuple[Floats, Floats]:
        """See `Teacher.above` in `engram.memory.teach`."""
        tokens, positions, targets, weights = arrays(batch)
        flat = hidden.reshape(-1, self.width)

        def total(rows: Any) -> Any:
            added = (rows * weights[:, None]).astype(flat.dtype)
            self.attached.reads = flat.at[positions].add(added).reshape(hidden.shape)
            each = token_losses(self.model, tokens, positions, targets)
            return (each * weights).sum(), each

        with linux_cpu.lazily():
            (_, each), gradients = mx.value_and_grad(total)(mx.array(rows))
            mx.eval(each, gradients)
        self.attached.reads = None
        return np.array(each), np.array(gradients)

    def peak_memory(self) -> int:
        """Bytes that MLX has had at most."""
        return int(mx.get_peak_memory())
