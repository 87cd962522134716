"""Bad input: every kind of file and command line that may reach engram, by grammar, each part in a process of its own.

The process of a part may take 1 GiB above what it starts with (RLIMIT_DATA, which Linux enforces): a case that needs
more fails there as MemoryError, and counts as lost.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hunt import hunt
from hypothesis import strategies as st
from tally import Note, Tally

MEMORY = 2**30  # bytes that the cases of a part may take together
MOST_SECONDS = 3600.0  # of a part at full scale
Check = Callable[[Any], Any]


class Part(NamedTuple):
    """What is handed over, in a word and in a line, how many cases at full scale, and what makes and checks them."""

    what: str
    cases: int
    open: Callable[[Path], tuple[st.SearchStrategy[Any], Check]]


def _patterns(folder: Path) -> tuple[st.SearchStrategy[Any], Check]:
    import fuzz_yaml

    return fuzz_yaml.patterns_cases(), lambda case: fuzz_yaml.check_patterns(case, folder)


def _recipes(folder: Path) -> tuple[st.SearchStrategy[Any], Check]:
    import fuzz_yaml

    return fuzz_yaml.recipe_cases(), lambda case: fuzz_yaml.check_recipe(case, folder)


def _overrides(_: Path) -> tuple[st.SearchStrategy[Any], Check]:
    import fuzz_yaml

    return fuzz_yaml.override_cases(), fuzz_yaml.check_override


def _documents(folder: Path) -> tuple[st.SearchStrategy[Any], Check]:
    import fuzz_json

    return fuzz_json.cases(folder), lambda case: fuzz_json.check(case, folder)


def _lines(folder: Path) -> tuple[st.SearchStrategy[Any], Check]:
    import fuzz_lines

    return fuzz_lines.cases(), lambda case: fuzz_lines.check(case, folder)


def _adapters(folder: Path) -> tuple[st.SearchStrategy[Any], Check]:
    import fuzz_folders

    return fuzz_folders.adapter_cases(), lambda case: fuzz_folders.check_adapter(case, folder)


def _models(folder: Path) -> tuple[st.SearchStrategy[Any], Check]:
    import fuzz_folders

    fuzz_folders.load_encoder(fuzz_folders.resolve("tiny"))  # importing transformers takes seconds
    return fuzz_folders.model_cases(), lambda case: fuzz_folders.check_model(case, folder)


def _commands(folder: Path) -> tuple[st.SearchStrategy[Any], Check]:
    import fuzz_commands

    fuzz_commands.prepare(folder)
    return fuzz_commands.cases(), lambda case: fuzz_commands.check(case, folder)


def _shows(folder: Path) -> tuple[st.SearchStrategy[Any], Check]:
    import fuzz_shows

    return fuzz_shows.cases(folder), lambda case: fuzz_shows.check(case, folder)


def _sizes(folder: Path) -> tuple[st.SearchStrategy[Any], Check]:
    import fuzz_sizes

    return fuzz_sizes.cases(), lambda case: fuzz_sizes.check(case, folder)


PARTS = {
    "patterns": Part("a pattern file", 5000, _patterns),
    "recipes": Part("a recipe file", 1500, _recipes),
    "settings": Part("settings after --set", 1000, _overrides),
    "documents": Part("a result document, a manifest or a parity table", 5000, _documents),
    "lines": Part("rows of data or general text, or a recording", 3500, _lines),
    "adapters": Part("an adapter's folder", 1500, _adapters),
    "models": Part("a model's folder", 400, _models),
    "commands": Part("a command line", 2000, _commands),
    "shows": Part("a valid document with odd values, shown everywhere", 600, _shows),
    "sizes": Part("a file that is very large, deep or long", 40, _sizes),
}


def campaign(seed: int, scale: float, note: Note) -> list[Tally]:
    """Every part in a process of its own; the same seed and scale give the same cases."""
    return [_part(name, seed, scale, note) for name in PARTS]


def _part(name: str, seed: int, scale: float, note: Note) -> Tally:
    part, started = PARTS[name], time.perf_counter()
    count = max(round(part.cases * scale), 5)
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "PYTHONHASHSEED": "0",
    }
    command = [sys.executable, __file__, name, str(seed), str(count)]
    limit = max(MOST_SECONDS * min(scale, 1.0), 300.0)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment, check=False)
        report = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
        losses = report.get("losses", [f"seed {seed}: the process ended with {done.returncode}: {done.stderr[-2000:]}"])
    except subprocess.TimeoutExpired:
        report, losses = {}, [f"seed {seed}: not done after {limit:g} s"]
    kinds = {f"{name}: {kind}": n for kind, n in report.get("kinds", {}).items()}
    measured = {"accepted, cases": report.get("accepted", 0), "peak memory, MiB": report.get("memory", 0) / 2**20}
    seconds = time.perf_counter() - started
    note(f"fuzz {name}: {sum(kinds.values())} cases in {seconds:.0f} s, {len(losses)} lost")
    return Tally(f"fuzz-{name}", part.what, kinds, losses, seconds, measured)


def _child(name: str, seed: int, count: int) -> dict[str, Any]:
    """One part in this process: its kinds, its losses, how many were accepted and how much memory was taken."""
    memory_disk = Path("/dev/shm")  # where there is one: thousands of small files are written
    where = memory_disk if memory_disk.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="engram-fuzz-", dir=where) as folder:
        cases, check = PARTS[name].open(Path(folder))
        hunt(cases, check, 5, seed)  # imports and caches are no case's memory
        before = _peak()
        _limit_memory(_taken())
        found = hunt(cases, check, count, seed)
    return {"kinds": found.kinds, "losses": found.losses, "accepted": found.accepted, "memory": _peak() - before}


def _taken() -> int:
    """Bytes of private memory of this process, as RLIMIT_DATA counts them; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmData")), 0)


def _peak() -> int:
    """The most memory that this process ever held, in bytes."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


def _limit_memory(before: int) -> None:
    if before:
        resource.setrlimit(resource.RLIMIT_DATA, (before + MEMORY, before + MEMORY))


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    sys.path[:0] = [str(folder), str(folder.parent), str(folder.parent.parent)]
    print(json.dumps(_child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
