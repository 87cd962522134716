"""A training run that was interrupted goes on from its checkpoint, and ends as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from packs import refusal
from small_run import BACKENDS, CONFIG, PACK, Quiet

from engram import cli
from engram.dataset.build import write_data
from engram.models.model import resolve
from engram.models.safetensors_file import Tensor
from engram.patterns.loading import find_files, load_patterns
from engram.plan import checkpoint
from engram.plan.checkpoint import Saving, State
from engram.plan.config import Config
from engram.plan.curve import LOW, TOO_HIGH, Curve
from engram.support import console, signals
from engram.support.files import PACKAGE
from engram.training import train

STEPS = 12
SHORT = dataclasses.replace(CONFIG, steps=STEPS, batch_size=8, validate_every=4)
# whatever a resumed run could forget: random numbers, clipping, the place in the learning rates
ODD = dataclasses.replace(SHORT, dropout=0.1, clip=0.5, weight_decay=0.01, warmup_steps=5)
EVERY = Saving(every=5)


class Cut(Quiet):
    """Progress that interrupts the run after a step, as a kill would: without a word."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        super().step(step, loss, tokens_per_second)
        if step == self.after:
            raise ConnectionAbortedError


class Place:
    def __init__(self, root: Path) -> None:
        self.adapter = root / "adapters" / "one"
        self.checkpoint = checkpoint.path_for(self.adapter)


def run(
    backend: str, data: Path, place: Path, config: Config = SHORT, progress: Any = None, saving: Saving = EVERY
) -> dict[str, Any]:
    log = place / "training.json"
    return train.train(backend, resolve("tiny"), config, data, Place(place).adapter, log, progress or Quiet(), saving)


def interrupted(backend: str, data: Path, place: Path, *after: int, config: Config = SHORT) -> Place:
    for step in after:
        with pytest.raises(ConnectionAbortedError):
            run(backend, data, place, config, Cut(step))
    return Place(place)


