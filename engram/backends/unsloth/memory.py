"""A memory beside a torch model: rows added to what a block reads, at the tokens that an address answers.

`generate`, `stream` and `score` stay as they are: the model's own `forward` looks the tokens up, and a hook on the
block adds. What has been read so far stands on the cache that a call returns, so it goes where keys and values go.
On a GPU, Unsloth computes one token after others without calling its blocks. Where a row answers, such a step takes the
way of a whole prompt, and only there: an answer without any row is computed as if no memory were attached, to the last
bit. On a CPU, and for models that Unsloth has no code of its own for, transformers' code runs and calls every block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engram.memory.lookup import MISS, Memory
from engram.support.errors import EngramError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    """A memory at work in a model, and what the call that runs adds; without a memory the model is as it was."""

    def __init__(self, memory: Memory | None) -> None:
        self.memory = memory
        self.adds: Any = None  # where, bool [rows, length], and the rows there, [hits, width]
        self.added = False

    def block(self, hidden: Any) -> Any:
        """What the block reads: exactly `hidden` where no address answers."""
        if self.adds is None:
            return hidden
        where, rows = self.adds
        changed = hidden.clone()
        changed[where.to(hidden.device)] += rows.to(hidden.device, hidden.dtype)
        self.added = True
        return changed

    def forward(self, causal: Any, forward: Callable[..., Any], ids: Any, options: dict[str, Any]) -> Any:
        """The model's `forward`, with the rows of its new tokens."""
        before = getattr(options.get("past_key_values"), "engram_read", None)
        if self.memory is None or ids is None:
            return forward(input_ids=ids, **options)
        read, found = _looked_up(self.memory, ids, options, before)
        hit = found != MISS
        self.adds, self.added = _gathered(self.memory, found) if hit.any() else None, False
        try:
            if hit.any() and before is not None and ids.shape[1] == 1 and own(causal):
                out = forward(**_slowly(causal, ids, options))
            else:
                out = forward(input_ids=ids, **options)
            if self.adds is not None and not self.added:
                raise RuntimeError("the model went round the block that its memory is attached to")
        finally:
            self.adds = None
        _keep(out, read)
        return out


def attach(model: Any, memory: Memory | None, layer: int) -> Attached:
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
    if getattr(causal, "generation_config", None) is not None:
        causal.generation_config.disable_compile = True  # a compiled step would not look anything up
    return attached


def parts(model: Any, layer: int) -> tuple[Any, Any]:
    """The model without its adapters' wrapping, and its blocks; raises EngramError where there is no such layer."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    body = getattr(causal, "model", None)
    blocks = getattr(getattr(body, "language_model", body), "layers", None)
    if blocks is None or not 0 <= layer <= len(blocks):
        what = f"this model has no place for a memory before block {layer}"
        raise EngramError(what, where="memory_blocks", fix="fewer blocks (--set memory_blocks=1), or another MODEL")
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
    """Whether Unsloth computes it by code of its own, and not by transformers'."""
    return str(type(module).forward.__module__).startswith("unsloth.models")


def _slowly(causal: Any, ids: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The same call of one token, so that Unsloth calls the blocks: it does for embeddings.

    It drops the buffers of its fast way there, and fills them anew from the cache at the next fast step.
    """
    positions = options.get("position_ids")
    new = {} if positions is None else {"position_ids": positions[..., -1:]}
    return options | new | {"inputs_embeds": causal.get_input_embeddings()(ids)}


def _looked_up(
    memory: Memory, ids: Any, options: dict[str, Any], before: Read | None
) -> tuple[Read, NDArray[np.int64]]:
    """What has been read with these new ids, and their rows."""
    import numpy as np

    new = ids.cpu().numpy()
    if before is None:
        _refuse_unread(options.get("past_key_values"))
        starts = _starts(options.get("attention_mask"), new.shape)
        found = memory.rows(new, starts.tolist())
        return Read(new, starts, found[:, -1]), found
    tokens = np.concatenate([before.tokens, new], axis=1)
    found = memory.following(tokens, before.starts, new.shape[1], before.last)
    return Read(tokens, before.starts, found[:, -1]), found


def _refuse_unread(cache: Any) -> None:
    length = 0
    if cache is not None:
        length = int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else len(cache)
    if length:
        raise RuntimeError("a cache was filled where the memory could not see it")


def _starts(mask: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Each sequence's first column that is no padding, int64 [sequences].

    A mask of another form, as a static cache has, does not say; then padding counts as read, and as padding is no
    word, no other row is found.
    """
    import numpy as np

    if getattr(mask, "ndim", 0) != 2 or tuple(mask.shape) != shape:
        return np.zeros(shape[0], np.int64)
    found: NDArray[np.int64] = (mask.cpu().numpy() != 0).argmax(axis=1)
    return found


def _gathered(memory: Memory, found: NDArray[np.int64]) -> tuple[Any, Any]:
    import numpy as np
    import torch

    hit = found != MISS
    return torch.from_numpy(hit), torch.from_numpy(np.array(memory.table[found[hit]], np.float32))


def _keep(out: Any, read: Read) -> None:
    cache = getattr(out, "past_key_values", None)
    if isinstance(cache, (list, tuple)):
        out.past_key_values = cache = Kept(cache)
    if cache is not None:
        cache.engram_read = read
