"""mlx-lm: Apple Silicon's GPU; on Linux the same code on MLX's CPU build."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
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
from engram.models import adapters
from engram.models.model import Model
from engram.models.tokenizer import Encoded, Encoder
from engram.plan.batches import Batch, mean_losses, padded
from engram.plan.checkpoint import Keeper
from engram.plan.config import Config
from engram.plan.curve import Answer, Curve, Progress, TrainingRun
from engram.plan.learning_rates import learning_rates
from engram.plan.sharding import Ranks
from engram.support.errors import EngramError
from engram.support.files import write_text

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
        if found.memory:
            mlx_memory.attach(loaded, found.memory, found.layer)
    return _answering(loaded)


def _answering(loaded: Any) -> Session:
    loaded.eval()
    mx = mlx_model.core()
    # the layers' first weights, never used, were drawn lazily: unevaluated, MLX's random state keeps every draw
    mx.eval(loaded.parameters(), mx.random.state)
    return Session(loaded, device())


def bare(session: Session) -> Session | None:
    """The session without the LoRA adapter on it; None if the adapter changed more than linear layers."""
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import remove_lora_layers

    remove_lora_layers(session.model)
    return None if any("lora_" in name for name, _ in tree_flatten(session.model.parameters())) else session


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
    """Train a LoRA adapter through mlx-lm's trainer and write it to `out` in the layout that stock mlx-lm reads.

    Loss, batches, their order, the learning rate of each step and the initial adapter are engram's own, so that
    another backend can follow the same curve. Raises EngramError if the loss goes wrong, Stopped at a signal.
    """
    mx = mlx_model.core()
    refuse_quantize(config.quantize, "mlx")
    loaded = base.model if base else mlx_model.load(model)
    from mlx_lm.tuner.trainer import TrainingArgs
    from mlx_lm.tuner.trainer import train as mlx_train

    loaded.freeze()
    trainable = mlx_model.attach(loaded, config)
    mx.reset_peak_memory()
    optimizer = training.adamw(config, learning_rates(config, len(batches)))
    curve = Curve(progress, batches, validation, config, keeper, join())
    if curve.begun:
        training.restore(loaded, optimizer, curve.begun.state)
    arguments = TrainingArgs(
        iters=len(batches) - curve.done,
        steps_per_report=1,
        steps_per_save=len(batches) + 1,
        adapter_file=str(out / WEIGHTS),
    )
    rest = partial(_rest, loaded, curve, config)  # validates too: mlx-lm would count from where it goes on
    with curve.running(partial(training.state, loaded, optimizer)), training.quiet(out.parent):
        mlx_train(
            loaded,
            optimizer,
            batches,
            None,
            arguments,
            training.loss_of(mlx_model.loss, curve.ranks),
            rest,
            _Report(curve),
        )
    if not curve.ranks.rank:  # mlx-lm's trainer writes the weights in the first process alone as well
        settings = adapters.mlx_config(config.rank, config.scale, config.dropout, model.name)
        write_text(out / adapters.CONFIG, json.dumps(settings, indent=2) + "\n")
    return curve.finished(int(mx.get_peak_memory()), trainable, device(), _answering(loaded))


def teacher(model: Model, adapter: Path | None, config: Config) -> mlx_memory.Teacher:
    """The frozen model, with the LoRA adapter of a folder if one is given, cut where the recipe's memory is read."""
    refuse_quantize(config.quantize, "mlx")
    loaded = mlx_model.load(model)
    if adapter is not None:
        mlx_model.put_on(loaded, adapter, model.name)
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


def score(session: Session, examples: Sequence[Encoded], encoder: Encoder) -> list[float]:
    """Mean nats per answer token (end token included) of each example, in batches sorted by length."""
    mx = mlx_model.core()
    import numpy as np

    repeats = mlx_generate.repeats(session.model)

    def losses(batch: Batch) -> Any:
        known, rest = mlx_generate.begun(session.model, batch) if repeats else (None, batch)
        tokens, positions, targets, _ = mlx_model.arrays(rest)
        return np.array(mlx_model.token_losses(session.model, tokens, positions, targets, known).astype(mx.float32))

    return mean_losses(examples, encoder.pad_id, SCORE_BATCH, losses)


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


class _Report:
    """mlx-lm's callback: hands the curve what it hears."""

    def __init__(self, curve: Curve) -> None:
        self.curve = curve

    def on_train_loss_report(self, info: dict[str, Any]) -> None:
        step = self.curve.done + int(info["iteration"])
        # mlx-lm reports the step's time as this rate
        seconds = self.curve.batches[step - 1].answer_tokens / info["tokens_per_second"]
        self.curve.step(step, float(info["train_loss"]), seconds)


def _rest(loaded: Any, curve: Curve, config: Config, **_: Any) -> Iterator[tuple[Any, ...]]:
    """The planned batches that are still to come, as mlx-lm's trainer asks for them; validates before one when due."""
    from mlx_lm.tuner.trainer import evaluate

    for step, batch in enumerate(curve.batches[curve.done :], curve.done + 1):
        if curve.is_validated_before(step):
            of, each = training.loss_of(mlx_model.loss, curve.ranks), partial(_iterate, ranks=curve.ranks)
            loss = evaluate(loaded, curve.validated_on, config.batch_size, -1, config.max_length, of, each)
            loaded.train()
            curve.validated(step - 1, float(loss))
        training.seed_dropout(config, step, curve.ranks)
        own, weight = training.portion(batch, curve.ranks, learn=True)
        yield (*mlx_model.arrays(own), *weight)


def _iterate(dataset: Sequence[Batch], ranks: Ranks, **_: Any) -> Iterator[tuple[Any, ...]]:
    """The batches in their order, as mlx-lm's evaluation asks for them."""
    portions = (training.portion(batch, ranks, learn=False) for batch in dataset)
    return ((*mlx_model.arrays(own), *weight) for own, weight in portions)
