"""The curve for TensorBoard and Weights & Biases: read back, the same on every backend, and nothing personal in it."""

from __future__ import annotations

import dataclasses
import getpass
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from packs import refusal
from small_run import CONFIG, Quiet, Run

from engram.cli import main
from engram.plan.config import learning_rates
from engram.training import tracking, train

SHORT = dataclasses.replace(CONFIG, steps=5, validate_every=2, warmup_steps=2)
NAMES = {"train/loss", "train/learning_rate", "train/tokens_per_second", "eval/loss", "eval/recall"}
Curve = dict[str, dict[int, float]]  # a metric's name -> its value at each step


def events(folder: Path) -> Curve:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    found = {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    assert all(len(dict(points)) == len(points) for points in found.values()), "two values at one step"
    return {tag: dict(points) for tag, points in found.items()}


def history(path: Path) -> Curve:
    """What a wandb run holds, from its file."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    store, curve = DataStore(), dict[str, dict[int, float]]()
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = Record.FromString(data)
        items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name in {*items} & NAMES:
            curve.setdefault(name, {})[int(items["_step"])] = items[name]
    return curve


@pytest.mark.parametrize(("backend", "package"), [("mlx", "mlx_lm"), ("cpu", "unsloth")])
def test_tensorboard_reads_the_curve_of_the_log(run: Run, tmp_path: Path, backend: str, package: str) -> None:
    """The names and steps are the same on every backend."""
    pytest.importorskip("tensorboard")
    pytest.importorskip(package)
    data, folder = run.root / "data", tmp_path / "a"
    with tracking.tracked("tensorboard", Quiet(), SHORT, "name", tmp_path / "logs") as progress:
        log = train.train(backend, run.model, SHORT, data, folder, tmp_path / "log.json", progress)
    curve = events(tmp_path / "logs" / "tensorboard" / "name")
    speed = curve["train/tokens_per_second"]
    assert list(speed) == [1, 2, 3, 4, 5] and min(speed.values()) > 0 and set(curve) == NAMES
    for part, group, key in (
        *(("steps", "train", "loss"), ("steps", "train", "learning_rate")),
        *(("validation", "eval", "loss"), ("validation", "eval", "recall")),
    ):
        points = {row["step"]: row[key] for row in log[part]}
        assert curve[f"{group}/{key}"] == pytest.approx(points, rel=1e-5, abs=1e-5), key


def fed(service: str, folder: Path, steps: range, value: float) -> None:
    with tracking.tracked(service, Quiet(), SHORT, "name", folder) as progress:
        progress.start(5)
        for step in steps:
            progress.step(step, value, 100.0)
            progress.validation(step, value, 0.5)


def test_a_run_taken_up_again_goes_on_where_it_stopped(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    fed("tensorboard", tmp_path, range(1, 5), 1.0)
    fed("tensorboard", tmp_path, range(3, 6), 2.0)  # it was stopped at 4, its last checkpoint was at 2
    curve = events(tmp_path / "tensorboard" / "name")
    assert curve["train/loss"] == {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0, 5: 2.0}
    assert list(curve["train/learning_rate"].values()) == pytest.approx(learning_rates(SHORT, 5))


@pytest.mark.parametrize("service", ["tensorboard", "wandb"])
def test_the_settings_are_in_the_file_and_nothing_personal(tmp_path: Path, monkeypatch: Any, service: str) -> None:
    pytest.importorskip(service)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    fed(service, tmp_path, range(1, 4), 1.5)
    (path,) = (file for file in tmp_path.rglob("*") if file.suffix == ".wandb" or ".tfevents." in file.name)
    curve = events(path.parent) if service == "tensorboard" else history(path)
    assert set(curve) == NAMES and curve["train/loss"] == curve["eval/loss"] == dict.fromkeys(range(1, 4), 1.5)
    assert list(curve["train/learning_rate"].values()) == pytest.approx(learning_rates(SHORT, 5)[:3])
    assert all(name.encode() in path.read_bytes() for name in SHORT.as_dict())
    assert not [*tmp_path.rglob("requirements.txt")]
    words = [str(Path.home()), f'"{getpass.getuser()}"', str(tmp_path), str(Path.cwd()), f".{socket.gethostname()}"]
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        for word in words:
            assert word not in str(path.relative_to(tmp_path)), (path, word)
            assert path.suffix == ".log" or word.encode() not in path.read_bytes(), (path, word)


@pytest.mark.parametrize("service", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_with_the_command(tmp_path: Path, monkeypatch: Any, service: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    error = refusal(fed, service, tmp_path, range(1), 1.0)
    assert error.what == f"{service} is not installed" and error.fix.endswith("-m pip install '.[tracking]'")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_below_the_results_if_it_is_asked(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    places = ["--data", str(run.root / "data"), "--adapters", str(tmp_path / "a"), "--results", str(tmp_path / "r")]
    arguments = ["train", "--model", "tiny", "--backend", "mlx", *places, "--set", "steps=2"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0 and not (tmp_path / "r/mlx/logs").exists(), done.output
    done = CliRunner().invoke(main, [*arguments, "--force", "--report-to", "tensorboard"])
    assert done.exit_code == 0, done.output
    curve = events(tmp_path / "r" / "mlx" / "logs" / "tensorboard" / "mlx-tiny-default-small-seed0")
    assert list(curve["train/loss"]) == [1, 2]
