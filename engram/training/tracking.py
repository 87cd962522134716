"""A run's curve for TensorBoard or Weights & Biases, with the same names and steps on every backend."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engram.plan.config import Config
from engram.plan.curve import Progress
from engram.support.errors import EngramError
from engram.training.methods import METHODS

Write = Callable[[int, dict[str, float]], None]  # writes the metrics of a step; steps never go back
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
        fix = f"{sys.executable} -m pip install '.[tracking]'"
        raise EngramError(f"{service} is not installed", where="--report-to", fix=fix)
    with (_tensorboard if service == "tensorboard" else _wandb)(folder, config, name) as write:
        yield Tracked(progress, write, config)


class Tracked:
    """A progress that passes everything on to another one, and writes it under the names that transformers uses."""

    def __init__(self, progress: Progress, write: Write, config: Config) -> None:
        self.progress, self.write, self.config = progress, write, config

    def start(self, steps: int, losses: Sequence[float] = ()) -> None:
        """Before the first step: the number of steps gives the learning rate of each."""
        self.rates = METHODS[self.config.method].rates(self.config, steps)
        self.progress.start(steps, losses)

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """After an optimizer step."""
        values = {"loss": loss, "learning_rate": self.rates[step - 1], "tokens_per_second": tokens_per_second}
        self.write(step, {f"train/{name}": value for name, value in values.items()})
        self.progress.step(step, loss, tokens_per_second)

    def validation(self, step: int, loss: float, recall: float) -> None:
        """After a validation pass."""
        self.write(step, {"eval/loss": loss, "eval/recall": recall})
        self.progress.validation(step, loss, recall)


@contextlib.contextmanager
def _tensorboard(folder: Path, config: Config, name: str) -> Iterator[Write]:
    """An event file. TensorBoard's own writer would put the host's name into the file's name."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    path, begun = folder / "tensorboard" / name / f"events.out.tfevents.{time.time_ns()}", False
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(RecordWriter(path.open("wb"))) as records:

        def add(**fields: Any) -> None:
            records.write(Event(wall_time=time.time(), **fields).SerializeToString())
            records.flush()

        def write(step: int, values: dict[str, float]) -> None:
            nonlocal begun
            if not begun:  # an earlier file's values from here on are void: the run was interrupted and continues
                add(step=step, session_log=SessionLog(status=SessionLog.START))
                begun = True
            add(step=step, summary=Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()]))

        add(file_version="brain.Event:2")
        add(summary=hparams_pb(config.as_dict(), trial_id=name))
        yield write


@contextlib.contextmanager
def _wandb(folder: Path, config: Config, name: str) -> Iterator[Write]:
    """A run with metrics and settings only; offline unless WANDB_MODE says otherwise."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read at import
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(mode=os.environ.get("WANDB_MODE", "offline"), **WANDB_SETTINGS)
    try:
        run = wandb.init(project="engram", name=name, config=config.as_dict(), dir=str(folder), settings=settings)
    except wandb.Error as error:
        fix = "WANDB_MODE=offline, or log in: wandb login"
        raise EngramError(f"wandb does not start: {error}", where="--report-to", fix=fix) from error
    try:
        yield lambda step, values: run.log(values, step=step)
    finally:
        run.finish(exit_code=1 if sys.exc_info()[0] else 0)
        wandb.teardown()  # waits for the process that writes the file
