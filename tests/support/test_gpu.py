"""What `nvidia-smi` says, read: one line with its remedy for each thing that can be wrong. Needs no GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engram.support import gpu
from engram.support.files import PACKAGE

SUMMARY = """\
Sun Nov 22 10:00:00 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI {driver}             Driver Version: {driver}     CUDA Version: {cuda}     |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
"""
RTX = "NVIDIA GeForce RTX 3090, 570.124.06, 24576, 24109, 8.6\n"
H100 = "NVIDIA H100 80GB HBM3, 580.65.06, 81559, 81000, 9.0\n"
V100 = "Tesla V100-SXM2-16GB, 570.124.06, 16384, 16130, 7.0\n"
OLD = "NVIDIA GeForce RTX 2080 Ti, 535.183.01, 11264, 10900, 7.5\n"
SPARK = "NVIDIA GB10, 580.95.05, [N/A], [N/A], 12.1\n"
NOT_RUNNING = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.\n"
)
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.124\n"
LOST = "Failed to initialize NVML: Unknown Error\n"
NONE_FOUND = "No devices were found\n"
SMOL = gpu.Shape(134_515_008, 30, 576, 49_152)
PHI = gpu.Shape(2_779_683_840, 32, 2560, 51_200)


@pytest.fixture(autouse=True)
def no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_usable_card_is_read_whole() -> None:
    report = gpu.parse(RTX, SUMMARY.format(driver="570.124.06", cuda="12.8"))
    assert (report.driver, report.driver_major, report.cuda) == ("570.124.06", 570, "12.8")
    assert report.card == gpu.Card("NVIDIA GeForce RTX 3090", 24576, 24109, (8, 6))
    assert report.card.bf16
    assert gpu.problem(report) is None


def test_a_newer_drivers_summary_is_read_too() -> None:
    assert gpu.parse(H100, "Driver Version: 590.44.01   CUDA UMD Version: 13.1 |").cuda == "13.1"


@pytest.mark.parametrize(
    ("query", "container", "what", "fix"),
    [
        (OLD, False, "driver 535.183.01 (CUDA 12.2 at most) is too old for CUDA 12.8", "install driver 570 or newer"),
        (V100, False, "V100-SXM2-16GB has compute capability 7.0", "BACKEND=cpu"),
        (NOT_RUNNING, False, "installed but not running", "reboot"),
        (MISMATCH, False, "updated and the old one is still loaded", "reboot"),
        (LOST, True, "this container has lost its GPU", "start the container again"),
        (NONE_FOUND, False, "lists no usable GPU: No devices were found", "nvidia-smi"),
        (NONE_FOUND, True, "started without a GPU", "--gpus all"),
        ("", False, "lists no usable GPU", "nvidia-smi"),
        ("nvidia-smi does not answer within ten seconds", False, "does not answer", "nvidia-smi"),
    ],
)
def test_each_trouble_is_named_with_its_remedy(query: str, container: bool, what: str, fix: str) -> None:
    report = gpu.parse(query, SUMMARY.format(driver="535.183.01", cuda="12.2"), container=container)
    problem = gpu.problem(report)
    assert problem is not None
    assert what in problem.what
    assert fix in problem.fix
    assert "\n" not in problem.what + problem.fix


@pytest.mark.parametrize(
    ("container", "what", "fix"),
    [
        (False, "no NVIDIA driver is installed", "ubuntu-drivers install"),
        (True, "this container was started without a GPU", "nvidia-container-toolkit"),
    ],
)
def test_without_nvidia_smi(container: bool, what: str, fix: str) -> None:
    problem = gpu.problem(gpu.Report(found=False, container=container))
    assert problem is not None
    assert what in problem.what
    assert fix in problem.fix


@pytest.mark.parametrize(
    ("unsloth", "torch_cuda", "what", "fix"),
    [
        (False, None, "Unsloth is not installed", "make setup BACKEND=cuda"),
        (True, None, "Unsloth is not installed", "make setup BACKEND=cuda"),
        (True, "", "torch is its CPU build", "make setup BACKEND=cuda"),
        (True, "13.0", "too old for CUDA 13.0", "install driver 580"),
    ],
)
def test_packages_that_do_not_serve_a_usable_card(unsloth: bool, torch_cuda: str | None, what: str, fix: str) -> None:
    problem = gpu.problem(gpu.parse(RTX), unsloth=unsloth, torch_cuda=torch_cuda)
    assert problem is not None
    assert what in problem.what
    assert fix in problem.fix


def test_a_driver_is_complained_of_before_the_packages() -> None:
    problem = gpu.problem(gpu.parse(OLD), unsloth=False, torch_cuda=None)
    assert problem is not None
    assert "too old" in problem.what


def test_the_first_visible_card_is_the_one_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    report = gpu.parse(V100 + RTX)
    assert gpu.problem(report) is not None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert gpu.problem(report) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    problem = gpu.problem(report)
    assert problem is not None
    assert "CUDA_VISIBLE_DEVICES=7 names none of the 2 GPUs" in problem.what


def test_memory_that_the_driver_does_not_tell_is_not_judged() -> None:
    report = gpu.parse(SPARK)
    assert report.card is not None
    assert (report.card.memory, report.card.free) == (0, 0)
    assert gpu.problem(report) is None
    assert gpu.memory_problem(report, PHI, 10**6, 16, "none") is None


def test_a_card_without_a_known_capability_is_not_refused() -> None:
    assert gpu.problem(gpu.parse("NVIDIA Something, 570.10, 8192, 8000, [N/A]")) is None


def test_what_fits_is_not_refused() -> None:
    assert gpu.memory_problem(gpu.parse(RTX), SMOL, 16 * 64, 16, "none") is None
    assert gpu.memory_problem(gpu.parse(RTX), PHI, 4 * 64, 4, "none") is None


def test_too_little_memory_says_what_would_fit() -> None:
    small = gpu.parse("NVIDIA GeForce GTX 1650, 570.124.06, 4096, 3600, 7.5")
    problem = gpu.memory_problem(small, SMOL, 64 * 512, 64, "none")
    assert problem is not None
    assert "has 3,600 free" in problem.what
    assert problem.fix == 'SET="batch_size=4" would fit'
    bigger = gpu.memory_problem(small, PHI, 16 * 64, 16, "none")
    assert bigger is not None
    assert "quantize=4bit" in bigger.fix
    hopeless = gpu.memory_problem(gpu.parse("NVIDIA T400, 570.10, 2048, 1000, 7.5"), PHI, 64, 1, "4bit")
    assert hopeless is not None
    assert "MODEL=smollm-135m" in hopeless.fix


def test_memory_in_use_by_others_is_told() -> None:
    problem = gpu.memory_problem(gpu.parse("NVIDIA L4, 570.10, 23034, 1200, 8.9"), PHI, 512, 8, "none")
    assert problem is not None
    assert "(21,834 of 23,034 are in use)" in problem.what


def test_checkpointing_and_4_bit_lower_the_estimate() -> None:
    plain = gpu.estimate(PHI, 16 * 512)
    assert gpu.estimate(PHI, 16 * 512, checkpointing=True) < plain
    assert gpu.estimate(PHI, 16 * 512, 4) < plain


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


@pytest.mark.skipif(gpu.examine().found, reason="there is an NVIDIA driver here")
def test_a_gpu_stage_without_a_gpu_says_so_and_writes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engram.cli", "verify-model", "--backend", "cuda", "--model", "tiny"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert "BACKEND=cuda: " in done.stderr
    assert "fix: " in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(gpu.examine().found, reason="there is an NVIDIA driver here")
def test_doctor_asked_for_the_gpu_backend_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engram.cli", "doctor", "--backend", "cuda"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert "✗ backend" in done.stdout
    assert "fix: " in done.stdout
