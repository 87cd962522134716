"""Do two cores train faster as two processes, as two threads, or is one enough? And is the curve the same?

python benchmarks/cores.py FOLDER [ROUNDS]   # trains below FOLDER, prints a table, writes FOLDER/cores.json
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from engram.support import machine
from engram.support.errors import EngramError

STEPS, WARM_UP = 40, 5
ROUNDS = 3  # of every case, one after the other, so that a busy minute does not fall on one of them alone
PACKAGES = {"mlx": "mlx_lm", "cpu": "unsloth"}

# engram gives a model as small as `tiny` one torch thread, whatever the environment says
PATCHED = """
import sys
from engram.backends.unsloth import process
from engram.cli import main
threads = int(sys.argv.pop())
def set_threads(_):
    process.unsloth()
    import torch
    torch.set_num_threads(threads)
process._set_threads = set_threads
main()
"""


class Case(NamedTuple):
    """A way to use the cores."""

    backend: str
    processes: int
    threads: int


CASES = [Case(backend, *way) for backend in PACKAGES for way in ((1, 1), (1, 2), (2, 1))]


def measure(folder: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """Train `tiny` in every case, `rounds` times; for each the fastest round, and its curve beside that of one process.

    A case's speed is that of its median step after warm-up: real tokens of a mean step / seconds of the median step.
    """
    if len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)) < 2:
        raise EngramError(
            "this process may use one core alone", where="benchmarks/cores.py", fix="run it without taskset"
        )
    data = folder / "data"
    _engram(folder, ["data", "--data", str(data), "--patterns", str(Path(__file__).parents[1] / "patterns")], {})
    cases = [case for case in CASES if importlib.util.find_spec(PACKAGES[case.backend])]
    logs: dict[Case, list[dict[str, Any]]] = {case: [] for case in cases}
    for number in range(rounds):
        for case in cases:
            logs[case].append(_trained(folder / f"{number}-{'-'.join(map(str, case))}", data, case))
    plain = {case.backend: logs[case][0] for case in cases if case[1:] == (1, 1)}
    found = [_row(case, runs, plain[case.backend]) for case, runs in logs.items()]
    return {"hardware": machine.hardware(), "load": list(os.getloadavg()), "rounds": rounds, "cases": found}


def _trained(folder: Path, data: Path, case: Case) -> dict[str, Any]:
    """The log of one run."""
    folder.mkdir(parents=True)
    words = ["train", "--backend", case.backend, "--model", "tiny", "--data", str(data), "--nproc", str(case.processes)]
    words += ["--set", f"steps={STEPS}", "--adapters", str(folder / "adapters"), "--results", str(folder)]
    _engram(folder, words, {"OPENBLAS_NUM_THREADS": str(case.threads)}, case)
    log: dict[str, Any] = json.loads((folder / case.backend / "training.json").read_text("utf-8"))
    return log


def _engram(folder: Path, words: list[str], environment: dict[str, str], case: Case | None = None) -> None:
    """Run an engram command; one torch process gets the case's threads, whatever engram thinks of it."""
    command = [sys.executable, "-m", "engram.cli", *words]
    if case and case.backend == "cpu" and case.processes == 1:
        command = [sys.executable, "-c", PATCHED, *words, str(case.threads)]
    subprocess.run(command, check=True, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)


def _row(case: Case, runs: list[dict[str, Any]], plain: dict[str, Any]) -> dict[str, Any]:
    """What is reported of a case."""
    medians = [statistics.median(step["seconds"] for step in run["steps"][WARM_UP:]) for run in runs]
    tokens = runs[0]["summary"]["tokens"] / len(runs[0]["steps"])
    losses = [[step["loss"] for step in log["steps"]] for log in (runs[0], plain)]
    return case._asdict() | {
        "tokens_per_second": round(tokens / min(medians), 1),
        "seconds_of_a_step": [round(seconds, 4) for seconds in sorted(medians)],
        "fastest_step": min(step["seconds"] for run in runs for step in run["steps"]),
        "wall_seconds": min(run["summary"]["wall_seconds"] for run in runs),
        "largest_loss_difference": max(abs(one - other) for one, other in zip(*losses, strict=True)),
    }


def main() -> None:
    """Measure, print and write."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found = measure(folder, int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS)
    for row in found["cases"]:
        print(
            f"{row['backend']:4} processes {row['processes']} threads {row['threads']}"
            f" {row['tokens_per_second']:10,.0f} tokens/s, losses differ by {row['largest_loss_difference']:.1e}"
        )
    (folder / "cores.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
