"""The BLAS under MLX on Linux."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
from engram.backends.mlx import blas
print(blas.prepare())
import mlx.core as mx
a = mx.random.normal((64, 64))
print(mx.abs((a @ a) - (a[:, :, None] * a[None]).sum(1)).max().item() < 1e-3)
"""

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="macOS has Accelerate")


def answers(**environment: str) -> list[str]:
    command, there = [sys.executable, "-c", CODE], {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=there).stdout.splitlines()


def test_openblas_is_used_and_right_and_its_copy_is_made_once(tmp_path: Path) -> None:
    used, right = answers(XDG_CACHE_HOME=str(tmp_path))
    assert used.startswith("OpenBLAS (") and right == "True"
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert answers(XDG_CACHE_HOME=str(tmp_path)) == [used, right]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == made


def test_everything_works_without_it() -> None:
    assert answers(ENGRAM_BLAS="reference") == ["reference BLAS (asked for by ENGRAM_BLAS)", "True"]
