"""A frozen torch model, cut before a block, that says how rows added there should change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engram.backends.unsloth import memory
from engram.plan.batches import Batch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Teacher:
    """A model cut before a block: the part below computed once, the part above with rows and their gradients."""

    def __init__(self, model: Any, blocks: int) -> None:
        """Rows are read by the last `blocks` blocks."""
        self.layer = len(memory.parts(model, 0)[1]) - blocks
        self.causal, self.blocks = memory.parts(model, self.layer)
        self.width = int(self.causal.get_input_embeddings().weight.shape[1])

    def below(self, batch: Batch) -> Any:
        """What the block reads of a batch without rows, [rows, length, width] in the model's type."""
        import torch

        with torch.no_grad(), memory.before(self.blocks, self.layer, _leave):
            try:
                self._logits(batch)
            except _LeftError as left:
                return left.hidden.detach()  # adapters have embeddings ask for a gradient
        raise RuntimeError("the model went round the block that its memory is before")

    def root_mean_square(self, batch: Batch, hidden: Any) -> float:
        """The size of a number in it, at the positions where rows are added."""
        import torch

        positions = torch.from_numpy(batch.positions[: batch.answer_tokens]).long().to(hidden.device)
        return float(hidden.reshape(-1, self.width)[positions].float().square().mean().sqrt())

    def toward(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """For each token the head's weights of its logit, behind the last norm's factors, of root mean square 1."""
        import numpy as np
        import torch

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
        from engram.backends.unsloth.training import peak_memory

        return peak_memory(cuda=self.causal.device.type == "cuda")

    def above(
        self, batch: Batch, hidden: Any, rows: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Losses in nats, float32 [targets], and the gradients of their weighted sum to the rows, float32 [targets,
        width].

        `rows` [targets, width] are added at the positions before each target; `hidden` is what `below` gave.
        """
        import torch

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
            with memory.before(self.blocks, self.layer, read), head.register_forward_pre_hook(chosen):
                logits = self._logits(batch)
            each = torch.nn.functional.cross_entropy(logits.float(), targets.long(), reduction="none")
            (gradients,) = torch.autograd.grad((each * weights).sum(), learned)
        return each.detach().cpu().numpy(), gradients.cpu().numpy()

    def _logits(self, batch: Batch) -> Any:
        import torch

        from engram.backends.unsloth.training import attention_mask

        device = self.causal.device
        half = torch.autocast("cuda", self.causal.dtype) if device.type == "cuda" else contextlib.nullcontext()
        tokens, mask = torch.from_numpy(batch.tokens).long(), torch.from_numpy(attention_mask(batch))
        with half:
            return self.causal(input_ids=tokens.to(device), attention_mask=mask.to(device), use_cache=False).logits

    @contextlib.contextmanager
    def _frozen_above(self) -> Iterator[None]:
        """No weight asks for a gradient, and the blocks below hand on what they read.

        Blocks stay where they are, since models count them. Afterwards the weights ask as before: on a CPU torch
        computes other last bits with frozen ones.
        """
        tupled = memory.own(self.causal)

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
            for block, own in below:
                del block.forward
                if own is not None:
                    block.forward = own


class _LeftError(Exception):
    """The blocks from here on are not wanted."""

    def __init__(self, hidden: Any) -> None:
        self.hidden = hidden


def _leave(hidden: Any) -> Any:
    raise _LeftError(hidden)
