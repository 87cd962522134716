"""One line with its remedy for each thing that can be wrong with a card and its driver. Needs no GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engram.cli import machine
from engram.support import gpu
from engram.support.files import PACKAGE

Patch = pytest.MonkeyPatch
NVML = {
    **{"NVML_ERROR_LIBRARY_NOT_FOUND": 12, "NVML_ERROR_DRIVER_NOT_LOADED": 9, "NVML_ERROR_LIB_RM_VERSION_MISMATCH": 18},
    **{"NVML_ERROR_UNKNOWN": 999, "NVML_ERROR_NO_PERMISSION": 4, "NVML_ERROR_NOT_SUPPORTED": 3},
}
RTX = ("NVIDIA GeForce RTX 3090", 24576, 24109, (8, 6))
V100 = ("Tesla V100-SXM2-16GB", 16384, 16130, (7, 0))
SPARK = ("NVIDIA GB10", None, None, (12, 1))  # its driver gives no figure of memory


class Error(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.value = NVML[name]


@pytest.fixture
def driver(monkeypatch: Patch) -> Iterator[Callable[..., gpu.Report]]:
    """The report on a driver of this version with these cards, or one that fails with an error of NVML's."""

    def report(
        *cards: Any, version: Any = "570.124.06", cuda: int = 12080, fails: str = "", container: bool = False
    ) -> Any:
        def answer(card: Any, value: Any) -> Any:
            if value is None:
                raise Error("NVML_ERROR_NOT_SUPPORTED")
            return value

        def start() -> None:
            if fails:
                raise Error(fails)

        def memory(card: Any) -> Any:
            return SimpleNamespace(total=answer(card, card[1]) << 20, free=card[2] << 20)

        fake = SimpleNamespace(
            **NVML, NVMLError=Error, nvmlInit=start, nvmlShutdown=lambda: None, nvmlDeviceGetMemoryInfo=memory,
            nvmlSystemGetDriverVersion=lambda: version, nvmlSystemGetCudaDriverVersion_v2=lambda: cuda,
            nvmlDeviceGetCount=lambda: len(cards), nvmlDeviceGetHandleByIndex=lambda index: cards[index],
            nvmlDeviceGetName=lambda card: card[0],
            nvmlDeviceGetCudaComputeCapability=lambda card: answer(card, card[3]),
        )  # fmt: skip
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        monkeypatch.setattr(gpu, "CONTAINER_MARKS", ("/",) if container else ())
        gpu.examine.cache_clear()
        return gpu.examine()

    yield report
    gpu.examine.cache_clear()


Driver = Callable[..., gpu.Report]


