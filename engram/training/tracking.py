"""A run's curve for TensorBoard or Weights & Biases, with the same names and steps on every backend."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engram.plan.config import Config
from engram.plan.curve import Progress
from engram.support.errors import EngramError, readable_errors
from engram.training.methods import METHODS

SERVICES = ("tensorboard", "wandb")
# as transformers names them in both services; the learning rate is the step's, the speed counts real tokens
LOSS, RATE, SPEED = "train/loss", "train/learning_rate", "train/tokens_per_second"
CHECK, KNOWN = "eval/loss", "eval/recall"
# under these settings wandb prints nothing and records neither user, machine, code, packages nor arguments
WANDB_SETTINGS: dict[str, Any] = {
    **{"console": "off", "silent": True, "host": "engram", "username": "engram", "email": "", "program": "engram"},
    **{"program_abspath": "", "program_relpath": "", "disable_code": True, "save_code": False, "disable_git": True},
    **{"disable_job_creation": True, "x_disable_meta": True, "x_disable_stats": True, "x_disable_viewer": True},
    **{"x_disable_machine_info": True, "x_save_requirements": False},
}


@contextlib.contextmanager
def tracked(service: str | None, progress: Progress, config: Config, name: str, folder: Path) -> Iterator[Progress]:
    """`progress`, written to a service as well (None: to none), under `name`, in files below `folder`.

    Raises EngramError if the service's package is not installed or does not start.
    """
    if service is None:
        yield progress
        return
    if not importlib.util.find_spec(service):
        fix = f"{sys.executable} -m pip install 'engram[tracking]'"
        raise EngramError(f"{service} is not installed", where="--report-to", fix=fix)
    place = folder / "tensorboard" / name if service == "tensorboard" else folder
    with readable_errors(place, "write this folder"):
        place.mkdir(parents=True, exist_ok=True)
        writer = TensorBoard(place, config) if service == "tensorboard" else Wandb(place, config, name)
    with contextlib.closing(writer):
        yield Tracked(progress, writer, config)


class Tracked:
    """A progress that passes everything on to another one, and writes it to a service."""

    def __init__(self, progress: Progress, writer: TensorBoard | Wandb, config: Config) -> None:
        self.progress, self.writer, self.config = progress, writer, config

    def start(self, steps: int, losses: Sequence[float] = ()) -> None:
        """Before the first step: the number of steps gives the learning rate of each."""
        self.rates = METHODS[self.config.method].rates(self.config, steps)
        self.progress.start(steps, losses)

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """After an optimizer step."""
        self.writer.write(step, {LOSS: loss, RATE: self.rates[step - 1], SPEED: tokens_per_second})
        self.progress.step(step, loss, tokens_per_second)

    def validation(self, step: int, loss: float, recall: float) -> None:
        """After a validation pass."""
        self.writer.write(step, {CHECK: loss, KNOWN: recall})
        self.progress.validation(step, loss, recall)


class TensorBoard:
    """An event file in a folder. TensorBoard's own writer would put the host's name into the file's name."""

    def __init__(self, folder: Path, config: Config) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.records = RecordWriter((folder / f"events.out.tfevents.{time.time_ns()}").open("wb"))
        self._add(file_version="brain.Event:2")
        self._add(summary=hparams_pb(config.as_dict(), trial_id=folder.name))
        self.begun = False

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write the metrics of a step; steps never go back."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        if not self.begun:  # an earlier file's values from here on are void: the run was interrupted and continues
            self._add(step=step, session_log=SessionLog(status=SessionLog.START))
            self.begun = True
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(step=step, summary=Summary(value=scalars))

    def close(self) -> None:
        """Close the file."""
        self.records.close()

    def _add(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.records.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self.records.flush()


class Wandb:
    """A run of Weights & Biases with metrics and settings only; offline unless WANDB_MODE says otherwise."""

    def __init__(self, folder: Path, config: Config, name: str) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read at import
        import wandb

        settings = wandb.Settings(mode=os.environ.get("WANDB_MODE", "offline"), **WANDB_SETTINGS)
        try:
            self.run = wandb.init(
                project="engram", name=name, config=config.as_dict(), dir=str(folder), settings=settings
            )
        except wandb.Error as error:
            fix = "WANDB_MODE=offline, or log in: wandb login"
            raise EngramError(f"wandb does not start: {error}", where="--report-to", fix=fix) from error

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write the metrics of a step; steps never go back."""
        self.run.log(values, step=step)

    def close(self) -> None:
        """End the run."""
        import wandb

        self.run.finish(exit_code=1 if sys.exc_info()[0] else 0)
        wandb.teardown()  # waits for the process that writes the file
