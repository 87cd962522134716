"""A memory for a torch model: rows added to what a block reads, at the tokens that an address answers.

The model's own `forward` looks the tokens up, and a hook on the block adds. What has been read so far is kept on the
cache that a call returns, so it goes where keys and values go. On a GPU, Unsloth computes one token after others
without calling its blocks. Where a row answers, such a step takes the way of a whole prompt, and only there: an answer
without any row is computed as if no memory were attached, to the last bit.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engram.backends.unsloth import training
from engram.backends.unsloth.process import half
from engram.memory.lookup import MISS, Memory, no_place
from engram.plan.batches import Batch, Floats


@dataclass(frozen=True)
class Read:
    """What a cache has seen: ids int64 [sequences, length], where each begins, and the rows of the last tokens."""

    tokens: NDArray[np.int64]
    starts: NDArray[np.int64]
    last: NDArray[np.int64]


class Kept(tuple[Any, ...]):
    """Unsloth's keys and values, which have no place for what was read."""

    engram_read: Read


class Attached:
    """A memory at work in a model, and what the call that runs adds."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.adds: Any = None  # where, bool [rows, length], and the rows there, [hits, width]

    def block(self, hidden: Any) -> Any:
        """What the block reads: exactly `hidden` where no address answers."""
        if self.adds is None:
            return hidden
        where, rows = self.adds
        changed = hidden.clone()
        changed[where.to(hidden.device)] += rows.to(hidden.device, hidden.dtype)
        return changed

    def forward(self, causal: Any, forward: Callable[..., Any], ids: Any, options: dict[str, Any]) -> Any:
        """The model's `forward`, with the rows of its new tokens."""
        if ids is None:
            return forward(input_ids=ids, **options)
        before = getattr(options.get("past_key_values"), "engram_read", None)
        read, found = _looked_up(self.memory, ids, options, before)
        hit = found != MISS
        if hit.any():
            rows = torch.from_numpy(np.array(self.memory.table[found[hit]], np.float32))
            self.adds = torch.from_numpy(hit), rows
        call = {"input_ids": ids, **options}
        if hit.any() and before is not None and ids.shape[1] == 1 and own(causal):
            # for embeddings Unsloth calls the blocks; it drops the buffers of its fast way there, and fills them again
            # from the cache at the next fast step
            call = {**options, "inputs_embeds": causal.get_input_embeddings()(ids)}
            if (positions := options.get("position_ids")) is not None:
                call["position_ids"] = positions[..., -1:]
        try:
            out = forward(**call)
        finally:
            self.adds = None
        cache = getattr(out, "past_key_values", None)
        if isinstance(cache, (list, tuple)):
            out.past_key_values = cache = Kept(cache)
        if cache is not None:
            cache.engram_read = read
        return out


def attach(model: Any, memory: Memory, layer: int) -> Attached:
    """Put a memory before block `layer` of a model, or before its last norm where that is the number of its blocks.

    `model` may be one with LoRA adapters; everything that calls it from now on reads the memory. Raises EngramError
    where the model has no such place.
    """
    causal, blocks = parts(model, layer)
    attached = Attached(memory)
    before(blocks, layer, attached.block)
    plain = causal.forward

    @functools.wraps(plain)  # generate looks at its parameters
    def forward(input_ids: Any = None, **options: Any) -> Any:
        return attached.forward(causal, plain, input_ids, options)

    causal.forward = forward
    causal.generation_config.disable_compile = True  # a compiled step would not look anything up
    return attached


def parts(model: Any, layer: int) -> tuple[Any, Any]:
    """The model without its adapters' wrapping, and its blocks; raises EngramError if there is no such layer."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    body = getattr(causal, "model", None)
    blocks = getattr(getattr(body, "language_model", body), "layers", None)
    if blocks is None or not 0 <= layer <= len(blocks):
        raise no_place(layer)
    return causal, blocks


def before(blocks: Any, layer: int, change: Callable[[Any], Any]) -> Any:
    """Have `change` make what block `layer` reads of what it would read; the hook's handle, which a `with` removes.

    Unsloth computes the last norm without calling it: before it is behind the last block.
    """

    def reading(_: Any, hidden: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(hidden[0]), *hidden[1:])

    def written(_: Any, __: Any, out: Any) -> Any:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    if layer < len(blocks):
        return blocks[layer].register_forward_pre_hook(reading)
    return blocks[-1].register_forward_hook(written)


def own(module: Any) -> bool:
    """Whether Unsloth computes it with its own code, not with transformers'."""
    return str(type(module).forward.__module__).startswith("unsloth.models")


