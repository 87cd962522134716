"""Unsloth + TRL: an NVIDIA GPU (`cuda`), and the same code on a machine without one (`cpu`)."""

from __future__ import annotations

import importlib.util

from engram.support import gpu
from engram.support.errors import EngramError


def require(name: str = "cpu") -> None:
    """Raise an EngramError if Unsloth is not installed, or, for `cuda`, where no GPU can be used; import nothing."""
    missing = [package for package in ("unsloth", "trl", "torch") if not importlib.util.find_spec(package)]
    if name == "cuda":
        torch_cuda = None if "torch" in missing else gpu.torch_build()[1]
        if problem := gpu.problem(gpu.examine(), unsloth="unsloth" not in missing, torch_cuda=torch_cuda):
            raise EngramError(problem.what, where="BACKEND=cuda", fix=problem.fix)
    if missing:
        what, fix = f"the Unsloth backend is not installed ({', '.join(missing)})", f"make setup BACKEND={name}"
        raise EngramError(what, where=f"BACKEND={name}", fix=fix)
