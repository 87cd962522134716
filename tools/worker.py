"""A run in a process of its own, since Unsloth changes transformers and TRL at its import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engram.support.files import PACKAGE

LEAST = 10  # seconds; with less left a run is not begun


def run_apart(
    module: str, order: Mapping[str, Any], result: Path, seconds: float, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What `python -m module --worker ORDER` wrote to `result` within `seconds`, or `{"reason": …}` why it did not.

    It runs in the folder of `result`, without a network.
    """
    if seconds < LEAST:
        return {"reason": "no time left"}
    command = [sys.executable, "-m", module, "--worker", json.dumps(order)]
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PACKAGE.parent), **(environment or {})}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=settings, cwd=result.parent, check=False
        )
    except subprocess.TimeoutExpired:
        return {"reason": f"not done within the {seconds:.0f} s that were left"}
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return {"reason": lines[-1][:300] if lines else f"exit code {done.returncode}"}
    found: dict[str, Any] = json.loads(result.read_bytes())
    return found
