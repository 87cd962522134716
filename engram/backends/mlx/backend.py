"""mlx-lm: Apple Silicon's GPU; on Linux the same code on MLX's CPU build."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engram.backends import refuse_quantize
from engram.backends.mlx import generate as mlx_generate
from engram.backends.mlx import linux_cpu, training
from engram.backends.mlx import memory as mlx_memory
from engram.backends.mlx import model as mlx_model
from engram.memory import table
from engram.memory.lookup import Memory
from engram.memory.table import Opened
from engram.models import adapters, safetensors_file
from engram.models.model import Model
from engram.models.tokenizer import Encoded, Encoder
from engram.plan.batches import Batch, Likely, distributions, mean_losses, padded, tokens_at_once
from engram.plan.checkpoint import Keeper
from engram.plan.config import Config, learning_rates
from engram.plan.curve import Answer, Curve, Progress, TrainingRun
from engram.plan.sharding import Ranks, share
from engram.support.errors import EngramError
from engram.support.files import write_bytes, write_text

WEIGHTS = adapters.MLX_WEIGHTS
SCORE_BATCH = 64


@dataclass(frozen=True)
class Session:
    """A model in memory, ready to answer."""

    model: Any
    device: str


def require(name: str = "mlx") -> None:
    """Raise an EngramError if mlx or mlx-lm is not installed."""
    if not (importlib.util.find_spec("mlx") and importlib.util.find_spec("mlx_lm")):
        raise EngramError(
            "the MLX backend is not installed", where=f"BACKEND={name}", fix="make setup, or pip install 'engram[mlx]'"
        )


def begin(name: str) -> None:
    """Nothing: MLX needs no settings before its import."""


def device() -> str:
    """What MLX computes on, in words."""
    mx = mlx_model.core()
    if mx.default_device() == mx.gpu:
        return f"Apple GPU ({mx.device_info().get('device_name', 'Metal')})"
    return f"CPU ({platform.machine()}, {linux_cpu.prepare().split(' (')[0]})"


def _described() -> str:
    """The device, and how many threads a large model computes with."""
    return device() + (f", {count} threads" if (count := linux_cpu.threads()) > 1 else "")


def join() -> Ranks:
    """The processes that `mlx.launch` started, connected; this one alone without it."""
    mlx_model.core()
    return training.join()


def load(
    model: Model, adapter: Path | Opened | None = None, quantize: str = "none", base: Session | None = None
) -> Session:
    """The model, in float32 on a CPU and in its own precision on a GPU, with what the folder `adapter` holds, if given:
    a LoRA adapter in either layout, a memory, or both.

    Raises EngramError if the model is not one that mlx-lm knows, or what it was taught cannot be read or does not
    fit it.
    """
    refuse_quantize(quantize, "mlx")
    loaded = base.model if base else mlx_model.load(model)
    if adapter is not None:
        found = table.opened(adapter, model, WEIGHTS)
        if found.lora:
            mlx_model.put_on(loaded, found.lora, model.name)
            mlx_model.merge(loaded)
        if found.memory:
            mlx_memory.attach(loaded, found.memory, found.layer)
    return _answering(loaded)


def _answering(loaded: Any) -> Session:
    loaded.eval()
    mx = mlx_model.core()
    # the layers' first weights, never used, were drawn lazily: unevaluated, MLX's random state keeps every draw
    mx.eval(loaded.parameters(), mx.random.state)
    return Session(loaded, _described())


def bare(session: Session) -> Session | None:
    """The session without the LoRA adapter on it; None if the adapter changed more than linear layers."""
    return session if mlx_model.unmerge(session.model) else None


def train(
    model: Model,
    batches: Sequence[Batch],
    validation: Sequence[Batch],
    config: Config,
    out: Path,
    progress: Progress,
    keeper: Keeper | None = None,
    base: Session | None = None,
) -> TrainingRun:
    """Train a LoRA adapter on mlx-lm's layers and write it to `out` in the layout that stock mlx-lm reads.

    Loss, batches, their order, the learning rate of each step and the initial adapter are engram's own, so that
    another backend can follow the same curve. Raises EngramError if the loss goes wrong, Stopped at a signal.
    """
    mx = mlx_model.core()
    refuse_quantize(config.quantize, "mlx")
    loaded = base.model if base else mlx_model.load(model)
    from mlx.utils import tree_map
    from mlx_lm.generate import maybe_set_recommended_wired_limit

    maybe_set_recommended_wired_limit()
    loaded.freeze()
    trainable = mlx_model.attach(loaded, config)
    mx.reset_peak_memory()
    optimizer = training.adamw(config, learning_rates(config, len(batches)))
    curve = Curve(progress, batches, validation, config, keeper, join())
    if curve.begun:
        training.restore(loaded, optimizer, curve.begun.state)
    tokens = tokens_at_once(model, gpu=mx.default_device() == mx.gpu)
    again = config.gradient_checkpointing == "on"
    gradients = training.Gradients(loaded, tokens, dropout=config.dropout > 0, recompute=again)
    measure = partial(_measured, loaded, curve)
    state, weights = partial(training.state, loaded, optimizer), partial(training.weights, loaded)
    with curve.running(state, weights), training.connected():
        curve.begin(measure)
        for step in range(curve.done, len(batches)):
            began, batch = time.perf_counter(), batches[step]
            training.seed_dropout(config, step + 1, curve.ranks)
            loaded.train()
            loss, upward = gradients(share(batch, curve.ranks), batch.answer_tokens)
            if replay := batch.replay:
                total = replay.answer_tokens / config.replay_weight
                upward = tree_map(mx.add, upward, gradients(share(replay, curve.ranks), total)[1])
            optimizer.update(loaded, training.summed(upward, curve.ranks))
            mx.eval(loaded.trainable_parameters(), optimizer.state)
            if not curve.step(curve.ranks.total(loss), time.perf_counter() - began, measure):
                break
    if kept := curve.best():
        training.put_back(loaded, kept)
    if not curve.ranks.rank:
        tensors = training.weights(loaded)
        write_bytes(out / WEIGHTS, safetensors_file.pack(safetensors_file.new_header(tensors, {}), tensors))
        settings = adapters.mlx_config(config.rank, config.scale, config.dropout, model.name)
        write_text(out / adapters.CONFIG, json.dumps(settings, indent=2) + "\n")
    mlx_model.merge(loaded)
    return curve.finished(int(mx.get_peak_memory()), trainable, _described(), _answering(loaded))


def teacher(model: Model, adapter: Path | None, config: Config) -> mlx_memory.Teacher:
    """The frozen model, with the LoRA adapter of a folder if one is given, cut where the recipe's memory is read."""
    refuse_quantize(config.quantize, "mlx")
    loaded = mlx_model.load(model)
    if adapter is not None:
        mlx_model.put_on(loaded, adapter, model.name)
        mlx_model.merge(loaded)
    mlx_model.core().reset_peak_memory()
    return mlx_memory.Teacher(loaded, config.memory_blocks, mlx_model.token_losses)


