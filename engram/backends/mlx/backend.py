"""What a backend does (`engram.backends.Backend`), with mlx-lm."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from engram.backends import Session as Session
from engram.backends import refuse_quantize
from engram.backends.mlx import blas, device, training
from engram.backends.mlx import generate as mlx_generate
from engram.backends.mlx import memory as mlx_memory
from engram.backends.mlx import model as mlx_model
from engram.backends.mlx.training import join as join
from engram.memory import table
from engram.memory.table import Opened
from engram.models import adapters, conversion, safetensors_file
from engram.models.model import Model
from engram.models.tokenizer import Encoded, Encoder
from engram.plan.batches import Likely, Plan, digests_of, distributions, mean_losses, tokens_at_once
from engram.plan.checkpoint import Keeper
from engram.plan.config import Config, learning_rates
from engram.plan.curve import Answer, Curve, Progress, Prompt, Prompts, TrainingRun
from engram.plan.sharding import connected, share
from engram.support.errors import EngramError
from engram.support.files import write_bytes, write_text

WEIGHTS = adapters.MLX_WEIGHTS
SCORE_BATCH = 64


def begin(name: str) -> None:
    """Nothing: MLX needs no settings before its import."""


def _described() -> str:
    """The device, and how many threads a large model computes with."""
    return device() + (f", {count} threads" if (count := blas.threads()) > 1 else "")


def load(model: Model, adapter: Path | Opened | None = None, quantize: str = "none") -> Session:
    """See `Backend.load`; in float32 on a CPU and in the model's own precision on a GPU.

    Raises EngramError if mlx-lm does not know the model, or what it was taught cannot be read or does not fit it.
    """
    loaded = mlx_model.load(model, quantize)
    if adapter is not None:
        found = table.opened(adapter, model, WEIGHTS)
        if found.lora:
            mlx_model.put_on(loaded, found.lora, model.name)
        if found.memory:
            mlx_memory.attach(loaded, found.memory, found.layer)
    loaded.eval()
    # the layers' first weights, never used, were drawn lazily: unevaluated, MLX's random state keeps every draw
    mx.eval(loaded.parameters(), mx.random.state)
    return Session(loaded, _described())


def train(
    model: Model, plan: Plan, config: Config, out: Path, progress: Progress, keeper: Keeper | None = None
) -> TrainingRun:
    """See `Backend.train`; on mlx-lm's layers, in the layout that stock mlx-lm reads."""
    loaded = mlx_model.load(model, config.quantize)
    from mlx_lm.generate import maybe_set_recommended_wired_limit

    maybe_set_recommended_wired_limit()
    loaded.freeze()
    trainable = mlx_model.attach(loaded, config)
    mx.reset_peak_memory()
    optimizer = training.adamw(config, learning_rates(config, len(plan.batches)))
    curve = Curve(progress, plan, config, keeper, join())
    if curve.begun:
        training.restore(loaded, optimizer, curve.begun.state)
    tokens = tokens_at_once(model, gpu=mx.default_device() == mx.gpu)
    again = config.gradient_checkpointing == "on"
    gradients = training.Gradients(loaded, tokens, dropout=config.dropout > 0, recompute=again)

    def measure() -> tuple[float, float]:
        loaded.eval()
        return curve.measured(partial(mlx_generate.judged, loaded))

    state, weights = partial(training.state, loaded, optimizer), partial(training.weights, loaded)
    with curve.running(state, weights), connected(training.is_lost):
        curve.begin(measure)
        for batch in plan.batches[curve.done :]:
            began = time.perf_counter()
            curve.seed_dropout(mx.random.seed)
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
    return curve.finished(int(mx.get_peak_memory()), trainable, _described())


def teacher(model: Model, adapter: Path | None, config: Config) -> mlx_memory.Teacher:
    """The frozen model, with the LoRA adapter of a folder if one is given, cut where the recipe's memory is read."""
    refuse_quantize(config.quantize, "mlx METHOD=memory")
    loaded = mlx_model.load(model)
    if adapter is not None:
        mlx_model.put_on(loaded, adapter, model.name)
    mx.reset_peak_memory()
    return mlx_memory.Teacher(loaded, config.memory_blocks)


def generate(
    session: Session, prompts: Prompts, stop: frozenset[int], limit: int, temperature: float = 0.0, seed: int = 0
) -> list[Answer]:
    """Answers in the prompts' order, batched; greedy at temperature 0."""
    mx.random.seed(seed)
    if temperature == 0 and all(prompts) and mlx_generate.repeats(session.model):
        return mlx_generate.answers(session.model, prompts, stop, limit)
    return mlx_generate.drawn(session.model, prompts, stop, limit, temperature)


def stream(
    session: Session, prompt: Prompt, stop: frozenset[int], limit: int, temperature: float = 0.0, seed: int = 0
) -> Iterator[int]:
    """The answer's tokens as they come, without the end token; greedy at temperature 0."""
    from mlx_lm.generate import generate_step
    from mlx_lm.sample_utils import make_sampler

    mx.random.seed(seed)
    sampler = make_sampler(temp=temperature)
    for token, _ in generate_step(mx.array(list(prompt)), session.model, max_tokens=limit, sampler=sampler):
        if int(token) in stop:
            return
        yield int(token)


def losses(
    session: Session, examples: Sequence[Encoded], encoder: Encoder, likely: Sequence[Likely] = ()
) -> list[list[float]]:
    """See `Backend.losses`."""
    of = partial(mlx_generate.judged, session.model)
    return mean_losses(examples, encoder.pad_id, SCORE_BATCH, lambda batch: of(batch)[0], likely)


def likely(session: Session, examples: Sequence[Encoded], encoder: Encoder) -> list[Likely]:
    """The next-token distributions at the answer tokens of each example."""
    pieces = partial(mlx_generate.pieces, session.model)
    return distributions(examples, encoder.pad_id, SCORE_BATCH, lambda batch: map(np.array, pieces(batch)))


def serve(model: Model, adapter: Path, port: int) -> None:
    """Serve the model with its LoRA adapter, in either layout, by mlx-lm's own server on 127.0.0.1, until stopped.

    Raises EngramError for a memory.
    """
    if table.is_memory(adapter):
        fix = "make ask METHOD=memory, or serve a LoRA adapter"
        raise EngramError("mlx-lm's server can't read a memory", where=str(adapter), fix=fix)
    adapters.read_adapter(adapter, WEIGHTS)
    from mlx_lm import server

    with conversion.readable(adapter, WEIGHTS) as folder:
        sys.argv = [*("mlx_lm.server", "--model", str(model.path), "--adapter-path", str(folder)), "--port", str(port),
                    "--chat-template-args", '{"enable_thinking": false}', "--log-level", "WARNING"]  # fmt: skip
        server.main()


def digests(session: Session, sequences: Sequence[Sequence[int]]) -> list[str]:
    """A SHA-256 of the logits after every token of each sequence, in batches sorted by length."""

    def logits(tokens: Any, lengths: Any) -> Any:  # noqa: ARG001 (what is behind a sequence changes nothing in it)
        return np.array(session.model(mx.array(tokens)).astype(mx.float32))

    return digests_of(sequences, SCORE_BATCH, logits)
