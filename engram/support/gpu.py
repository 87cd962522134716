"""The NVIDIA GPU: what the driver says of it, and one readable line for each thing that can be wrong."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# the first driver that serves each CUDA (NVIDIA's release notes); requirements-gpu.txt's torch is built for 12.8
DRIVERS = {"12.6": 560, "12.8": 570, "12.9": 575, "13.0": 580}
CUDA = "12.8"
DRIVER = DRIVERS[CUDA]
CAPABILITY = (7, 5)  # Turing; there are no kernels for older cards
BF16 = (8, 0)
QUERY = "name,driver_version,memory.total,memory.free,compute_cap"
SUMMARY_CUDA = re.compile(r"CUDA (?:UMD )?Version:\s*(\d+\.\d+)")
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
CPU_INSTEAD = "or BACKEND=cpu"


class Problem(NamedTuple):
    """One thing that is wrong, and the remedy."""

    what: str
    fix: str


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


@dataclass(frozen=True)
class Report:
    """What `nvidia-smi` said: the driver, the newest CUDA that it serves, the cards; or its complaint.

    `found` is whether there is an `nvidia-smi` at all, `container` whether this runs in one.
    """

    found: bool = True
    container: bool = False
    driver: str = ""
    cuda: str = ""
    cards: tuple[Card, ...] = ()
    complaint: str = ""

    @property
    def card(self) -> Card | None:
        """The card that is computed on: the first of `CUDA_VISIBLE_DEVICES`, else the first."""
        chosen = (os.environ.get("CUDA_VISIBLE_DEVICES") or "0").split(",")[0]
        index = int(chosen) if chosen.isdigit() else 0
        return self.cards[index] if index < len(self.cards) else None

    @property
    def driver_major(self) -> int:
        """570 of 570.124.06; 0 where unknown."""
        major = self.driver.partition(".")[0]
        return int(major) if major.isdigit() else 0


class Shape(NamedTuple):
    """The size of a model, for an estimate of memory."""

    parameters: int
    layers: int
    width: int
    vocabulary: int


def parse(query: str, summary: str = "", *, container: bool = False) -> Report:
    """The report in the output of `nvidia-smi --query-gpu=… --format=csv,noheader,nounits` and of bare `nvidia-smi`."""
    cards, driver = [], ""
    for line in query.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) < 5:
            continue
        name, driver = ",".join(fields[:-4]), fields[-4]
        major, _, minor = fields[-1].partition(".")
        capability = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
        memory, free = (int(field) if field.isdigit() else 0 for field in fields[-3:-1])
        cards.append(Card(name, memory, free, capability))
    cuda = SUMMARY_CUDA.search(summary)
    complaint = "" if cards else _first_line(query) or "it lists no GPU"
    return Report(True, container, driver, cuda.group(1) if cuda else "", tuple(cards), complaint)


@functools.cache
def examine() -> Report:
    """Ask `nvidia-smi` (ten seconds at most)."""
    container = any(Path(mark).exists() for mark in CONTAINER_MARKS)
    command = shutil.which("nvidia-smi") or shutil.which("/usr/lib/wsl/lib/nvidia-smi")
    if not command:
        return Report(found=False, container=container)
    query = _output([command, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"])
    return parse(query, _output([command]), container=container)


def problem(report: Report, *, unsloth: bool = True, torch_cuda: str | None = CUDA) -> Problem | None:
    """The first thing that keeps the `cuda` backend from computing here, with its remedy; None where nothing does.

    `unsloth` is whether it is installed, `torch_cuda` the CUDA that torch is built for: empty for the CPU build,
    None where there is no torch.
    """
    if not report.found:
        return _no_driver(report)
    if not report.cards:
        return _complaint(report)
    card = report.card
    if card is None:
        return Problem(
            f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} names none of the {len(report.cards)} GPUs",
            "unset CUDA_VISIBLE_DEVICES",
        )
    cuda = torch_cuda or CUDA
    needed = DRIVERS.get(cuda, DRIVER)
    if 0 < report.driver_major < needed:
        serves = f" (CUDA {report.cuda} at most)" if report.cuda else ""
        return Problem(
            f"the NVIDIA driver {report.driver}{serves} is too old for CUDA {cuda}",
            f"install driver {needed} or newer on the host (Ubuntu: sudo ubuntu-drivers install, then reboot), "
            + CPU_INSTEAD,
        )
    if (0, 0) < card.capability < CAPABILITY:
        has, needs = (".".join(map(str, capability)) for capability in (card.capability, CAPABILITY))
        return Problem(
            f"{card.name} has compute capability {has}; Unsloth and torch need {needs} (Turing, 2018) or newer",
            "take another GPU (CUDA_VISIBLE_DEVICES=1 chooses the second), " + CPU_INSTEAD,
        )
    if not unsloth or torch_cuda is None:
        return Problem("the GPU is usable, but Unsloth is not installed", "make setup BACKEND=cuda")
    if not torch_cuda:
        return Problem("torch is its CPU build", "rm -f .venv/.ready-cuda; make setup BACKEND=cuda")
    return None


def estimate(shape: Shape, tokens: int, bits: int = 16, *, checkpointing: bool = False, bytes_kept: int = 34) -> int:
    """MiB that training at `tokens` per batch takes, roughly: weights, activations, logits, and 512 for CUDA itself.

    `bytes_kept` is what a layer keeps of each token and unit of width for the backward pass: 34 by Korthikanti et
    al. (2022), without the attention matrix, which fused kernels do not keep; with checkpointing 2, and one layer in
    full. Logits in float32 and their gradient, for 4,096 tokens at most.
    """
    weights = shape.parameters * (2 if bits == 16 else 0.6)
    layer = tokens * shape.width * bytes_kept
    activations = tokens * shape.width * 2 * shape.layers + layer if checkpointing else layer * shape.layers
    logits = min(tokens, 4096) * shape.vocabulary * 8
    return round((weights + activations + logits) / 2**20) + 512


def memory_problem(
    report: Report, shape: Shape, tokens: int, batch_size: int, quantize: str, *, checkpointing: bool = False
) -> Problem | None:
    """What is missing, and what would fit, where a batch of `tokens` surely exceeds the free memory; else None.

    Surely: half of what a layer would keep is counted, so that no run is refused that could have worked.
    """
    card = report.card
    if card is None or not card.free:
        return None
    bits = 4 if quantize == "4bit" else 16
    needed = estimate(shape, tokens, bits, checkpointing=checkpointing, bytes_kept=16)
    if needed <= card.free:
        return None
    used = card.memory - card.free
    others = f" ({used:,} of {card.memory:,} are in use)" if used > 1024 else ""
    what = f"at least {needed:,} MiB of GPU memory are needed, {card.name} has {card.free:,} free{others}"
    return Problem(what, _what_fits(shape, tokens, batch_size, card.free))


def torch_build() -> tuple[str, str]:
    """The version of the installed torch and the CUDA it is built for, read without importing it; empty where none."""
    spec = importlib.util.find_spec("torch")
    if not spec or not spec.origin:
        return "", ""
    try:
        text = (Path(spec.origin).parent / "version.py").read_text("utf-8")
    except OSError:
        return "", ""
    version = re.search(r"__version__ = '([^']+)'", text)
    cuda = re.search(r"^cuda[^=]*= '([\d.]+)'", text, re.M)
    return version.group(1) if version else "", cuda.group(1) if cuda else ""


def _no_driver(report: Report) -> Problem:
    if report.container:
        return _without_gpu()
    return Problem(
        "no NVIDIA driver is installed (there is no nvidia-smi)",
        f"install driver {DRIVER} or newer (Ubuntu: sudo ubuntu-drivers install, then reboot), {CPU_INSTEAD}",
    )


def _without_gpu() -> Problem:
    return Problem(
        "this container was started without a GPU",
        "docker run --gpus all …, or the compose service that reserves it; the host needs nvidia-container-toolkit",
    )


def _complaint(report: Report) -> Problem:
    said = report.complaint
    if "version mismatch" in said:
        return Problem("the NVIDIA driver was updated and the old one is still loaded", "reboot")
    if "communicate with the NVIDIA driver" in said:
        return Problem(
            "the NVIDIA driver is installed but not running",
            f"reboot; with Secure Boot enrol the driver's key; else install driver {DRIVER} or newer again",
        )
    if report.container and ("Unknown Error" in said or "Insufficient Permissions" in said):
        return Problem("this container has lost its GPU, or may not use it", "start the container again")
    if report.container:
        return _without_gpu()
    return Problem(f"the NVIDIA driver lists no usable GPU: {said}", "check the card and the driver with: nvidia-smi")


def _what_fits(shape: Shape, tokens: int, batch_size: int, free: int) -> str:
    per_row = tokens / max(1, batch_size)
    checkpointed = " gradient_checkpointing=on"
    settings = (("", 16, False), (checkpointed, 16, True), (checkpointed + " quantize=4bit", 4, True))
    for text, bits, checkpointing in settings:
        rows = batch_size
        while rows >= 1:
            if estimate(shape, round(rows * per_row), bits, checkpointing=checkpointing) <= free:
                return f'SET="batch_size={rows}{text}" would fit'
            rows //= 2
    return f"no setting makes this model fit; MODEL=smollm-135m is smaller, {CPU_INSTEAD}"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _output(command: list[str]) -> str:
    """What a command says, on whichever channel and with whatever exit code: its complaints are what matters here."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=False, text=True, errors="replace")
    except subprocess.TimeoutExpired:
        return "nvidia-smi does not answer within ten seconds"
    except OSError as error:
        return str(error)
    return done.stdout if done.stdout.strip() else done.stderr
