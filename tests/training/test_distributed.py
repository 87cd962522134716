"""Two processes on this machine that train as one, on both backends, under the field's launchers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner
from packs import refusal
from safetensors.numpy import load
from small_run import BACKENDS

from engram import cli
from engram.plan import checkpoint
from engram.support import schema
from engram.training import processes

# 64 rows: batches of 7, and one of 1, which leaves a process without a row; clipping sees the whole gradient
PLAIN = {"replay": 3, "batch_size": 7, "steps": 10, "learning_rate": 0.005, "clip": 0.5, "validate_every": 4}
CURVE = 1e-4  # nats; the largest difference measured is a tenth of it (docs/distributed.md)
LONG = ("--nproc", "2", "--checkpoint-every", "2", "--set", "steps=2000")


class Place(NamedTuple):
    """A folder to train in, by the command line."""

    root: Path
    backend: str

    def words(self, data: Path, *more: str, **settings: Any) -> list[str]:
        words = ["train", "--backend", self.backend, "--model", "tiny", "--data", str(data)]
        words += ["--adapters", str(self.root / "adapters"), "--results", str(self.root / "results")]
        return [*words, "--set", " ".join(f"{key}={value}" for key, value in (PLAIN | settings).items()), *more]

    def start(self, data: Path, *more: str, **settings: Any) -> subprocess.Popen[str]:
        self.root.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "engram.cli", *self.words(data, *more, **settings)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.root)

    def run(self, data: Path, *more: str, **settings: Any) -> dict[str, Any]:
        out, err = (process := self.start(data, *more, **settings)).communicate(timeout=300)
        assert process.returncode == 0, err
        assert out.count("recipe:") == 1  # the others are silent
        return self.log()

    def log(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "results" / self.backend / "training.json").read_text())
        return found

    @property
    def adapter(self) -> Path:
        return self.root / "adapters" / self.backend

    @property
    def checkpoint(self) -> Path:
        return checkpoint.path_for(self.adapter)

    def weights(self) -> bytes:
        (file,) = self.adapter.glob("*.safetensors")
        return file.read_bytes()

    def member(self, rank: int) -> int:
        """The process id of a rank of the run in progress, by its environment (Linux)."""
        words = {f"{name}={rank}".encode() for name in ("RANK", "MLX_RANK")}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = {*(folder / "environ").read_bytes().split(b"\0")}
                if (folder / "cwd").readlink() == self.root and words & environment:
                    return int(folder.name)
            except OSError:
                continue
        raise AssertionError(f"no process of rank {rank}")


@pytest.fixture(scope="module", params=BACKENDS)
def pair(
    request: pytest.FixtureRequest, small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Place, Place]:
    """The same run in one process, and in two."""
    root = tmp_path_factory.mktemp(f"pair-{request.param}")
    one, two = Place(root / "one", request.param), Place(root / "two", request.param)
    one.run(small_data)
    two.run(small_data, "--nproc", "2")
    return one, two


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(pair: tuple[Place, Place]) -> None:
    one, two = (place.log() for place in pair)
    for name in ("steps", "validation"):
        losses = [[row["loss"] for row in log[name]] for log in (one, two)]
        assert losses[1] == pytest.approx(losses[0], abs=CURVE)
    assert [row["answer_tokens"] for row in two["steps"]] == [row["answer_tokens"] for row in one["steps"]]
    assert {len(str(row["answer_tokens"])) for row in one["steps"]} == {1, 2}  # a batch of one row was among them
    assert two["steps"][-1]["loss"] < 0.7 * two["steps"][0]["loss"]
    assert (two["world_size"], two["hosts"]) == (2, 1) and not {"world_size", "hosts"} & set(one)
    assert schema.problems(two, "training") == [] and "127.0.0.1" not in json.dumps(two)


@pytest.mark.slow
def test_the_adapter_is_that_of_one_process(pair: tuple[Place, Place]) -> None:
    one, two = (load(place.weights()) for place in pair)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert np.allclose(value, two[name], atol=2e-3), name
    whole = [np.concatenate([side[name].ravel() for name in sorted(side)]) for side in (one, two)]
    assert np.linalg.norm(whole[0] - whole[1]) < 1e-3 * np.linalg.norm(whole[0])
    names = {str(path.relative_to(pair[1].root)) for path in pair[1].root.rglob("*") if path.is_file()}
    expected = {f"adapters/{pair[1].backend}/{path.name}" for path in pair[0].adapter.iterdir()}
    assert names == expected | {f"results/{pair[1].backend}/training.json"}  # nothing is left behind


@pytest.mark.slow
def test_an_error_of_the_processes_is_one_of_the_command(pair: tuple[Place, Place], small_data: Path) -> None:
    """mlx.launch ends with 0 whatever happens, and an older log is no proof of success."""
    before = pair[1].weights()
    _, err = (process := pair[1].start(small_data, "--nproc", "2", max_length=3)).communicate(timeout=120)
    assert process.returncode == 2
    assert "rows are longer than max_length = 3\n" in err and "training in 2 processes failed" in err
    assert pair[1].weights() == before


def until(found: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Wait until `found` is true, as long as the process runs."""
    for _ in range(3000):
        if found():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it took too long")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stopped_run_continues_and_ends_with_the_same_bytes(backend: str, small_data: Path, tmp_path: Path) -> None:
    place = Place(tmp_path / "stopped", backend)
    process = place.start(small_data, "--nproc", "2", "--checkpoint-every", "1", dropout=0.1)
    until(place.checkpoint.exists, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143 and err.count("engram: stopped after step ") == 1, err
    assert not place.adapter.exists() and not list(place.root.glob("results/*/*"))
    kept = place.checkpoint.read_bytes()
    step = checkpoint.read(place.checkpoint)[1].step
    done = CliRunner().invoke(cli.main, place.words(small_data, dropout=0.1))
    assert done.exit_code == 2 and "\n  world_size: 2 and 1\n" in done.output, done.output
    assert place.checkpoint.read_bytes() == kept
    log = place.run(small_data, "--nproc", "2", dropout=0.1)
    assert log["resumed_at"] == [step] and not place.checkpoint.exists()
    whole = Place(tmp_path / "whole", backend)
    losses = [row["loss"] for row in whole.run(small_data, "--nproc", "2", dropout=0.1)["steps"]]
    assert losses == [row["loss"] for row in log["steps"]] and whole.weights() == place.weights()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc")
@pytest.mark.parametrize(("backend", "victim"), [("mlx", 1), ("cpu", 0)])
def test_the_death_of_one_process_ends_the_command(backend: str, small_data: Path, tmp_path: Path, victim: int) -> None:
    pytest.importorskip({"mlx": "mlx_lm", "cpu": "unsloth"}[backend])
    place = Place(tmp_path, backend)
    process = place.start(small_data, *LONG)
    until(place.checkpoint.exists, process)
    os.kill(place.member(victim), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.endswith(
        "engram: NPROC: training in 2 processes failed\n"
        "  fix: the messages above say why; the same command continues from the last checkpoint\n"
    )
    with pytest.raises(AssertionError, match="no process"):
        place.member(1 - victim)
    assert not place.adapter.exists() and checkpoint.read(place.checkpoint)[1].step >= 2


def test_the_launchers_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.shutil, "which", lambda name, path: f"{path.split(os.pathsep)[0]}/{name}")
    folder = str(Path(sys.executable).parent)
    assert processes._launcher("cuda", 4) == [
        *(f"{folder}/torchrun", "--standalone", "--nproc-per-node", "4", "--no-python"),
    ]
    command = processes._launcher("mlx", 2)
    assert command[:5] == [f"{folder}/mlx.launch", "--backend", "ring", "--repeat-hosts", "2"] and command[-1] == "--"
    monkeypatch.setattr(processes.shutil, "which", lambda name, path: None)
    assert refusal(processes._launcher, "mlx", 2).what == "mlx.launch is not installed"
    assert refusal(processes._launcher, "cpu", 2).fix == "make setup BACKEND=cpu, or leave NPROC out"


def test_the_processes_get_what_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(processes, "launch", lambda *given: seen.append(given))
    typed = ["--model", "tiny", "--set", "rank=3", "--fresh", "--set", "epochs=2", "--backend", "mlx", "--seed", "7"]
    assert CliRunner().invoke(cli.main, ["train", "--nproc", "2", *typed]).exit_code == 0
    ((backend, count, arguments, log),) = seen
    assert (backend, count, log) == ("mlx", 2, Path("results/mlx/training.json"))
    assert sorted(arguments) == sorted(["train", *typed, "--backend", "mlx", "--method", "lora"])
