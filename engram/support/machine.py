"""Describe this machine: accelerators, hardware, versions; nothing that names its owner."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    *("mlx", "mlx-lm", "numpy", "scipy-openblas32", "transformers", "tokenizers", "safetensors"),
    *("torch", "trl", "peft", "unsloth"),
)
# settings that change numbers or speed; nothing else of the environment is ever recorded
ENVIRONMENT = ("ENGRAM_BLAS", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def apple_silicon() -> bool:
    """Whether this is a Mac with an Apple GPU."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


@functools.cache
def nvidia_gpu() -> bool:
    """Whether the NVIDIA driver lists a GPU (asked of `nvidia-smi`, two seconds at most)."""
    return "GPU" in _output(["nvidia-smi", "-L"]) if shutil.which("nvidia-smi") else False


def hardware() -> dict[str, Any]:
    """System, processor, cores and memory in GiB; no host or user name."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(memory / 2**30, 1),
    }


def free_memory() -> int | None:
    """Bytes that programs can still have, the limit of a container included; None where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("utf-8").splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text("utf-8")) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used)
    return free


def packages() -> dict[str, str]:
    """The installed versions of the packages that numbers can depend on."""
    from importlib import metadata

    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def environment() -> dict[str, str]:
    """The settings of the environment that matter, by allow-list."""
    return {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}


def git_commit(folder: Path) -> str | None:
    """The commit of a checkout, `+` behind it where tracked files are changed; None outside one."""
    if not (folder / ".git").exists() or not shutil.which("git"):
        return None
    commit = _output(["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]).strip()
    changed = _output(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"]).strip()
    return commit + ("+" if changed else "") if commit else None


def _processor() -> str:
    if platform.system() == "Darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"]).strip() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=2, check=False, text=True, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
