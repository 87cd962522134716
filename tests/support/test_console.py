"""Output that any terminal can take, and a process that finds a home."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engram.support import console


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437"])
def test_text_that_the_output_cannot_encode_is_printed_all_the_same(encoding: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "engram.cli", "doctor", "--backend", "mlx"],
        env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, timeout=120,
    )  # fmt: skip
    assert shown.returncode == 0 and not shown.stderr and shown.stdout.decode(encoding)[0] in "+✓√"
    console.settle()
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", errors="plain")
    stream.write("✓ a → b … ▁█ 漢")
    stream.flush()
    assert stream.buffer.getvalue() == b"+ a > b ~ _# ?"


def test_without_a_home_a_temporary_one_is_used(tmp_path: Path) -> None:
    """As of an unknown user in a container: `~` leads nowhere."""
    code = "import os; os.path.expanduser = lambda path: path.replace('~', os.environ.get('HOME', '~'))"
    code += "\nfrom engram.cli import main\nmain(['models'])"
    env = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME", "HF_HOME")}
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert not [*tmp_path.iterdir()]


def test_closed_output_ends_no_command() -> None:
    done = subprocess.run([sys.executable, "-m", "engram.cli", "packs"], preexec_fn=lambda: os.close(1), timeout=120)
    assert done.returncode == 0
    code = "import sys; sys.stdout = None; from engram.support import console; console.settle(); console.note('x')"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