@pytest.fixture(autouse=True)
def no_mask(monkeypatch: Patch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_usable_card_is_read_whole(driver: Driver) -> None:
    report = driver(RTX)
    assert (report.driver, report.cuda) == ("570.124.06", "12.8")
    assert report.card == gpu.Card(*RTX) and report.card.bf16
    assert gpu.problem(report) is None


@pytest.mark.parametrize(
    ("cards", "state", "what", "fix"),
    [
        ([RTX], {"version": "535.1", "cuda": 12020}, "535.1 (CUDA 12.2 at most) is too old", "install driver 570"),
        ([V100], {}, "V100-SXM2-16GB has compute capability 7.0", "BACKEND=cpu"),
        ([], {"fails": "NVML_ERROR_DRIVER_NOT_LOADED"}, "installed but not running", "reboot"),
        ([], {"fails": "NVML_ERROR_LIB_RM_VERSION_MISMATCH"}, "updated and the old one is still loaded", "reboot"),
        ([], {"fails": "NVML_ERROR_UNKNOWN", "container": True}, "this container has lost its GPU", "container again"),
        ([], {"fails": "NVML_ERROR_UNKNOWN"}, "lists no usable GPU: NVML_ERROR_UNKNOWN", "nvidia-smi"),
        ([], {}, "lists no usable GPU: it lists no GPU", "nvidia-smi"),
        ([], {"container": True}, "started without a GPU", "--gpus all"),
        ([], {"fails": "NVML_ERROR_LIBRARY_NOT_FOUND"}, "no NVIDIA driver is installed", "ubuntu-drivers install"),
        ([], {"fails": "NVML_ERROR_LIBRARY_NOT_FOUND", "container": True}, "started without", "nvidia-container"),
        ([RTX], {"unsloth": False, "torch_cuda": None}, "Unsloth is not installed", "make setup BACKEND=cuda"),
        ([RTX], {"torch_cuda": None}, "Unsloth is not installed", "make setup BACKEND=cuda"),
        ([RTX], {"torch_cuda": ""}, "torch is its CPU build", "make setup BACKEND=cuda"),
        ([RTX], {"torch_cuda": "13.0"}, "too old for CUDA 13.0", "install driver 580"),
        # the driver comes first
        ([RTX], {"version": "535.1", "unsloth": False, "torch_cuda": None}, "too old", "install driver 570"),
    ],
)
def test_each_problem_is_named_with_its_remedy(cards: Any, state: Any, what: str, fix: str, driver: Driver) -> None:
    packages = {name: state[name] for name in ("unsloth", "torch_cuda") if name in state}
    problem = gpu.problem(driver(*cards, **{k: v for k, v in state.items() if k not in packages}), **packages)
    assert problem is not None and what in problem.what and fix in problem.fix
    assert "\n" not in problem.what + problem.fix


@pytest.mark.parametrize("found", [True, False])
def test_without_nvml_only_the_driver_is_looked_for(found: bool, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(gpu.shutil, "which", lambda _: "/usr/bin/nvidia-smi" if found else None)
    monkeypatch.setattr(gpu, "CONTAINER_MARKS", ())
    gpu.examine.cache_clear()
    problem = gpu.problem(gpu.examine())
    gpu.examine.cache_clear()
    assert problem is not None
    assert problem.what.startswith("Unsloth is not installed" if found else "no NVIDIA driver is installed")


def test_the_first_visible_card_is_the_one_that_counts(driver: Driver, monkeypatch: Patch) -> None:
    report = driver(V100, RTX)
    assert gpu.problem(report) is not None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert gpu.problem(report) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    problem = gpu.problem(report)
    assert problem is not None and "CUDA_VISIBLE_DEVICES=7 names none of the 2 GPUs" in problem.what


@pytest.mark.parametrize("card", [SPARK, ("NVIDIA Something", 8192, 8000, None)])
def test_figures_that_the_driver_does_not_give_are_not_judged(card: Any, driver: Driver) -> None:
    assert gpu.problem(driver(card)) is None


def pins(name: str) -> dict[str, set[str]]:
    """The versions that a list of requirements has for each package, whatever the Python."""
    found: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([a-z0-9-]+)==([^ ;\n]+)", (PACKAGE.parent / name).read_text("utf-8"), re.M):
        found.setdefault(package, set()).add(version)
    return found


@pytest.mark.parametrize("name", ["requirements-gpu.txt", "requirements-cpu.txt"])
def test_shared_packages_are_pinned_to_the_same_versions(name: str) -> None:
    theirs, shared = pins(name), {**pins("requirements-dev.txt"), **pins("requirements.txt")}
    for package in ("transformers", "datasets", "tokenizers", "safetensors", "numpy", "huggingface-hub"):
        assert theirs[package] <= shared[package], package
    assert not [package for package in {*theirs} & {*shared} if not theirs[package] <= shared[package]]


def test_the_gpu_list_is_for_the_driver_that_detection_asks_for() -> None:
    text = (PACKAGE.parent / "requirements-gpu.txt").read_text("utf-8")
    assert f"driver of {gpu.DRIVER} or newer (CUDA {gpu.CUDA})" in text
    assert f"nvidia-cuda-runtime-cu12=={gpu.CUDA}." in text
    assert "index-url" not in text


@pytest.mark.parametrize(("code", "fix"), [(0, ""), (999, "CUDA does not start: reboot")])
def test_doctor_asks_the_driver_whether_cuda_starts(code: int, fix: str, driver: Driver, monkeypatch: Patch) -> None:
    driver(RTX)
    monkeypatch.setattr(gpu, "torch_build", lambda: ("2.10.0", "12.8"))
    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace(cuInit=lambda flags: code))
    (found,) = [one for one in machine.examine("cuda") if one[0] == "torch"]
    assert found[1] == "2.10.0 for CUDA 12.8" and found[2].startswith(fix) and bool(fix) == bool(found[2])


@pytest.mark.skipif(gpu.examine().found, reason="there is an NVIDIA driver here")
@pytest.mark.parametrize(
    ("command", "said"), [("verify-model --model tiny", "engram: BACKEND=cuda: "), ("doctor", "✗ backend")]
)
def test_a_command_without_a_gpu_says_what_is_missing(command: str, said: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "engram.cli", *command.split(), "--backend", "cuda"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert said in done.stdout + done.stderr and "fix: " in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
