"""Checkpoints: a training run that was interrupted, in one file that says what it is of and whether it is whole.

A safetensors file. Its metadata hold the SHA-256 of the whole file (with zeros in the place of the hash itself), what
identifies the run, its curve so far, and what of the backend's state is no tensor.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from engram.models import safetensors_file
from engram.models.safetensors_file import Tensor
from engram.support.errors import EngramError, readable_errors
from engram.support.files import read_bytes, recover, write_bytes

LAYOUT = 4  # of a backend's state in it; raise it whenever that changes, so that none is read as what it is not
EVERY = 25  # steps between two checkpoints by default
_SEAL = 64 * "0"
_SEAL_AT = 8 + len(f'{{"{safetensors_file.METADATA}":{{"sha256":"')


@dataclass(frozen=True)
class Saving:
    """How often a checkpoint is written, in steps (0: never), and whether one that is there is dropped unread."""

    every: int = EVERY
    fresh: bool = False


@dataclass(frozen=True)
class State:
    """What a backend's next step depends on besides plan and recipe: tensors, and whatever else, as plain JSON."""

    tensors: Mapping[str, Tensor]
    rest: Mapping[str, Any]
    peak_memory_bytes: int = 0


class Check(NamedTuple):
    """One validation pass: after how many steps, the mean nats per answer token, the share of rows right."""

    step: int
    loss: float
    recall: float


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` steps: its state, its curve, its time, and the steps after which it went on before."""

    step: int
    state: State
    losses: Sequence[float]
    seconds: Sequence[float]
    validation: Sequence[Check]
    wall_seconds: float
    resumed_at: Sequence[int] = ()


class Keeper:
    """The checkpoints of one run: where, of what and how often they are written, and the one that it goes on from."""

    def __init__(
        self, path: Path, identity: Mapping[str, Any], every: int = EVERY, begun: Checkpoint | None = None
    ) -> None:
        self.path, self.identity, self.every, self.begun = path, identity, every, begun
        self.resumed_at = (*begun.resumed_at, begun.step) if begun else ()
        self.kept = begun.step if begun else 0
        self._earlier, self._started = begun.wall_seconds if begun else 0.0, time.perf_counter()

    @property
    def wall_seconds(self) -> float:
        """The time of the run up to now, without what was lost with an interruption."""
        return self._earlier + time.perf_counter() - self._started

    def write(
        self, step: int, state: State, losses: Sequence[float], seconds: Sequence[float], validation: Sequence[Check]
    ) -> None:
        """Replace the checkpoint by one after `step` steps; raises EngramError if a weight is no longer a number."""
        if wrong := [name for name, tensor in state.tensors.items() if not safetensors_file.is_finite(tensor)]:
            what = f"{len(wrong)} tensors are no numbers after step {step}, {wrong[0]} the first of them"
            raise EngramError(what, where="training", problems=self.about(), fix="a lower learning_rate, FRESH=1")
        found = Checkpoint(step, state, losses, seconds, validation, self.wall_seconds, self.resumed_at)
        write_bytes(self.path, pack(found, self.identity))
        self.kept = step

    def about(self) -> list[str]:
        """A line on the checkpoint that is there; none where there is none."""
        return [f"the checkpoint after step {self.kept} is kept: {self.path}"] if self.kept else []


def path_for(adapter: Path) -> Path:
    """The path of a run's checkpoint: hidden, next to its adapter folder."""
    return adapter.with_name(f".{adapter.name}.checkpoint.safetensors")


def drop(path: Path) -> None:
    """Delete a checkpoint, and what a killed writer of it left next to it."""
    with readable_errors(path, "take this checkpoint away"):
        path.unlink(missing_ok=True)
    recover(path, parts=True)


def pack(found: Checkpoint, identity: Mapping[str, Any]) -> bytes:
    """The checkpoint as the bytes of its file."""
    curve = {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "state"}
    more = {"rest": found.state.rest, "peak_memory_bytes": found.state.peak_memory_bytes}
    about = {"sha256": _SEAL, "identity": json.dumps(identity), "run": json.dumps(curve | more)}
    content = safetensors_file.pack(safetensors_file.new_header(found.state.tensors, about), found.state.tensors)
    return _sealed(content, hashlib.sha256(content).hexdigest())


def read(path: Path) -> tuple[dict[str, Any], Checkpoint]:
    """What a checkpoint is of, and the checkpoint; raises EngramError if it is not whole."""
    content = read_bytes(path)
    said = content[_SEAL_AT : _SEAL_AT + len(_SEAL)]
    if said != hashlib.sha256(_sealed(content, _SEAL)).hexdigest().encode():
        what = "this checkpoint is damaged: its content is not the one that its SHA-256 was taken of"
        raise EngramError(what, where=str(path), fix=fix(path))
    header, tensors = safetensors_file.read(path)
    about = safetensors_file.metadata(header)
    run = json.loads(about["run"])
    state = State(tensors, run.pop("rest"), run.pop("peak_memory_bytes"))
    validation = [Check(*check) for check in run.pop("validation")]
    return json.loads(about["identity"]), Checkpoint(state=state, validation=validation, **run)


def fix(path: Path) -> str:
    """What to do about a checkpoint that cannot be used."""
    return f"drop the checkpoint: make train FRESH=1, or rm {path}"


def _sealed(content: bytes, seal: str) -> bytes:
    return content[:_SEAL_AT] + seal.encode() + content[_SEAL_AT + len(_SEAL) :]
