"""Pretraining of the bundled model: rows of tokens in, a Hugging Face model folder out."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.support.files import writing
from tools.tiny.rows import Batches, Rows
from tools.tiny.tokenizer import CONTEXT, VOCABULARY

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Shape:
    """The model: 3.15 M parameters, 6.3 MB in bf16."""

    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 3
    num_key_value_heads: int = 1
    head_dim: int = 64
    vocab_size: int = VOCABULARY
    max_position_embeddings: int = CONTEXT


@dataclass(frozen=True)
class Schedule:
    """One run: 8,192 tokens a step; learning rates for matrices (Muon) and for everything else (AdamW)."""

    steps: int
    seed: int = 0
    rows: int = 32
    chat_rows: int = 16
    length: int = 256
    muon_lr: float = 0.02
    adamw_lr: float = 4e-3
    warmup: int = 40
    final_fraction: float = 0.02

    def factor(self, step: int) -> float:
        """The learning rate of `step` as a fraction of its peak: linear warmup, then half a cosine."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * done))


def new_model(seed: int, tokenizer: Any) -> Any:
    """A randomly initialised `LlamaForCausalLM` of `Shape`, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        **asdict(Shape()),
        tie_word_embeddings=True,
        initializer_range=0.02,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write `model.safetensors` (bf16), both config files and the tokenizer in the Hugging Face layout."""
    import copy

    import torch
    from transformers import GenerationConfig

    small = copy.deepcopy(model).to(torch.bfloat16)
    small.config.dtype = torch.bfloat16
    small.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    small.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _add_older_names(folder)


def _add_older_names(folder: Path) -> None:
    """Say two things the older way as well, so that transformers 4 and other readers need no special case."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"rope_theta": 10000.0, "torch_dtype": "bfloat16"})
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings = {name: value for name, value in settings.items() if name not in ("is_local", "local_files_only")}
    write_json(folder / "tokenizer_config.json", settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    (folder / "model.safetensors").chmod(0o644)


def mean_loss(model: Any, rows: Rows, batch: int = 32) -> float:
    """Mean cross entropy in nats a token over the rows' tokens of weight 1 (answers, or all of a text)."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows.tokens), batch):
            tokens = torch.from_numpy(rows.tokens[start : start + batch].astype("int64"))
            wanted = torch.from_numpy(rows.weights[start : start + batch])[:, 1:] == 1
            losses = _token_losses(model, tokens)
            total += float(losses[wanted].sum())
            count += int(wanted.sum())
    return total / max(1, count)


def _token_losses(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Cross entropy of every next token: (rows, length + 1) int64 -> (rows, length) float32."""
    import torch
    from torch.nn import functional

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bfloat16()):
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    flat = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return flat.view(tokens.shape[0], -1)


def has_bfloat16() -> bool:
    """Whether this processor multiplies bf16 natively; where it does not, float32 is the faster one."""
    import torch

    capabilities = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in capabilities and _cpu_flag("avx512_bf16")


def _cpu_flag(flag: str) -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and flag in cpuinfo.read_text(encoding="utf-8", errors="replace")


def _optimizers(model: Any, schedule: Schedule) -> list[Any]:
    """Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) for the blocks' matrices, AdamW for the rest."""
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=schedule.muon_lr, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(others, lr=schedule.adamw_lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0),
    ]


