"""Two processes on this machine that train as one, on both backends, under the launchers that a person would use."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from packs import refusal
from small_run import PACK

from engram import cli
from engram.dataset.build import write_data
from engram.patterns.loading import find_files, load_patterns
from engram.plan import checkpoint
from engram.support import schema
from engram.support.gpu import Card, Report
from engram.training import launch
from engram.training.launch import Launch

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(not importlib.util.find_spec(package), reason=f"no {package}"))
    for name, package in (("mlx", "mlx_lm"), ("cpu", "unsloth"))
]
# 64 rows: batches of 7, and one of 1, which leaves a process without a row; clipping sees the whole gradient
PLAIN = {"replay": 0, "batch_size": 7, "steps": 10, "learning_rate": 0.01, "clip": 0.5, "validate_every": 4}
CURVE = 1e-4  # nats; the largest difference measured is a tenth of it (docs/distributed.md)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "pack.yaml").write_text(PACK)
    files = find_files(str(root / "pack.yaml"))
    write_data(load_patterns(files), files, root / "data", seed=0)
    return root / "data"


class Place(NamedTuple):
    """A folder to train in, by the command line."""

    root: Path
    backend: str

    def words(self, data: Path, *more: str, **settings: Any) -> list[str]:
        words = ["train", "--backend", self.backend, "--model", "tiny", "--data", str(data), *more]
        words += ["--adapters", str(self.root / "adapters"), "--results", str(self.root / "results")]
        return words + [word for key, value in (PLAIN | settings).items() for word in ("--set", f"{key}={value}")]

    def start(self, data: Path, *more: str, **settings: Any) -> subprocess.Popen[str]:
        (self.root / "tmp").mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "engram.cli", *self.words(data, *more, **settings)]
        environment = {**os.environ, "TMPDIR": str(self.root / "tmp")}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=self.root
        )

    def run(self, data: Path, *more: str, **settings: Any) -> dict[str, Any]:
        out, err = (process := self.start(data, *more, **settings)).communicate(timeout=300)
        assert (process.returncode, err) == (0, ""), err
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


@pytest.fixture(scope="module", params=BACKENDS)
def pair(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Place]:
    """The same run in one process, and in two."""
    root = tmp_path_factory.mktemp(f"pair-{request.param}")
    one, two = Place(root / "one", request.param), Place(root / "two", request.param)
    one.run(data)
    two.run(data, "--nproc", "2")
    return one, two


def test_two_processes_are_on_the_curve_of_one(pair: tuple[Place, Place]) -> None:
    one, two = (place.log() for place in pair)
    for name in ("steps", "validation"):
        losses = [[row["loss"] for row in log[name]] for log in (one, two)]
        assert losses[1] == pytest.approx(losses[0], abs=CURVE)
    assert [row["answer_tokens"] for row in two["steps"]] == [row["answer_tokens"] for row in one["steps"]]
    assert {len(str(row["answer_tokens"])) for row in one["steps"]} == {1, 2}  # a batch of one row was among them
    assert two["steps"][-1]["loss"] < 0.7 * two["steps"][0]["loss"]


def test_the_world_is_recorded_and_one_process_is_as_ever(pair: tuple[Place, Place]) -> None:
    one, two = (place.log() for place in pair)
    assert (two["world_size"], two["hosts"]) == (2, 1)
    assert not {"world_size", "hosts"} & set(one)
    assert schema.problems(two, "training") == []
    assert "127.0.0.1" not in json.dumps(two)


def test_the_adapter_is_that_of_one_process(pair: tuple[Place, Place]) -> None:
    import numpy as np
    from safetensors.numpy import load

    one, two = (load(place.weights()) for place in pair)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert np.allclose(value, two[name], atol=2e-3), name
    whole = [np.concatenate([side[name].ravel() for name in sorted(side)]) for side in (one, two)]
    assert np.linalg.norm(whole[0] - whole[1]) < 1e-3 * np.linalg.norm(whole[0])


def test_nothing_is_left_behind(pair: tuple[Place, Place]) -> None:
    two = pair[1]
    names = {str(path.relative_to(two.root)) for path in two.root.rglob("*") if path.is_file()}
    expected = {f"adapters/{two.backend}/{path.name}" for path in pair[0].adapter.iterdir()}
    assert names == expected | {f"results/{two.backend}/training.json"}


def until(found: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """What `found` gives once it gives something, as long as the process runs."""
    for _ in range(3000):
        if value := found():
            return value
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it took too long")


def living(place: Place) -> list[int]:
    """The process ids of a run that goes on."""
    return [int(path.read_text()) for path in sorted((place.root / "tmp").glob("engram-*/[0-9].alive"))]


def are_gone(numbers: Sequence[int]) -> bool:
    """Whether these processes end within ten seconds; one that nobody has asked for its exit code yet has ended too."""
    for _ in range(100):
        states = [Path(f"/proc/{number}/stat") for number in numbers]
        if not [path for path in states if path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"]:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module", params=BACKENDS)
def stopped(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run in two processes that SIGTERM ended between two steps."""
    place = Place(tmp_path_factory.mktemp(f"stopped-{request.param}"), request.param)
    process = place.start(data, "--nproc", "2", "--checkpoint-every", "1", dropout=0.1)
    until(place.checkpoint.exists, process)
    numbers = living(place)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert err.startswith("engram: stopped after step ") and err.count("\n") == 1, err
    assert len(numbers) == 2 and are_gone(numbers)
    assert not place.adapter.exists() and not list(place.root.glob("results/*/*"))
    assert list((place.root / "tmp").iterdir()) == []
    return place


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(stopped: Place, data: Path, tmp_path: Path) -> None:
    kept = stopped.checkpoint.read_bytes()
    step = checkpoint.read(stopped.checkpoint)[2]["step"]
    done = CliRunner().invoke(cli.main, stopped.words(data, dropout=0.1))
    assert done.exit_code == 2 and "\n  world_size: 2 and 1\n" in done.output, done.output
    assert stopped.checkpoint.read_bytes() == kept
    log = stopped.run(data, "--nproc", "2", dropout=0.1)
    assert log["resumed_at"] == [step]
    whole = Place(tmp_path, stopped.backend)
    assert [row["loss"] for row in whole.run(data, "--nproc", "2", dropout=0.1)["steps"]] == [
        row["loss"] for row in log["steps"]
    ]
    assert whole.weights() == stopped.weights()
    assert not stopped.checkpoint.exists()


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_death_of_one_process_ends_all(backend: str, data: Path, tmp_path: Path, victim: int) -> None:
    place = Place(tmp_path, backend)
    process = place.start(data, "--nproc", "2", "--checkpoint-every", "2", steps=2000)
    until(place.checkpoint.exists, process)
    numbers = living(place)
    os.kill(numbers[victim], signal.SIGKILL)
    killed = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - killed < launch.GRACE + 10
    assert process.returncode == 2
    assert f"engram: training: of 2 processes one died ({victim}), and the others were ended\n" in err, err
    assert are_gone(numbers)
    assert not place.adapter.exists()
    assert checkpoint.read(place.checkpoint)[2]["step"] >= 2
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_death_of_the_command_ends_all(data: Path, tmp_path: Path) -> None:
    place = Place(tmp_path, "mlx")
    process = place.start(data, "--nproc", "2", "--checkpoint-every", "2", steps=2000)
    until(place.checkpoint.exists, process)
    numbers = living(place)
    process.kill()
    process.communicate()
    assert len(numbers) == 2 and are_gone(numbers)


