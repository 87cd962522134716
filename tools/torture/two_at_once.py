"""Two runs at once: several processes start the same stage in the same folder at the same moment.

Exactly one works; every other one is told who does, and ends with 2. What was written is sound. Where the one that
works is killed, the next one starts at once, and nothing of the dead one stays.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from engram.dataset import build
from engram.plan import documents
from tools.torture import Note, Tally
from tools.torture.broken_files import make_sound

ROUNDS = 24  # at scale 1.0
AT_ONCE = 4
# A process that waits for the start, and then holds its place until it is released.
PROGRAM = """
import sys, time
from pathlib import Path
from engram.dataset import build
from engram.support import files, locks
from engram.cli import main
ready, go, release = map(Path, sys.argv[1:4])
real = {call}
def slow(*given, **named):
    while not release.exists():
        time.sleep(0.01)
    return real(*given, **named)
{call} = slow
ready.touch()
while not go.exists():
    time.sleep(0.002)
main(sys.argv[4:])
"""
# each stage, what it writes, and the call within its lock that is slowed down
STAGES = {
    "data --patterns {root}/pack.yaml --data {root}/data --seed 1": ("data", "locks.recover"),
    "compare --backend mlx --results {root}/results": ("results/comparison.json", "files.write_bytes"),
    "report --results {root}/results --first mlx": ("results/report.html", "files.write_bytes"),
    "adapter convert {root}/adapters/mlx {root}/new": ("new", "files._replace_folder"),
}


def campaign(seed: int, scale: float, note: Note) -> list[Tally]:
    """Rounds of several processes, half of them with the working one killed."""
    started, kinds, losses = time.monotonic(), Counter[str](), []
    waits = []
    for number in range(max(len(STAGES), round(ROUNDS * scale))):
        draw = random.Random(f"{seed}:{number}")
        command, kill = [*STAGES][number % len(STAGES)], bool(number // len(STAGES) % 2)
        with tempfile.TemporaryDirectory() as folder:
            told, wait = one_round(Path(folder), command, kill, draw)
        kinds[f"{command.split()[0]}{', killed' if kill else ''}"] += AT_ONCE
        losses += [f"seed {seed}, round {number}, {command.split()[0]}, kill {kill}: {line}" for line in told]
        waits.append(wait)
        note(f"two at once: round {number + 1}, {len(losses)} losses")
    what = f"one of {AT_ONCE} processes that start the same stage at once"
    measured = {"longest wait after a kill, s": round(max(waits), 2)} if any(waits) else {}
    return [Tally("locks", what, dict(kinds), losses, time.monotonic() - started, measured)]


def one_round(folder: Path, command: str, kill: bool, draw: random.Random) -> tuple[list[str], float]:
    """What went wrong in one round, and how long the next one took after a kill."""
    root, go = folder / "sound", folder / "go"
    make_sound(root)
    target, call = STAGES[command]
    ready = [folder / f"ready-{i}" for i in range(AT_ONCE)]
    release = folder / "release"
    runs = [_start(command, root, call, one, go, release) for one in ready]
    while not all(one.exists() for one in ready):
        if ended := [run for run in runs if run.poll() is not None]:  # at import: it would never be ready
            return [f"not started: {_said(ended[0])}"], 0.0
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.02))
    go.touch()
    losses, wait = [], 0.0
    refused = _ended(runs, AT_ONCE - 1)
    working = [run for run in runs if run.poll() is None]
    losses += [] if len(working) == 1 else [f"{len(working)} were working"]
    for run in working if kill else ():
        os.kill(run.pid, signal.SIGKILL)
    release.touch()
    if kill:
        begun = time.monotonic()
        after = _start(command, root, call, folder / "ready-after", go, release)
        after.wait(120)
        wait = time.monotonic() - begun
        losses += [] if after.returncode == 0 else [f"after the kill: {_said(after)}"]
    else:
        _ended(runs, AT_ONCE)
        codes = sorted(run.returncode for run in runs)
        losses += [] if codes == [0, *[2] * (AT_ONCE - 1)] else [f"exit codes {codes}: {[_said(r) for r in runs]}"]
    for run in refused:
        said = _said(run)
        if run.returncode and not ("another engram (pid " in said and "is writing here" in said and target in said):
            losses.append(f"told: {said}")
    left = [str(path) for path in root.rglob(".*") if path.suffix in (".part", ".old", ".lock")]
    return [*losses, *(f"left {one}" for one in left), *_unsound(root)], wait


def _start(command: str, root: Path, call: str, ready: Path, go: Path, release: Path) -> subprocess.Popen[str]:
    arguments = [part.format(root=root) for part in command.split()]
    program = [sys.executable, "-c", PROGRAM.format(call=call), str(ready), str(go), str(release), *arguments]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _ended(runs: list[subprocess.Popen[str]], wanted: int) -> list[subprocess.Popen[str]]:
    """Wait until so many have ended (or a minute has gone); those that have."""
    end = time.monotonic() + 60
    while sum(run.poll() is not None for run in runs) < wanted and time.monotonic() < end:
        time.sleep(0.02)
    return [run for run in runs if run.poll() is not None]


def _said(run: subprocess.Popen[str]) -> str:
    """Everything that a process printed; kept, since a pipe is read once."""
    if not hasattr(run, "said"):
        run.said = run.communicate()[0]  # type: ignore[attr-defined]
    said: str = run.said  # type: ignore[attr-defined]
    return said


def _unsound(root: Path) -> list[str]:
    try:
        build.check_data(root / "data")
        documents.read(root / "results/mlx/comparison.json", "comparison", "")
    except Exception as error:
        return [f"unsound: {error}"]
    return []
