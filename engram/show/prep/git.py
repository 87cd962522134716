"""What git says of a checkout and of its user."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SECONDS = 5


def ask(folder: Path, *arguments: str) -> str | None:
    """The output of a git command in this folder; None where git is missing, refuses or does not answer in time."""
    if not shutil.which("git"):
        return None
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False, text=True, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