def train(
    model: Any,
    chat: Rows,
    text: Rows,
    schedule: Schedule,
    *,
    work: Path,
    on_snapshot: Callable[[Any], None],
    report: Callable[[str], None],
    snapshot_seconds: float = 300.0,
) -> dict[str, float]:
    """Train `model` in place; returns steps, tokens, seconds, tokens a second and the last mean losses.

    A checkpoint (weights, optimizers, step) lies in `work` after each snapshot; a run that finds one of the
    same schedule and data there goes on from it, with the same batches as if it had never stopped.
    """
    import torch

    _keep_memory()
    optimizers = _optimizers(model, schedule)
    chat_batches = Batches(chat, schedule.chat_rows, schedule.seed + 1)
    text_batches = Batches(text, schedule.rows - schedule.chat_rows, schedule.seed + 2)
    checkpoint = work / "checkpoint.pt"
    key = {**asdict(schedule), "data": _digest(chat, text)}
    first, earlier = _resume(checkpoint, model, optimizers, key)
    for _ in range(first):
        chat_batches.take(), text_batches.take()
    model.train()
    started = last_snapshot = time.monotonic()
    recent: list[tuple[float, float]] = []
    for step in range(first, schedule.steps):
        losses = _step(model, optimizers, schedule, step, chat_batches.take(), text_batches.take())
        recent = [*recent[-49:], losses]
        now = time.monotonic()
        if step % 20 == 19 or step + 1 == schedule.steps:
            report(_progress(step, first, schedule, recent, now - started))
        if now - last_snapshot > snapshot_seconds or step + 1 == schedule.steps:
            state = {"key": key, "step": step + 1, "seconds": earlier + now - started}
            state |= {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
            with writing(checkpoint) as place:
                torch.save(state, place)
            on_snapshot(model)
            last_snapshot = time.monotonic()
    seconds = earlier + time.monotonic() - started
    tokens = schedule.steps * schedule.rows * schedule.length
    return {
        "steps": schedule.steps,
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / max(seconds, 1e-9)),
        "train_loss_chat": round(_mean([c for c, _ in recent]), 4),
        "train_loss_text": round(_mean([t for _, t in recent]), 4),
    }


def _keep_memory() -> None:
    """Have glibc keep freed blocks: the step's large tensors are then not mapped anew (5,100 -> 7,900 tokens/s)."""
    if platform.system() != "Linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own mapping
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give nothing back
        libc.mallopt(-2, 2**28)  # M_TOP_PAD: grow in steps of 256 MB


def _resume(checkpoint: Path, model: Any, optimizers: Sequence[Any], key: dict[str, Any]) -> tuple[int, float]:
    """Load a checkpoint of the same schedule and data; (step to go on with, seconds spent so far), else (0, 0)."""
    import torch

    if not checkpoint.is_file():
        return 0, 0.0
    state = torch.load(checkpoint, weights_only=True)
    if state["key"] != key:
        return 0, 0.0
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"]), float(state["seconds"])


def _digest(*kinds: Rows) -> str:
    digest = hashlib.sha256()
    for rows in kinds:
        digest.update(rows.tokens.tobytes())
    return digest.hexdigest()


def _step(
    model: Any, optimizers: Sequence[Any], schedule: Schedule, step: int, chat: Rows, text: Rows
) -> tuple[float, float]:
    """One optimizer step on chat and text rows together; returns the weighted mean loss of each kind."""
    import numpy as np
    import torch

    for optimizer, peak in zip(optimizers, (schedule.muon_lr, schedule.adamw_lr), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * schedule.factor(step)
        optimizer.zero_grad(set_to_none=True)
    tokens = torch.from_numpy(np.concatenate([chat.tokens, text.tokens]).astype("int64"))
    weights = torch.from_numpy(np.concatenate([chat.weights, text.weights]))[:, 1:]
    losses = _token_losses(model, tokens) * weights
    (losses.sum() / weights.sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    split = len(chat.tokens)
    return (
        float((losses[:split].sum() / weights[:split].sum()).detach()),
        float((losses[split:].sum() / weights[split:].sum()).detach()),
    )


def _progress(step: int, first: int, schedule: Schedule, recent: list[tuple[float, float]], seconds: float) -> str:
    done = step + 1 - first
    speed = done * schedule.rows * schedule.length / seconds
    left = (schedule.steps - step - 1) * seconds / done / 60
    return (
        f"step {step + 1}/{schedule.steps}  chat {_mean([c for c, _ in recent]):.3f}  "
        f"text {_mean([t for _, t in recent]):.3f}  {speed:,.0f} tokens/s  {left:.1f} min left"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document` with two-space indentation and a final newline."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
