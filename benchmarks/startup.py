"""How long engram takes to begin: `engram --help`, make with nothing to do, and a model's way into memory.

    python benchmarks/startup.py [--model FOLDER] [--out FILE.json]

FOLDER is a model of its own beside `tiny`, for example one of SmolLM-135M's shape; nothing is fetched.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS, MAKES, LOADS = 15, 10, 1
FEW = "steps=1 samples=1 consistency_prompts=1 latency_prompts=1 max_new_tokens=1"
LOAD = """
import json, resource, sys, time
from engram import backends
from engram.models.model import resolve
name, folder = sys.argv[1:]
model, backend = resolve(folder), backends.get(name)
backend.device()
begun = time.perf_counter(); model.weights_sha256; hashed = time.perf_counter() - begun
if name == "mlx":
    import mlx_lm.tuner.trainer
else:
    import peft
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.perf_counter(); session = backend.load(model); loaded = time.perf_counter() - begun
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"load_seconds": loaded, "sha256_seconds": hashed, "grown_mib": (after - before) / 1024}))
"""


def measure(model: Path | None = None) -> dict[str, Any]:
    """Medians, least and most, in seconds: `help`, `version`, `make`, `make_nothing_to_do`, and `load` of each model.

    `load` has the seconds from a resolved model to a session, imports excluded, the seconds of its weights' SHA-256,
    and by how much the process's peak memory grew, in MiB; of each backend that is installed.
    """
    engram = str(Path(sys.executable).with_name("engram"))
    times = {
        "help": _timed([engram, "--help"], RUNS),
        "version": _timed([engram, "--version"], RUNS),
        "make": _timed(["make"], MAKES),
        "make_nothing_to_do": _nothing_to_do(),
    }
    models = {"tiny": "tiny", **({model.name: str(model.resolve())} if model else {})}
    return {**times, "load": {name: _loads(folder) for name, folder in models.items()}}


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def _timed(command: Sequence[str], runs: int, folder: Path = ROOT) -> dict[str, Any]:
    """Wall seconds of a command, after one that is not counted."""
    seconds = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        seconds.append(time.perf_counter() - begun)
    return _summary(seconds[1:])


def _nothing_to_do() -> dict[str, Any]:
    """`make train eval` where both are up to date, after a small training."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for path in (ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("requirements*.txt")):
            shutil.copyfile(path, folder / path.name)
            os.utime(folder / path.name, (1, 1))  # older than the packages that are installed
        command = ["make", "train", "eval", "BACKEND=mlx", "MODEL=tiny", f"ENGRAM_VENV={sys.prefix}", f"SET={FEW}"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return _timed(command, MAKES, folder)


def _loads(folder: str) -> dict[str, Any]:
    return {name: _load(name, folder) for name in ("mlx", "cpu") if _installed(name)}


def _load(backend: str, folder: str) -> dict[str, Any]:
    """Loads in processes of their own; what is loaded is in the system's cache, since its hash was taken before."""
    rows = []
    for _ in range(LOADS):
        command = [sys.executable, "-c", LOAD, backend, folder]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: _summary([row[key] for row in rows]) for key in rows[0]}


def _installed(backend: str) -> bool:
    from importlib.util import find_spec

    return find_spec("mlx_lm" if backend == "mlx" else "unsloth") is not None


def main() -> None:
    """Measure, print and, where asked, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model's folder, beside tiny")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    chosen = parser.parse_args()
    text = json.dumps(measure(chosen.model), indent=1)
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
