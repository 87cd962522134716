"""The NVIDIA GPU: ask the driver, and say in one readable line what is wrong and how to fix it."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

# the first driver that serves each CUDA (NVIDIA's release notes); requirements-gpu.txt's torch is built for 12.8
DRIVERS = {"12.6": 560, "12.8": 570, "12.9": 575, "13.0": 580}
CUDA = "12.8"
DRIVER = DRIVERS[CUDA]
CAPABILITY = (7, 5)  # Turing; there are no kernels for older cards
BF16 = (8, 0)
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
CPU_INSTEAD = "or BACKEND=cpu"


class Problem(NamedTuple):
    """One thing that is wrong, and the remedy."""

    what: str
    fix: str


NOT_INSTALLED = Problem("Unsloth is not installed", "make setup BACKEND=cuda")
WITHOUT_GPU = Problem(
    "this container was started without a GPU",
    "docker run --gpus all …, or the compose service that reserves it; the host needs nvidia-container-toolkit",
)


class Card(NamedTuple):
    """One GPU; memory in MiB, 0 where the driver does not say; capability (0, 0) likewise."""

    name: str
    memory: int
    free: int
    capability: tuple[int, int]

    @property
    def bf16(self) -> bool:
        """Whether it computes in bfloat16; else float16 is used."""
        return self.capability >= BF16


class Report(NamedTuple):
    """The driver's answer: its version, the newest CUDA it serves, the cards; or its complaint with NVML's error code.

    `found` says whether there is a driver, `asked` whether it could be asked, `container` whether this runs in one.
    """

    found: bool = True
    asked: bool = True
    container: bool = False
    driver: str = ""
    cuda: str = ""
    cards: tuple[Card, ...] = ()
    complaint: str = ""
    error: int = 0

    @property
    def card(self) -> Card | None:
        """The card that is computed on: the first of `CUDA_VISIBLE_DEVICES`, else the first."""
        chosen = (os.environ.get("CUDA_VISIBLE_DEVICES") or "0").split(",")[0]
        index = int(chosen) if chosen.isdigit() else 0
        return self.cards[index] if index < len(self.cards) else None


@functools.cache
def examine() -> Report:
    """Ask the driver through NVML; without `nvidia-ml-py`, which comes with Unsloth, only whether there is one."""
    container = any(Path(mark).exists() for mark in CONTAINER_MARKS)
    try:
        import pynvml
    except ImportError:
        return Report(found=shutil.which("nvidia-smi") is not None, asked=False, container=container)
    try:
        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        cards = tuple(_card(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        found = error.value != pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
        return Report(found=found, container=container, complaint=str(error), error=error.value)
    said = "" if cards else "it lists no GPU"
    return Report(True, True, container, driver, f"{cuda // 1000}.{cuda % 1000 // 10}", cards, said)


def problem(report: Report, *, unsloth: bool = True, torch_cuda: str | None = CUDA) -> Problem | None:
    """The first thing that keeps the `cuda` backend from computing here, with its remedy; None if nothing does.

    `unsloth` is whether it is installed, `torch_cuda` torch's CUDA: empty for the CPU build, None without torch.
    """
    if not report.found:
        fix = f"install driver {DRIVER} or newer (Ubuntu: sudo ubuntu-drivers install, then reboot), {CPU_INSTEAD}"
        none = Problem("no NVIDIA driver is installed (its library is not here)", fix)
        return WITHOUT_GPU if report.container else none
    if not report.asked:
        return NOT_INSTALLED
    if not report.cards:
        return _complaint(report)
    card = report.card
    if card is None:
        visible = os.environ["CUDA_VISIBLE_DEVICES"]
        what = f"CUDA_VISIBLE_DEVICES={visible} names none of the {len(report.cards)} GPUs"
        return Problem(what, "unset CUDA_VISIBLE_DEVICES")
    cuda = torch_cuda or CUDA
    needed = DRIVERS.get(cuda, DRIVER)
    if int(report.driver.partition(".")[0]) < needed:
        serves = f" (CUDA {report.cuda} at most)" if report.cuda else ""
        fix = f"install driver {needed} or newer on the host (Ubuntu: sudo ubuntu-drivers install, then reboot)"
        what = f"the NVIDIA driver {report.driver}{serves} is too old for CUDA {cuda}"
        return Problem(what, f"{fix}, {CPU_INSTEAD}")
    if (0, 0) < card.capability < CAPABILITY:
        has, needs = (".".join(map(str, capability)) for capability in (card.capability, CAPABILITY))
        what = f"{card.name} has compute capability {has}; Unsloth and torch need {needs} (Turing, 2018) or newer"
        return Problem(what, f"take another GPU (CUDA_VISIBLE_DEVICES=1 chooses the second), {CPU_INSTEAD}")
    if not unsloth or torch_cuda is None:
        return NOT_INSTALLED
    if not torch_cuda:
        return Problem("torch is its CPU build", "rm -f .venv/.ready-cuda; make setup BACKEND=cuda")
    return None


def starts() -> bool:
    """Whether CUDA starts in this process: the driver's own first call, as torch makes it."""
    import ctypes

    try:
        return int(ctypes.CDLL("libcuda.so.1").cuInit(0)) == 0
    except (OSError, AttributeError):  # no such library, or not CUDA's
        return False


def torch_build() -> tuple[str, str]:
    """The version of the installed torch and the CUDA it is built for, read without importing it; empty where none."""
    spec = importlib.util.find_spec("torch")
    path = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = path.read_text("utf-8") if path and path.is_file() else ""
    version = re.search(r"__version__ = '([^']+)'", text)
    cuda = re.search(r"^cuda[^=]*= '([\d.]+)'", text, re.M)
    return version[1] if version else "", cuda[1] if cuda else ""


def _complaint(report: Report) -> Problem:
    import pynvml

    if report.error == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return Problem("the NVIDIA driver was updated and the old one is still loaded", "reboot")
    if report.error == pynvml.NVML_ERROR_DRIVER_NOT_LOADED:
        fix = f"reboot; with Secure Boot enrol the driver's key; else install driver {DRIVER} or newer again"
        return Problem("the NVIDIA driver is installed but not running", fix)
    if report.container and report.error in (pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_NO_PERMISSION):
        return Problem("this container has lost its GPU, or may not use it", "start the container again")
    if report.container:
        return WITHOUT_GPU
    what = f"the NVIDIA driver lists no usable GPU: {report.complaint}"
    return Problem(what, "check the card and the driver with: nvidia-smi")


def _card(nvml: Any, index: int) -> Card:
    """One card; a figure that the driver does not give is 0."""

    def asked(question: str) -> Any:
        try:
            return getattr(nvml, question)(handle)
        except nvml.NVMLError:
            return None

    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = asked("nvmlDeviceGetMemoryInfo")
    total, free = (memory.total >> 20, memory.free >> 20) if memory else (0, 0)
    capability = asked("nvmlDeviceGetCudaComputeCapability") or (0, 0)
    return Card(asked("nvmlDeviceGetName") or "a GPU", total, free, tuple(capability))
