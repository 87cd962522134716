"""Which backends exist, and which one this machine should use.

A backend is a module with the same functions: `load` a model and adapter, `join` the processes that train together,
`train`, `generate`, `stream`, `score`; plain Python in, plain Python out.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from engram.memory.lookup import Memory
from engram.memory.table import Opened
from engram.memory.teach import Teacher
from engram.models.adapters import MLX_WEIGHTS, PEFT_WEIGHTS
from engram.models.model import Model
from engram.models.tokenizer import Encoded, Encoder
from engram.plan.batches import Batch, Likely
from engram.plan.checkpoint import Keeper
from engram.plan.config import Config
from engram.plan.curve import Answer, Progress, TrainingRun
from engram.plan.sharding import Ranks
from engram.support.errors import EngramError
from engram.support.files import sha256
from engram.support.machine import nvidia_gpu
from engram.support.text import nearest

# name -> module: `cuda` and `cpu` are the same code on two devices
MODULES = {"mlx": "mlx.backend", "cuda": "unsloth.backend", "cpu": "unsloth.backend"}
NAMES = tuple(MODULES)
WEIGHTS = {"mlx": MLX_WEIGHTS, "cuda": PEFT_WEIGHTS, "cpu": PEFT_WEIGHTS}  # the file of an adapter's weights


class Backend(Protocol):
    """The functions of a backend module, and the name of the weights file of its adapters."""

    WEIGHTS: str

    def load(self, model: Model, adapter: Path | Opened | None = None, quantize: str = "none", base: Any = None) -> Any:
        """A session: the model in memory, with the adapter, the memory or both that a folder holds, if one is given.

        `base` is a session of the same model with nothing on it; it is used up instead of loading the model again.
        """

    def bare(self, session: Any) -> Any:
        """The session without the LoRA adapter on it, exactly as it was loaded; None if it must be loaded again."""

    def teacher(self, model: Model, adapter: Path | None, config: Config) -> Teacher:
        """The frozen model, with the LoRA adapter of a folder if one is given, cut where a memory is read."""

    def device(self) -> str:
        """What it computes on, in words."""

    def join(self) -> Ranks:
        """The processes that a launcher started to train together, connected; this one alone without a launcher."""

    def train(
        self,
        model: Model,
        batches: Sequence[Batch],
        validation: Sequence[Batch],
        config: Config,
        out: Path,
        progress: Progress,
        keeper: Keeper | None = None,
        base: Any = None,
    ) -> TrainingRun:
        """Train an adapter on these batches, in this order, and write it to the folder `out`.

        `keeper` has the checkpoint to go on from, if any, and takes new ones; the run ends as if never interrupted.
        Of several processes that joined, each computes its share of every batch, and the first alone writes. `base` is
        used up as by `load`; the run's `session` answers with the new adapter, where that is the same as loading it.
        """

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

    def stream(
        self,
        session: Any,
        prompt: Sequence[int],
        stop: frozenset[int],
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[int]:
        """The answer's tokens as they come, without the end token; greedy at temperature 0.

        Several streams, of one session or of several, may be read in turn: each computes only while it is read.
        """

    def let_read(self, session: Any, memory: Memory, layer: int) -> None:
        """Let a session's model read a memory before a block; the number of its blocks: before its last norm."""

    def digests(self, session: Any, sequences: Sequence[Sequence[int]]) -> list[str]:
        """A SHA-256 of the logits after every token of each sequence: equal where they are, bit for bit."""

    def score(
        self, session: Any, examples: Sequence[Encoded], encoder: Encoder, likely: Sequence[Likely] = ()
    ) -> list[float]:
        """Mean nats per answer token (end token included) of each example.

        With `likely`, one for each example, the mean KL divergence from these distributions.
        """

    def likely(self, session: Any, examples: Sequence[Encoded], encoder: Encoder) -> list[Likely]:
        """The next-token distributions at the answer tokens of each example."""


class Loaded:
    """One model in memory that the stages of a process hand on: the base answers, is trained, or takes an adapter.

    Every answer and every weight is the same as with a model that was loaded for the purpose.
    """

    def __init__(self, backend: str, model: Model, quantize: str = "none") -> None:
        self.backend, self.model, self.quantize = backend, model, quantize
        self._session: Any = None
        self._on = ""  # the SHA-256 of the adapter or memory on it
        self._reads_memory = False

    def session(self, taught: Opened | None = None) -> Any:
        """A session with exactly what `taught` holds; those returned before must not be used any more."""
        wanted = taught.sha256 if taught else ""
        if self._session is None or self._on != wanted:
            self._session = get(self.backend).load(self.model, taught, self.quantize, self._base())
            self._on, self._reads_memory = wanted, bool(taught and taught.memory)
        return self._session

    def train(
        self,
        batches: Sequence[Batch],
        validation: Sequence[Batch],
        config: Config,
        out: Path,
        progress: Progress,
        keeper: Keeper,
    ) -> TrainingRun:
        """Train an adapter on the model, and leave it there; see `Backend.train`."""
        backend = get(self.backend)
        run = backend.train(self.model, batches, validation, config, out, progress, keeper, self._base())
        self._session, self._reads_memory = run.session, False
        self._on = sha256(out / backend.WEIGHTS) if run.session else ""
        return run

    def _base(self) -> Any:
        """Give away the session, with nothing on it; None if there is none."""
        session, self._session = self._session, None
        if session is None or self._reads_memory:
            return None
        return get(self.backend).bare(session) if self._on else session


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
    """The module of a backend; raises EngramError if its packages are not installed or its device is not usable."""
    module = check(name)
    module.begin(name)
    backend: Backend = module
    return backend


def check(name: str) -> Any:
    """The module of a backend, before it imports what it computes with; raises EngramError as `get` does."""
    module: Any = importlib.import_module(f"engram.backends.{MODULES[name]}")
    module.require(name)
    return module


class _Nowhere(io.TextIOBase):
    """A text stream that keeps nothing, and that a library may hold on to: it is never closed."""

    def write(self, text: str) -> int:
        return len(text)


@contextlib.contextmanager
def without_wandb() -> Iterator[None]:
    """What is imported in the block finds no wandb, which trainers import where they can, unasked.

    Its import makes temporary folders that a killed process leaves behind; `tracking` imports it where it is asked for.
    """
    known = sys.modules.get("wandb")
    if known is None:
        sys.modules["wandb"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if known is None:
            del sys.modules["wandb"]


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """What a library prints meanwhile is neither shown nor kept: over thousands of steps it is a lot."""
    nowhere = _Nowhere()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def refuse_quantize(quantize: str, name: str) -> None:
    """Raise an EngramError if a backend that cannot quantize is asked to."""
    if quantize != "none":
        raise EngramError(
            f"BACKEND={name} does not load a model in {quantize}",
            where="quantize",
            fix="QUANTIZE=none, or BACKEND=cuda",
        )