def plain(log: dict[str, Any]) -> dict[str, Any]:
    """A log without what is a time, a date or a measure of memory, and without the word on interruptions."""
    steps = [{key: value for key, value in step.items() if key != "seconds"} for step in log["steps"]]
    measured = ("train_seconds", "wall_seconds", "tokens_per_second", "peak_memory_bytes")
    summary = {key: value for key, value in log["summary"].items() if key not in measured}
    provenance = {key: value for key, value in log["provenance"].items() if key != "created"}
    kept = {key: value for key, value in log.items() if key != "resumed_at"}
    return kept | {"steps": steps, "summary": summary, "provenance": provenance}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("config", [SHORT, ODD], ids=["plain", "dropout"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupted_run_ends_with_the_same_bytes(
    backend: str, small_data: Path, tmp_path: Path, config: Config
) -> None:
    whole = run(backend, small_data, tmp_path / "whole", config)
    assert "resumed_at" not in whole
    place = interrupted(backend, small_data, tmp_path / "cut", 7, 11, config=config)
    again = Quiet()
    resumed = run(backend, small_data, tmp_path / "cut", config, again)
    assert resumed["resumed_at"] == [5, 10]
    assert (again.steps, len(again.losses)) == (STEPS, STEPS)
    assert files(place.adapter) == files(Place(tmp_path / "whole").adapter)
    assert plain(resumed) == plain(whole)
    assert [check["step"] for check in resumed["validation"]] == [0, 4, 8, 12]
    assert not place.checkpoint.exists()
    assert all(step["seconds"] > 0 for step in resumed["steps"])


@pytest.fixture(scope="module")
def cut(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of an interrupted run."""
    return interrupted("mlx", small_data, tmp_path_factory.mktemp("cut"), 7).checkpoint.read_bytes()


def left(content: bytes, place: Path) -> Place:
    found = Place(place)
    found.adapter.parent.mkdir(parents=True)
    found.checkpoint.write_bytes(content)
    return found


def test_a_checkpoint_of_another_run_is_refused(cut: bytes, small_data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    place = left(cut, tmp_path)
    packages = train.machine.packages()
    monkeypatch.setattr(train.machine, "packages", lambda: packages | {"mlx": "0.1"})
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(train, "__version__", "9.9")
    model = dataclasses.replace(resolve("tiny"), revision="other")
    monkeypatch.setattr("test_resume.resolve", lambda _: model)
    error = refusal(run, "mlx", small_data, tmp_path, dataclasses.replace(SHORT, learning_rate=0.02, seed=1))
    lines = [line.split(":")[0] for line in error.problems]
    names = ["batches.sha256", "engram", "environment.OMP_NUM_THREADS", "model.revision", "packages.mlx"]
    assert lines == [*names, "recipe.learning_rate", "recipe.seed"]
    assert f"packages.mlx: {packages['mlx']!r} and '0.1'" in error.problems
    assert f"{place.checkpoint}: this checkpoint is of another run" in str(error)
    assert "\n  recipe.learning_rate: 0.01 and 0.02\n  recipe.seed: 0 and 1" in str(error)
    assert error.fix == f"put it back, or drop the checkpoint: make train FRESH=1, or rm {place.checkpoint}"
    assert place.checkpoint.read_bytes() == cut


def test_a_checkpoint_of_other_data_is_refused(cut: bytes, tmp_path: Path) -> None:
    (tmp_path / "pack.yaml").write_text(PACK.replace('"green"', '"blue"'))
    found = find_files(str(tmp_path / "pack.yaml"))
    write_data(load_patterns(found), found, tmp_path / "data", seed=0)
    left(cut, tmp_path)
    lines = [line.split(":")[0] for line in refusal(run, "mlx", tmp_path / "data", tmp_path).problems]
    assert lines == ["batches.sha256", "data.manifest_sha256"]


def test_what_changes_no_number_of_the_training_is_not_asked(cut: bytes, small_data: Path, tmp_path: Path) -> None:
    left(cut, tmp_path)
    config = dataclasses.replace(SHORT, name="renamed", samples=9, temperature=0.1, max_new_tokens=3)
    assert run("mlx", small_data, tmp_path, config, saving=Saving(every=3))["resumed_at"] == [5]


def test_fresh_drops_the_checkpoint(cut: bytes, small_data: Path, tmp_path: Path) -> None:
    place = left(b"broken", tmp_path)
    log = run("mlx", small_data, tmp_path, dataclasses.replace(SHORT, steps=2), saving=Saving(fresh=True))
    assert "resumed_at" not in log
    assert not place.checkpoint.exists()


def test_a_damaged_checkpoint_is_refused(cut: bytes, small_data: Path, tmp_path: Path) -> None:
    place, at = left(cut, tmp_path), cut.index(b'"sha256":"') + 10
    broken = [b"", cut[:-9], cut[: len(cut) // 2], cut + b"\0", cut[:at] + b"0" * 64 + cut[at + 64 :]]
    flipped = [int(len(cut) * share) for share in (0.0, 0.001, 0.01, 0.3, 0.7, 0.9999)]
    broken += [cut[:at] + bytes([cut[at] ^ 4]) + cut[at + 1 :] for at in flipped]
    for content in broken:
        place.checkpoint.write_bytes(content)
        error = refusal(checkpoint.read, place.checkpoint)
        assert "this checkpoint is damaged" in str(error)
        assert str(error).endswith(f"fix: drop the checkpoint: make train FRESH=1, or rm {place.checkpoint}")
    assert "this checkpoint is damaged" in str(refusal(run, "mlx", small_data, tmp_path))


def test_a_checkpoint_beside_an_older_adapter_is_used(small_data: Path, tmp_path: Path) -> None:
    run("mlx", small_data, tmp_path)
    interrupted("mlx", small_data, tmp_path, 7)
    assert run("mlx", small_data, tmp_path)["resumed_at"] == [5]


@pytest.mark.parametrize(
    ("loss", "said"),
    [(float("nan"), "the loss is nan at step 8"), (1e4, "the loss explodes: 10000.0 at step 8 (above ")],
)
def test_a_loss_that_goes_wrong_names_its_rows_and_keeps_the_checkpoint(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float, said: str
) -> None:
    step = Curve.step
    monkeypatch.setattr(
        Curve, "step", lambda self, real, *more: step(self, loss if len(self.losses) == 7 else real, *more)
    )
    error = refusal(run, "mlx", small_data, tmp_path)
    assert said in str(error)
    batches = train.planned(resolve("tiny"), SHORT, small_data).batches
    place = Place(tmp_path)
    assert error.problems == (
        *(f"step {step} read {', '.join(batches[step - 1].ids)}" for step in (8, 7)),
        f"the checkpoint after step 5 is kept: {place.checkpoint}",
    )
    assert "FRESH=1" in error.fix
    assert checkpoint.read(place.checkpoint)[1].step == 5
    assert not place.adapter.exists()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_weights_that_are_no_numbers_reach_no_checkpoint(tmp_path: Path, dtype: str, wrong: float) -> None:
    """A loss may still be right when its own step has ruined the weights."""
    keeper = checkpoint.Keeper(tmp_path / "c", {})

    def tensor(last: float) -> Tensor:
        values = np.array([1.0, last], "<f2" if dtype == "F16" else "<f4")
        upper = values.view("<u2")[1::2] if dtype == "BF16" else values  # a bfloat16 is a float's upper half
        return Tensor(dtype, (2,), upper.tobytes())

    good, bad = tensor(2.0), tensor(wrong)
    keeper.write(5, State({"a": good, "b": good}, {}), [1.0], [1.0], [])
    error = refusal(keeper.write, 6, State({"a": good, "b": bad}, {}), [1.0], [1.0], [])
    assert "1 tensors are no numbers after step 6, b the first of them" in str(error)
    assert error.problems == (f"the checkpoint after step 5 is kept: {tmp_path}/c",)
    assert checkpoint.read(tmp_path / "c")[1].step == 5


def test_reference_runs_are_far_from_an_explosion() -> None:
    logs = list((PACKAGE.parent / "results" / "reference").rglob("training.json"))
    assert logs
    for path in logs:
        losses = [step["loss"] for step in json.loads(path.read_text("utf-8"))["steps"]]
        assert max(losses) < 0.25 * TOO_HIGH * max(losses[0], LOW)


class Signalled(Quiet):
    """Progress that gets a signal at a step."""

    def __init__(self, number: int, at: int, times: int = 1) -> None:
        super().__init__()
        self.number, self.at, self.times = number, at, times

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        super().step(step, loss, tokens_per_second)
        for _ in range(self.times if step == self.at else 0):
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_step(small_data: Path, tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    with signals.listening(), pytest.raises(signals.Stopped) as caught:
        run("mlx", small_data, tmp_path, progress=Signalled(number, 3))
    assert str(caught.value) == f"stopped after step 3 of {STEPS}; the same command continues from there"
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == before
    place = Place(tmp_path)
    assert checkpoint.read(place.checkpoint)[1].step == 3
    assert not place.adapter.exists() and sorted(tmp_path.rglob("*.part")) == []
    assert run("mlx", small_data, tmp_path)["resumed_at"] == [3]


@pytest.mark.parametrize(
    ("at", "times", "every", "message", "kept"),
    [
        (STEPS, 1, 5, None, None),  # the run was finished anyway
        (7, 2, 5, "", 5),  # a second signal does not wait
        (7, 1, 0, f"stopped after step 7 of {STEPS}; nothing of it is kept", None),
    ],
)
def test_a_signal_at_the_end_twice_and_without_checkpoints(
    small_data: Path, tmp_path: Path, at: int, times: int, every: int, message: str | None, kept: int | None
) -> None:
    said = None
    with signals.listening():
        try:
            run("mlx", small_data, tmp_path, progress=Signalled(signal.SIGINT, at, times), saving=Saving(every=every))
        except signals.Stopped as stop:
            said = str(stop)
    place = Place(tmp_path)
    found = checkpoint.read(place.checkpoint)[1].step if place.checkpoint.exists() else None
    assert (said, found, place.adapter.exists()) == (message, kept, message is None)


def test_outside_training_a_signal_ends_a_command_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr("engram.patterns.loading.find_files", slow)
    done = CliRunner().invoke(cli.main, ["validate"])
    assert (done.exit_code, done.output) == (143, "")


def test_the_bar_says_where_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with console.TrainingBar() as bar:
        bar.start(40, [2.0, 1.0])
        bar.step(3, 0.5, 100.0)
    first = "step    3/40 · loss 0.500 · 100 tokens/s\n"
    assert capsys.readouterr().out == f"continuing at step 3 of 40, from the checkpoint\n{first}"
    assert bar.bar.tasks[0].completed == 2
