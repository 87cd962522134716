"""Bad input: every kind of file and command line that may reach engram, by grammar, each part in its own process.

The process of a part may take 1 GiB above its start (RLIMIT_DATA, which Linux enforces): a case that needs more fails
as MemoryError, and counts as lost.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tools.torture import ROOT, Note, Tally
from tools.torture.hunt import hunt

MEMORY = 2**30  # bytes that the cases of a part may take together
MOST_SECONDS = 3600.0  # of a part at full scale


class Part(NamedTuple):
    """A kind of input: in words, its number of cases at full scale, and the module with its cases and its check.

    The module has `<name>_cases(folder)`, a Hypothesis strategy, and `check_<name>(case, folder)`.
    """

    what: str
    cases: int
    module: str


PARTS = {
    "patterns": Part("a pattern file", 5000, "fuzz_yaml"),
    "recipes": Part("a recipe file", 1500, "fuzz_yaml"),
    "settings": Part("settings after --set", 1000, "fuzz_yaml"),
    "documents": Part("a result document, a manifest or a parity table", 5000, "fuzz_json"),
    "lines": Part("rows of data or general text, or a recording", 3500, "fuzz_json"),
    "adapters": Part("an adapter's folder", 1500, "fuzz_folders"),
    "commands": Part("a command line", 2000, "fuzz_commands"),
}


def campaign(seed: int, scale: float, note: Note) -> list[Tally]:
    """Every part in its own process; the same seed and scale give the same cases."""
    return [run_part(name, seed, scale, note) for name in PARTS]


def run_part(name: str, seed: int, scale: float, note: Note) -> Tally:
    """One part in its own process."""
    part, started = PARTS[name], time.perf_counter()
    settings = {"HF_HUB_OFFLINE": "1", "OPENBLAS_NUM_THREADS": "1", "NO_COLOR": "1", "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "tools.torture.fuzz", name, str(seed), str(max(round(part.cases * scale), 5))]
    limit = max(MOST_SECONDS * min(scale, 1.0), 300.0)
    report: dict[str, Any] = {}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env=os.environ | settings, cwd=ROOT, check=False
        )
        report = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
        losses = report.get("losses", [f"seed {seed}: the process ended with {done.returncode}: {done.stderr[-2000:]}"])
    except subprocess.TimeoutExpired:
        losses = [f"seed {seed}: not done after {limit:g} s"]
    kinds = {f"{name}: {kind}": n for kind, n in report.get("kinds", {}).items()}
    measured = {"accepted, cases": report.get("accepted", 0), "peak memory, MiB": report.get("memory", 0) / 2**20}
    seconds = time.perf_counter() - started
    note(f"fuzz {name}: {sum(kinds.values())} cases in {seconds:.0f} s, {len(losses)} lost")
    return Tally(f"fuzz-{name}", part.what, kinds, losses, seconds, measured)


def _child(name: str, seed: int, count: int) -> dict[str, Any]:
    """One part in this process: its kinds, its losses, how many were accepted and how much memory was taken."""
    memory_disk = Path("/dev/shm")  # if there is one: thousands of small files are written
    module = importlib.import_module(f"tools.torture.{PARTS[name].module}")
    with tempfile.TemporaryDirectory(prefix="engram-fuzz-", dir=memory_disk if memory_disk.is_dir() else None) as made:
        folder = Path(made)
        cases, check = getattr(module, f"{name}_cases")(folder), getattr(module, f"check_{name}")
        hunt(cases, lambda case: check(case, folder), 5, seed)  # imports and caches are no case's memory
        before = _peak()
        _limit_memory()
        found = hunt(cases, lambda case: check(case, folder), count, seed)
    return {"kinds": found.kinds, "losses": found.losses, "accepted": found.accepted, "memory": _peak() - before}


def _limit_memory() -> None:
    """Allow MEMORY above this process's private memory, as RLIMIT_DATA counts it, if the system tells."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    if taken := next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmData")), 0):
        resource.setrlimit(resource.RLIMIT_DATA, (taken + MEMORY, taken + MEMORY))


def _peak() -> int:
    """The most memory that this process ever held, in bytes."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