# read by every Python that starts: from step 3 on the losses are no numbers
NAN = """
from engram.plan.curve import Curve
step = Curve.step
Curve.step = lambda self, n, loss, seconds: step(self, n, loss if n < 3 else float("nan"), seconds)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_of_all_is_said_once(
    backend: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NAN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    place = Place(tmp_path, backend)
    process = place.start(data, "--nproc", "2", "--checkpoint-every", "2")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("engram: training: the loss is nan at step 3\n  step 3 read "), err
    assert err.count("the loss is nan") == 1 and "Traceback" not in err
    assert not place.adapter.exists()
    assert checkpoint.read(place.checkpoint)[2]["step"] == 2


def test_an_error_before_the_first_step_is_said_once(tmp_path: Path) -> None:
    _, err = (process := Place(tmp_path, "mlx").start(tmp_path / "nowhere", "--nproc", "2")).communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("engram: ") and err.count("nowhere") == 1 and "Traceback" not in err, err


SSH = """#!/bin/bash
while [ "${1#-}" != "$1" ]; do [ "$1" != -o ] || shift; shift; done
shift
echo "$*" >> "$0.calls"
exec env -i PATH="$PATH" HOME="$HOME" bash -c "$*"
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for ssh: another machine is this one, with a bare environment and another loopback address."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "ssh").write_text(SSH)
    (binaries / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    monkeypatch.setattr(launch, "_is_loopback", lambda _: False)
    monkeypatch.chdir(tmp_path)
    return binaries / "ssh"


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_machines(backend: str, data: Path, tmp_path: Path, ssh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, backend)
    monkeypatch.setenv("MASTER_PORT", str(launch._port(Launch(backend, 1, (), ()), "mlx", 2)))
    done = CliRunner().invoke(cli.main, place.words(data, "--hosts", "127.0.0.1,127.0.0.2", steps=3))
    assert done.exit_code == 0, done.output
    assert (place.log()["world_size"], place.log()["hosts"]) == (2, 2)
    calls = ssh.with_name("ssh.calls").read_text().splitlines()
    assert "import engram" in calls[0] and len(calls) >= 2


def test_machines_that_cannot_take_part_are_refused(ssh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Launch("mlx", 1, ("127.0.0.1", "127.0.0.2"), ("train",))
    ssh.write_text("#!/bin/bash\necho 'Permission denied (publickey).' >&2; exit 255\n")
    error = refusal(launch.check, there)
    assert (error.where, error.what) == ("HOSTS, 127.0.0.2", "ssh does not reach it: Permission denied (publickey).")
    ssh.write_text("#!/bin/bash\necho 0.0.1\n")
    assert "there is no engram" in refusal(launch.check, there).what
    assert "0.0.1" in refusal(launch.check, there).what
    monkeypatch.setattr(launch.shutil, "which", lambda name, path="": None if name == "ssh" else f"/bin/{name}")
    assert refusal(launch.check, there).what == "ssh is not installed"
    monkeypatch.setattr(launch.shutil, "which", lambda name, path="": None)
    assert refusal(launch.check, there).what == "mlx.launch is not installed"
    assert refusal(launch.check, Launch("cpu", 2, (), ("train",))).what == "torchrun is not installed"


def test_names_of_machines() -> None:
    assert launch.hosts_of("") == launch.hosts_of(" ") == ()
    assert launch.hosts_of("a, b") == ("a", "b")
    for wrong in ("a,", ",", "a,-oProxyCommand=x", "a b,c"):
        assert refusal(launch.hosts_of, wrong).where == "HOSTS"
    error = refusal(launch.check, Launch("mlx", 1, ("no-such-host.invalid",), ()))
    assert error.where == "HOSTS, no-such-host.invalid" and error.what.startswith("no such host")
    error = refusal(launch.check, Launch("mlx", 1, ("127.0.0.1", "192.0.2.7"), ()))
    assert error.what == "127.0.0.1 is 127.0.0.1, where no other machine reaches this one"


@pytest.mark.parametrize("count", ["0", "-1", "65"])
def test_impossible_numbers_of_processes_are_refused(count: str) -> None:
    done = CliRunner().invoke(cli.main, ["train", "--backend", "mlx", "--nproc", count])
    assert done.exit_code == 2
    assert done.output == f"engram: NPROC: {count} processes on a machine; from 1 to 64 run\n  fix: NPROC=2\n"


def test_each_process_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card("H100", 80_000, 80_000, (9, 0))
    monkeypatch.setattr(launch.gpu, "examine", lambda: Report(cards=(card, card)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    launch.check(Launch("cuda", 2, (), ()))
    assert (
        "3 processes need a GPU each, and 2 can be used here" in refusal(launch.check, Launch("cuda", 3, (), ())).what
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert refusal(launch.check, Launch("cuda", 2, (), ())).fix.startswith("NPROC=1")


def test_the_launchers_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "_address", lambda host: {"first": "10.0.0.1", "second": "10.0.0.2"}[host])
    for name in ("MASTER_PORT", *launch.machine.ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch, "_cores", lambda: 8)
    words = ("train", "--set", "a=1")
    (command,) = launch.commands(Launch("mlx", 2, ("first", "second"), words), tmp_path)
    assert json.loads((tmp_path / "hosts").read_text()) == [
        *[{"ssh": "127.0.0.1", "ips": ["10.0.0.1"]}] * 2,
        *[{"ssh": "second", "ips": ["10.0.0.2"]}] * 2,
    ]
    ours = ["-m", "engram.cli", "train", "--set", "a=1", "--backend"]
    assert command[1:] == [
        *("--backend", "ring", "--hostfile", str(tmp_path / "hosts"), "--starting-port", "32323"),
        *("--cwd", str(tmp_path), "--", sys.executable, *ours, "mlx"),
    ]
    torchrun = shutil.which("torchrun", path=str(Path(sys.executable).parent)) or "torchrun"
    monkeypatch.setattr(launch, "_script", lambda name: torchrun)
    here, there = launch.commands(Launch("cuda", 4, ("first", "second"), words), tmp_path)
    node = [torchrun, "--nproc-per-node", "4", "--nnodes", "2", "--node-rank"]
    rest = ["--master-addr", "10.0.0.1", "--master-port", "29400", *ours, "cuda"]
    assert here == [*node, "0", *rest]
    assert there[0] == "ssh" and there[-2] == "second"
    assert there[-1] == f"cd {tmp_path} && exec env OMP_NUM_THREADS=2 {' '.join([*node, '1', *rest])}"
    (alone,) = launch.commands(Launch("cpu", 2, (), words), tmp_path)
    assert alone == [torchrun, "--nproc-per-node", "2", "--standalone", *ours, "cpu"]


def test_only_what_was_typed_reaches_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Launch] = []
    monkeypatch.setattr(launch, "run", seen.append)
    words = ["train", "--nproc", "2", "--set", "a=1", "--fresh", "--set", "b=2", "--backend", "mlx", "--seed", "7"]
    assert CliRunner().invoke(cli.main, words).exit_code == 0
    (one,) = seen
    assert (one.backend, one.processes, one.hosts) == ("mlx", 2, ())
    assert sorted(one.arguments) == sorted(["train", "--set", "a=1", "--set", "b=2", "--fresh", "--seed", "7"])
