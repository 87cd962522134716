"""The BLAS under MLX on Linux."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
from engram.backends.mlx import linux_cpu as blas
print(blas.prepare())
import mlx.core as mx
a = mx.random.normal((64, 64))
print(mx.abs((a @ a) - (a[:, :, None] * a[None]).sum(1)).max().item() < 1e-3)
"""

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="macOS has Accelerate")


def answers(**environment: str) -> list[str]:
    import os

    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stdout.splitlines()


def test_openblas_is_used_and_right() -> None:
    used, right = answers()
    assert used.startswith("OpenBLAS (")
    assert right == "True"


def test_everything_works_without_it() -> None:
    assert answers(ENGRAM_BLAS="reference") == ["reference BLAS (asked for by ENGRAM_BLAS)", "True"]


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path) -> None:  # type: ignore[no-untyped-def]
    blocked = tmp_path / "file"
    blocked.touch()
    used, right = answers(XDG_CACHE_HOME=str(blocked))
    assert right == "True"
    assert used.startswith(("OpenBLAS (the system's", "reference BLAS"))


def test_the_copy_is_made_once(tmp_path) -> None:  # type: ignore[no-untyped-def]
    first, _ = answers(XDG_CACHE_HOME=str(tmp_path))
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    second, _ = answers(XDG_CACHE_HOME=str(tmp_path))
    assert first == second
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == made
