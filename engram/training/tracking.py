"""A run's curve for TensorBoard or Weights & Biases: one observer of every backend, so that names and steps agree."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from engram.backends import Progress
from engram.plan.config import Config
from engram.support.errors import EngramError, readable_errors
from engram.training.methods import METHODS

SERVICES = ("tensorboard", "wandb")
# as transformers names them in both services; the learning rate is that of the step, the speed counts real tokens
LOSS, RATE, SPEED, CHECK = "train/loss", "train/learning_rate", "train/tokens_per_second", "eval/loss"


class Writer(Protocol):
    """What a service is to this module."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """These metrics belong to this step; steps never go back."""

    def close(self) -> None:
        """Nothing more comes."""


@dataclass
class Tracked:
    """Another progress, with everything it hears written to a service as well."""

    progress: Progress
    writer: Writer
    config: Config
    rates: list[float] = field(default_factory=list)  # of each step

    def start(self, steps: int, losses: Sequence[float] = ()) -> None:
        """The number of steps is known, and with it the learning rate of each."""
        self.rates = METHODS[self.config.method].rates(self.config, steps)
        self.progress.start(steps, losses)

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """After an optimizer step."""
        self.writer.write(step, {LOSS: loss, RATE: self.rates[step - 1], SPEED: tokens_per_second})
        self.progress.step(step, loss, tokens_per_second)

    def validation(self, step: int, loss: float) -> None:
        """After a validation pass."""
        self.writer.write(step, {CHECK: loss})
        self.progress.validation(step, loss)


@contextlib.contextmanager
def tracked(service: str | None, progress: Progress, config: Config, name: str, folder: Path) -> Iterator[Progress]:
    """`progress`, written to this service too (None: to none), under `name`, in files below `folder`.

    Raises EngramError where the service's package is not installed or refuses to begin.
    """
    if service is None:
        yield progress
        return
    if not importlib.util.find_spec(service):
        fix = f"{sys.executable} -m pip install 'engram[tracking]'"
        raise EngramError(f"{service} is not installed", where="--report-to", fix=fix)
    writer = (
        _TensorBoard(folder / "tensorboard" / name, config)
        if service == "tensorboard"
        else _Wandb(folder, name, config)
    )
    with contextlib.closing(writer):
        yield Tracked(progress, writer, config)


class _TensorBoard:
    """An event file. TensorBoard's own writer would put the host's name into the name of the file."""

    def __init__(self, folder: Path, config: Config) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        path = folder / f"events.out.tfevents.{time.time_ns()}"
        with readable_errors(path, "write this file"):
            folder.mkdir(parents=True, exist_ok=True)
            self.records = RecordWriter(path.open("wb"))
        self._add(file_version="brain.Event:2")
        self._add(summary=hparams_pb(config.as_dict(), trial_id=folder.name))
        self.begun = False

    def write(self, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        if not self.begun:  # what an earlier run, or one that was taken up again, had from here on is void
            self._add(step=step, session_log=SessionLog(status=SessionLog.START))
            self.begun = True
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(step=step, summary=Summary(value=scalars))

    def close(self) -> None:
        self.records.close()

    def _add(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.records.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self.records.flush()


class _Wandb:
    """A run of Weights & Biases, offline unless WANDB_MODE says otherwise: metrics and settings, nothing else."""

    def __init__(self, folder: Path, name: str, config: Config) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read at import
        import wandb

        with readable_errors(folder, "write this folder"):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self.run = wandb.init(
                project="engram", name=name, config=config.as_dict(), dir=str(folder), settings=_private(wandb)
            )
        except wandb.Error as error:
            fix = "WANDB_MODE=offline, or log in: wandb login"
            raise EngramError(f"wandb does not begin: {error}", where="--report-to", fix=fix) from error

    def write(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        import wandb

        self.run.finish(exit_code=1 if sys.exc_info()[0] else 0)
        wandb.teardown()  # waits for the process that writes the file


def _private(wandb: Any) -> Any:
    """Settings under which wandb says nothing and records neither person, machine, code, packages nor arguments."""
    return wandb.Settings(
        mode=os.environ.get("WANDB_MODE", "offline"),
        console="off",
        silent=True,
        host="engram",
        username="engram",
        email="",
        program="engram",
        program_abspath="",
        program_relpath="",
        disable_code=True,
        save_code=False,
        disable_git=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_disable_viewer=True,
        x_save_requirements=False,
    )