def _looked_up(
    memory: Memory, ids: Any, options: dict[str, Any], before: Read | None
) -> tuple[Read, NDArray[np.int64]]:
    """What has been read with these new ids, and their rows."""
    tokens, mask = ids.cpu().numpy(), options.get("attention_mask")
    new = tokens.shape[1]
    if before:
        tokens, starts = np.concatenate([before.tokens, tokens], axis=1), before.starts
    elif mask is not None and mask.shape == tokens.shape:
        starts = (mask.cpu().numpy() != 0).argmax(axis=1)  # each sequence's first column that is no padding
    else:  # a mask of another form does not say
        starts = np.zeros(len(tokens), np.int64)
    found = memory.following(tokens, starts, new, before.last if before else None)
    return Read(tokens, starts, found[:, -1]), found


class Teacher:
    """A model cut before a block: the part below computed once, the part above with rows and their gradients."""

    def __init__(self, model: Any, blocks: int) -> None:
        """Rows are read by the last `blocks` blocks."""
        self.layer = len(parts(model, 0)[1]) - blocks
        self.causal, self.blocks = parts(model, self.layer)
        self.width = int(self.causal.get_input_embeddings().weight.shape[1])

    def below(self, batch: Batch) -> Any:
        """What the block reads of a batch without rows, [rows, length, width] in the model's type."""
        with torch.no_grad(), before(self.blocks, self.layer, _leave):
            try:
                self._logits(batch)
            except _LeftError as left:
                hidden = left.args[0].detach()  # adapters have embeddings ask for a gradient
        return hidden

    def root_mean_square(self, batch: Batch, hidden: Any) -> float:
        """The size of a number in it, at the positions where rows are added."""
        positions = torch.from_numpy(batch.positions[: batch.answer_tokens]).long().to(hidden.device)
        return float(hidden.reshape(-1, self.width)[positions].float().square().mean().sqrt())

    def toward(self, tokens: NDArray[np.int32]) -> Floats:
        """For each token the head's weights of its logit, behind the last norm's factors, of root mean square 1."""
        head = self.causal.get_output_embeddings().weight
        body = self.causal.model
        norm = getattr(body, "norm", None) or getattr(body, "final_layernorm", None)
        with torch.no_grad():
            found = head[torch.from_numpy(tokens).long().to(head.device)].float()
            if norm is not None:
                found = found * norm.weight.float()
            found = found / found.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
        return np.asarray(found.cpu().numpy(), np.float32)

    def peak_memory(self) -> int:
        """The most memory that the GPU, else this process, has had, in bytes."""
        return training.peak_memory(cuda=self.causal.device.type == "cuda")

    def above(self, batch: Batch, hidden: Any, rows: Floats) -> tuple[Floats, Floats]:
        """See `Teacher.above` in `engram.memory.teach`."""
        positions, targets, weights = (
            torch.from_numpy(part).to(hidden.device) for part in (batch.positions, batch.targets, batch.weights)
        )
        positions, flat = positions.long(), hidden.reshape(-1, hidden.shape[-1])
        learned = torch.from_numpy(rows).to(hidden.device).requires_grad_()
        adds = (learned * weights[:, None]).to(hidden.dtype)

        def read(_: Any) -> Any:
            return flat.index_add(0, positions, adds).reshape(hidden.shape)

        def chosen(_: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
            return (states[0].reshape(-1, states[0].shape[-1])[positions], *states[1:])

        head = self.causal.get_output_embeddings()  # of the learned positions alone: a vocabulary is large
        with torch.enable_grad(), self._frozen_above():
            with before(self.blocks, self.layer, read), head.register_forward_pre_hook(chosen):
                logits = self._logits(batch)
            each = torch.nn.functional.cross_entropy(logits.float(), targets.long(), reduction="none")
            (gradients,) = torch.autograd.grad((each * weights).sum(), learned)
        return each.detach().cpu().numpy(), gradients.cpu().numpy()

    def _logits(self, batch: Batch) -> Any:
        device = self.causal.device
        tokens, mask = torch.from_numpy(batch.tokens).long(), torch.from_numpy(training.attention_mask(batch))
        with half():
            return self.causal(input_ids=tokens.to(device), attention_mask=mask.to(device), use_cache=False).logits

    @contextlib.contextmanager
    def _frozen_above(self) -> Iterator[None]:
        """No weight asks for a gradient, and the blocks below hand on what they read.

        Blocks stay where they are, since models count them. Afterwards the weights ask as before: on a CPU torch
        computes other last bits with frozen ones.
        """
        tupled = own(self.causal)

        def nothing(hidden: Any, *_: Any, **__: Any) -> Any:
            return (hidden,) if tupled else hidden

        below = [(block, vars(block).get("forward")) for block in self.blocks[: self.layer]]
        asking = [parameter for parameter in self.causal.parameters() if parameter.requires_grad]
        for block, _ in below:
            block.forward = nothing
        for parameter in asking:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in asking:
                parameter.requires_grad_(True)
            for block, forward in below:
                del block.forward
                if forward is not None:
                    block.forward = forward


class _LeftError(Exception):
    """The blocks from here on are not wanted; its argument is the hidden state."""


def _leave(hidden: Any) -> Any:
    raise _LeftError(hidden)
