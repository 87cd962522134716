"""Which backends exist, and which one this machine should use.

A backend is a package whose module `backend` has the functions of `Backend`: plain Python in, plain Python out.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engram.memory.table import Opened
from engram.memory.teach import Teacher
from engram.models.adapters import MLX_WEIGHTS, PEFT_WEIGHTS
from engram.models.model import Model
from engram.models.tokenizer import Encoded, Encoder
from engram.plan.batches import Likely, Plan
from engram.plan.checkpoint import Keeper
from engram.plan.config import Config
from engram.plan.curve import Answer, Progress, Prompt, Prompts, TrainingRun
from engram.plan.sharding import Ranks
from engram.support.errors import EngramError
from engram.support.machine import nvidia_gpu
from engram.support.text import nearest

# name -> package: `cuda` and `cpu` are the same code on two devices
MODULES = {"mlx": "mlx", "cuda": "unsloth", "cpu": "unsloth"}
NAMES = tuple(MODULES)
WEIGHTS = {"mlx": MLX_WEIGHTS, "cuda": PEFT_WEIGHTS, "cpu": PEFT_WEIGHTS}  # the file of an adapter's weights


@dataclass(frozen=True)
class Session:
    """A model in memory, ready to answer."""

    model: Any
    device: str


class Backend(Protocol):
    """The functions of a backend module, and the name of the weights file of its adapters."""

    WEIGHTS: str

    def load(self, model: Model, adapter: Path | Opened | None = None, quantize: str = "none") -> Any:
        """A session: the model in memory, with the adapter, the memory or both that a folder holds, if one is given."""

    def teacher(self, model: Model, adapter: Path | None, config: Config) -> Teacher:
        """The frozen model, with the LoRA adapter of a folder if one is given, cut where a memory is read."""

    def device(self) -> str:
        """What it computes on, in words."""

    def join(self) -> Ranks:
        """The processes that a launcher started to train together, connected; this one alone without a launcher."""

    def train(
        self, model: Model, plan: Plan, config: Config, out: Path, progress: Progress, keeper: Keeper | None = None
    ) -> TrainingRun:
        """Train an adapter on the planned batches, in their order, and write it to the folder `out`.

        Loss, the learning rate of each step and the initial adapter are engram's own too, so that all backends follow
        one curve. Raises EngramError if the loss goes wrong, Stopped at a signal.

        `keeper` has the checkpoint to go on from, if any, and takes new ones; the run ends as if never interrupted.
        Of several processes that joined, each computes its share of every batch, and the first alone writes.
        """

    def generate(
        self, session: Any, prompts: Prompts, stop: frozenset[int], limit: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Answer]:
        """Answers in the prompts' order, of at most `limit` tokens; greedy at temperature 0."""

    def stream(
        self, session: Any, prompt: Prompt, stop: frozenset[int], limit: int, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[int]:
        """The answer's tokens as they come, without the end token; greedy at temperature 0.

        Several streams, of one session or of several, may be read in turn: each computes only while it is read.
        """

    def digests(self, session: Any, sequences: Prompts) -> list[str]:
        """A SHA-256 of the logits after every token of each sequence: equal where they are, bit for bit."""

    def losses(
        self, session: Any, examples: Sequence[Encoded], encoder: Encoder, likely: Sequence[Likely] = ()
    ) -> list[list[float]]:
        """Each example's mean nats per answer token (end token included) and, with a distribution `likely` for each,
        its mean KL divergence from that: [losses][examples]."""

    def likely(self, session: Any, examples: Sequence[Encoded], encoder: Encoder) -> list[Likely]:
        """The next-token distributions at the answer tokens of each example."""


class Loaded:
    """One model of which the stages of a process have one session in memory at a time: untaught, or taught."""

    def __init__(self, backend: str, model: Model, quantize: str = "none") -> None:
        self.backend, self.model, self.quantize = backend, model, quantize
        self._session: Any = None
        self._on = ""  # the SHA-256 of the adapter or memory on it

    def session(self, taught: Opened | None = None) -> Any:
        """A session with exactly what `taught` holds; those returned before must not be used any more."""
        wanted = taught.sha256 if taught else ""
        if self._session is None or self._on != wanted:
            self.drop()
            self._session, self._on = get(self.backend).load(self.model, taught, self.quantize), wanted
        return self._session

    def drop(self) -> None:
        """Give the session's memory back."""
        self._session = None


def choose(name: str = "auto") -> str:
    """The backend's name: `auto` is the one for this machine. Raises EngramError for an unknown name."""
    if name == "auto":
        return "cuda" if nvidia_gpu() and importlib.util.find_spec("unsloth") else "mlx"
    if name not in NAMES:
        what = f"unknown backend {name!r}" + (nearest(name, NAMES) or f"; known are auto, {', '.join(NAMES)}")
        raise EngramError(what, where="BACKEND", fix="BACKEND=auto takes the one for this machine")
    return name


def get(name: str) -> Backend:
    """The module of a backend; raises EngramError if its packages are not installed or its device is not usable."""
    backend: Any = importlib.import_module(f"{check(name).__name__}.backend")
    backend.begin(name)
    checked: Backend = backend
    return checked


def check(name: str) -> Any:
    """The package of a backend, which has not imported what it computes with; raises EngramError as `get` does."""
    package: Any = importlib.import_module(f"engram.backends.{MODULES[name]}")
    package.require(name)
    return package


_NOWHERE = Path(os.devnull).open("w", encoding="utf-8", errors="replace")  # noqa: SIM115 (a library may hold on to it)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """What a library prints meanwhile is neither shown nor kept: over thousands of steps it is a lot."""
    with contextlib.redirect_stdout(_NOWHERE), contextlib.redirect_stderr(_NOWHERE):
        yield


def reason(error: Exception) -> str:
    """The first line of a library's error, or its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def refuse_quantize(quantize: str, name: str) -> None:
    """Raise an EngramError if a backend that cannot quantize is asked to."""
    if quantize != "none":
        what = f"BACKEND={name} does not load a model in {quantize}"
        raise EngramError(what, where="quantize", fix="QUANTIZE=none")
