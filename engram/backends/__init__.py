"""Which backends exist, and which one this machine should use.

A backend is a module with the same functions: `load` a model and adapter, `train`, `generate`, `stream`, `score`;
plain Python in, plain Python out.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from engram.config import Config
from engram.encoding import Batch, Encoded, Encoder
from engram.errors import EngramError
from engram.machine import nvidia_gpu
from engram.model import Model
from engram.text import nearest

# name -> module: `cuda` and `cpu` are the same code on two devices
MODULES = {"mlx": "mlx", "cuda": "unsloth", "cpu": "unsloth"}
NAMES = tuple(MODULES)


@dataclass(frozen=True)
class Answer:
    """Generated token ids without the end token, and whether the model ended by itself."""

    tokens: list[int]
    ended: bool


@dataclass(frozen=True)
class TrainingRun:
    """What a backend reports of a training run; losses are mean nats per answer token."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    peak_memory_bytes: int = 0
    trainable_parameters: int = 0
    device: str = ""


class Progress(Protocol):
    """Called by a backend while it trains."""

    def start(self, steps: int) -> None:
        """Before the first of `steps` optimizer steps."""

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """After optimizer step `step` (from 1); real tokens, padding not counted."""

    def validation(self, step: int, loss: float) -> None:
        """After a validation pass that follows `step` optimizer steps."""


@dataclass
class Curve:
    """The curve of a run as it comes: kept, passed on, and stopped where a loss is no number."""

    progress: Progress
    batches: Sequence[Batch]
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    peak_memory_bytes: int = 0

    def step(self, step: int, loss: float, seconds: float) -> None:
        """After optimizer step `step` (from 1), which took `seconds`; raises EngramError where `loss` is no number."""
        if not math.isfinite(loss):
            raise EngramError(
                f"the loss is {loss} at step {step}", where="training", fix="lower it: --set learning_rate=…"
            )
        self.losses.append(loss)
        self.seconds.append(seconds)
        self.progress.step(step, loss, self.batches[step - 1].real_tokens / seconds)

    def validated(self, step: int, loss: float) -> None:
        """After a validation pass that follows `step` optimizer steps."""
        self.validation.append((step, loss))
        self.progress.validation(step, loss)


class Backend(Protocol):
    """The functions of a backend module, and the name of the weights file of its adapters."""

    WEIGHTS: str

    def load(self, model: Model, adapter: Path | None = None, quantize: str = "none") -> Any:
        """A session: the model in memory, with the adapter if one is given."""

    def device(self) -> str:
        """What it computes on, in words."""

    def train(
        self,
        model: Model,
        batches: Sequence[Batch],
        validation: Sequence[Batch],
        config: Config,
        out: Path,
        progress: Progress,
    ) -> TrainingRun:
        """Train an adapter on these batches, in this order, and write it to the folder `out`."""

    def generate(
        self,
        session: Any,
        prompts: Sequence[Sequence[int]],
        stop: frozenset[int],
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Answer]:
        """Answers in the prompts' order; greedy at temperature 0."""

    def stream(self, session: Any, prompt: Sequence[int], stop: frozenset[int], max_new_tokens: int) -> Iterator[int]:
        """The greedy answer's tokens as they come, without the end token."""

    def score(self, session: Any, examples: Sequence[Encoded], encoder: Encoder) -> list[float]:
        """Mean nats per answer token (end token included) of each example."""


def choose(name: str = "auto") -> str:
    """The backend's name: `auto` is the one for this machine. Raises EngramError for an unknown name."""
    if name == "auto":
        return "cuda" if nvidia_gpu() and importlib.util.find_spec("unsloth") else "mlx"
    if name not in NAMES:
        hint = nearest(name, NAMES) or f"; known are auto, {', '.join(NAMES)}"
        raise EngramError(
            f"unknown backend {name!r}{hint}", where="BACKEND", fix="BACKEND=auto takes the one for this machine"
        )
    return name


def get(name: str) -> Backend:
    """The module of a backend; raises EngramError where its packages are not installed or its device is not usable."""
    module: Any = importlib.import_module(f"engram.backends.{MODULES[name]}")
    module.require(name)
    backend: Backend = module
    return backend


class _Nowhere(io.TextIOBase):
    """A text stream that keeps nothing, and that a library may hold on to: it is never closed."""

    def write(self, text: str) -> int:
        return len(text)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """What a library prints meanwhile is neither shown nor kept: over thousands of steps it is a lot."""
    nowhere = _Nowhere()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def refuse_quantize(quantize: str, name: str) -> None:
    """Raise an EngramError where a backend that cannot quantize is asked to."""
    if quantize != "none":
        raise EngramError(
            f"BACKEND={name} does not load a model in {quantize}",
            where="quantize",
            fix="QUANTIZE=none, or BACKEND=cuda",
        )
