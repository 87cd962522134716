"""The curve for TensorBoard and Weights & Biases: read back, the same on every backend, and nothing personal in it."""

from __future__ import annotations

import dataclasses
import getpass
import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small_run import CONFIG, Quiet, Run

from engram.cli import main
from engram.plan.config import Config, learning_rates
from engram.support.errors import EngramError
from engram.support.files import PACKAGE
from engram.training import tracking, train

SHORT = dataclasses.replace(CONFIG, steps=5, validate_every=2, warmup_steps=2)
Curve = dict[str, dict[int, float]]  # a metric's name -> its value at each step

needs_tensorboard = pytest.mark.skipif(
    not importlib.util.find_spec("tensorboard"), reason="pip install 'engram[tracking]'"
)
needs_wandb = pytest.mark.skipif(not importlib.util.find_spec("wandb"), reason="pip install 'engram[tracking]'")


def events(folder: Path) -> Curve:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    found = {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    assert all(len(dict(points)) == len(points) for points in found.values()), "two values at one step"
    return {tag: dict(points) for tag, points in found.items()}


def history(folder: Path) -> Curve:
    """What a wandb run holds, from its file."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    store, curve = DataStore(), dict[str, dict[int, float]]()
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = Record.FromString(data)
        if record.WhichOneof("record_type") != "history":
            continue
        items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name, value in items.items():
            if not name.startswith("_"):
                curve.setdefault(name, {})[int(items["_step"])] = value
    return curve


def trained(run: Run, folder: Path, service: str | None, backend: str) -> tuple[dict[str, Any], Path]:
    logs = folder / "logs"
    with tracking.tracked(service, Quiet(), SHORT, "name", logs) as progress:
        log = train.train(backend, run.model, SHORT, run.root / "data", folder / "a", folder / "log.json", progress)
    return log, logs


def expected(log: dict[str, Any]) -> Curve:
    """The curve of a training log under the names of the services, speed aside."""
    steps = log["steps"]
    return {
        tracking.LOSS: {s["step"]: s["loss"] for s in steps},
        tracking.RATE: {s["step"]: s["learning_rate"] for s in steps},
        tracking.CHECK: {v["step"]: v["loss"] for v in log["validation"]},
        tracking.KNOWN: {v["step"]: v["recall"] for v in log["validation"]},
    }


@needs_tensorboard
@pytest.mark.parametrize(("backend", "package"), [("mlx", "mlx_lm"), ("cpu", "unsloth")])
def test_tensorboard_reads_the_curve_of_the_log(run: Run, tmp_path: Path, backend: str, package: str) -> None:
    """The names and steps are the same on every backend."""
    pytest.importorskip(package)
    log, logs = trained(run, tmp_path, "tensorboard", backend)
    curve = events(logs / "tensorboard" / "name")
    speed = curve.pop(tracking.SPEED)
    assert list(speed) == [1, 2, 3, 4, 5] and min(speed.values()) > 0
    assert set(curve) == {"train/loss", "train/learning_rate", "eval/loss", "eval/recall"}
    for name, points in expected(log).items():
        assert curve[name] == pytest.approx(points, rel=1e-5, abs=1e-5), name


def fed(writer: Any, steps: range, value: float) -> None:
    observer = tracking.Tracked(Quiet(), writer, SHORT)
    observer.start(5)
    for step in steps:
        observer.step(step, value, 100.0)
        observer.validation(step, value, 0.5)
    writer.close()


@needs_tensorboard
def test_a_run_taken_up_again_goes_on_where_it_stopped(tmp_path: Path) -> None:
    fed(tracking.TensorBoard(tmp_path, SHORT), range(1, 5), 1.0)
    fed(tracking.TensorBoard(tmp_path, SHORT), range(3, 6), 2.0)  # it was stopped at 4, its last checkpoint was at 2
    curve = events(tmp_path)
    assert curve[tracking.LOSS] == {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0, 5: 2.0}
    assert list(curve[tracking.RATE].values()) == pytest.approx(learning_rates(SHORT, 5))


@needs_tensorboard
def test_the_settings_are_in_the_file_and_nothing_personal(tmp_path: Path) -> None:
    fed(tracking.TensorBoard(tmp_path, SHORT), range(1, 3), 1.0)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for name in Config().as_dict():
        assert name.encode() in content
    refuse_personal(tmp_path)


@needs_wandb
def test_wandb_records_the_same_curve_offline_and_nothing_personal(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    fed(tracking.Wandb(tmp_path, SHORT, "name"), range(1, 4), 1.5)
    curve = history(tmp_path)
    assert set(curve) == {tracking.LOSS, tracking.RATE, tracking.SPEED, tracking.CHECK, tracking.KNOWN}
    assert curve[tracking.LOSS] == curve[tracking.CHECK] == dict.fromkeys(range(1, 4), 1.5)
    assert list(curve[tracking.RATE].values()) == pytest.approx(learning_rates(SHORT, 5)[:3])
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"learning_rate" in path.read_bytes() and not list(tmp_path.glob("wandb/*/files/requirements.txt"))
    refuse_personal(tmp_path)


def refuse_personal(folder: Path) -> None:
    words = [str(Path.home()), f'"{getpass.getuser()}"', str(folder), str(Path.cwd()), f".{socket.gethostname()}"]
    for path in (path for path in folder.rglob("*") if path.is_file()):
        for word in words:
            assert word not in str(path.relative_to(folder)), (path, word)
            assert path.suffix == ".log" or word.encode() not in path.read_bytes(), (path, word)


@pytest.mark.parametrize("service", tracking.SERVICES)
def test_a_missing_package_is_named_with_the_command(tmp_path: Path, monkeypatch: Any, service: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    begun = tracking.tracked(service, Quiet(), SHORT, "name", tmp_path)
    with pytest.raises(EngramError, match=f"{service} is not installed") as caught, begun:
        pass
    assert caught.value.fix.endswith("-m pip install 'engram[tracking]'")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_unless_it_is_asked_for(run: Run, tmp_path: Path) -> None:
    progress = Quiet()
    with tracking.tracked(None, progress, SHORT, "name", tmp_path) as given:
        assert given is progress
    assert list(tmp_path.iterdir()) == []


@needs_tensorboard
def test_a_run_that_fails_leaves_a_readable_file(tmp_path: Path) -> None:
    begun = tracking.tracked("tensorboard", Quiet(), SHORT, "name", tmp_path)
    with pytest.raises(EngramError, match="no number"), begun as progress:
        progress.start(5)
        progress.step(1, 1.0, 10.0)
        raise EngramError("the loss is no number")
    assert events(tmp_path / "tensorboard" / "name")[tracking.LOSS] == {1: 1.0}


@needs_tensorboard
def test_the_command_writes_below_the_results(run: Run, tmp_path: Path) -> None:
    places = ["--data", str(run.root / "data"), "--adapters", str(tmp_path / "a"), "--results", str(tmp_path / "r")]
    arguments = ["train", "--model", "tiny", "--backend", "mlx", *places, "--set", "steps=2"]
    done = CliRunner().invoke(main, [*arguments, "--report-to", "tensorboard"])
    assert done.exit_code == 0, done.output
    curve = events(tmp_path / "r" / "mlx" / "logs" / "tensorboard" / "mlx-tiny-default-small-seed0")
    assert list(curve[tracking.LOSS]) == [1, 2]
    assert CliRunner().invoke(main, [*arguments, "--report-to", "mlflow"]).exit_code == 2


@pytest.mark.parametrize("backend", ["mlx", "cpu"])
def test_a_backend_imports_no_wandb_that_nobody_asked_for(backend: str, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    pytest.importorskip({"mlx": "mlx_lm", "cpu": "unsloth"}[backend])
    program = (
        "import sys; from engram import backends; from engram.models import model; found = backends.get(sys.argv[1])\n"
        "found.load(model.resolve('tiny')); print('wandb' in sys.modules)"
    )
    command = [sys.executable, "-c", program, backend]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