def generate(
    session: Session,
    prompts: Sequence[Sequence[int]],
    stop: frozenset[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Answer]:
    """Answers in the prompts' order, batched; greedy at temperature 0."""
    mlx_model.core().random.seed(seed)
    if temperature == 0 and all(prompts) and mlx_generate.repeats(session.model):
        return mlx_generate.answers(session.model, prompts, stop, max_new_tokens)
    return mlx_generate.drawn(session.model, prompts, stop, max_new_tokens, temperature)


def stream(
    session: Session,
    prompt: Sequence[int],
    stop: frozenset[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[int]:
    """The answer's tokens as they come, without the end token; greedy at temperature 0."""
    mx = mlx_model.core()
    from mlx_lm.generate import generate_step
    from mlx_lm.sample_utils import make_sampler

    mx.random.seed(seed)
    sampler = make_sampler(temp=temperature)
    for token, _ in generate_step(mx.array(list(prompt)), session.model, max_tokens=max_new_tokens, sampler=sampler):
        if int(token) in stop:
            return
        yield int(token)


def score(
    session: Session, examples: Sequence[Encoded], encoder: Encoder, likely: Sequence[Likely] = ()
) -> list[float]:
    """Mean nats per answer token (end token included) of each example; with `likely` those of the KL divergence."""
    losses = lambda batch: mlx_generate.judged(session.model, batch)[0]  # noqa: E731
    return mean_losses(examples, encoder.pad_id, SCORE_BATCH, losses, likely)


def likely(session: Session, examples: Sequence[Encoded], encoder: Encoder) -> list[Likely]:
    """The next-token distributions at the answer tokens of each example."""
    return distributions(examples, encoder.pad_id, SCORE_BATCH, partial(mlx_generate.logits, session.model))


def let_read(session: Session, memory: Memory, layer: int) -> None:
    """Let a session's model read a memory before a block."""
    mlx_memory.attach(session.model, memory, layer)


def digests(session: Session, sequences: Sequence[Sequence[int]]) -> list[str]:
    """A SHA-256 of the logits after every token of each sequence, in batches sorted by length."""
    mx = mlx_model.core()
    import numpy as np

    found = [""] * len(sequences)
    for batch, tokens in padded(sequences, SCORE_BATCH):
        logits = np.array(session.model(mx.array(tokens)).astype(mx.float32))
        for row, i in enumerate(batch):
            found[i] = hashlib.sha256(logits[row, : len(sequences[i])].tobytes()).hexdigest()
    return found


def _measured(loaded: Any, curve: Curve) -> tuple[float, float]:
    loaded.eval()
    return curve.measured(partial(mlx_generate.judged, loaded))
