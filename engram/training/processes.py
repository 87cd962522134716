"""Several processes in one training run: started by the field's launchers, all with the same run; the first one writes.

`engram train --nproc 2` runs `mlx.launch` (MLX) or `torchrun` (cuda, cpu) on this machine with the same command in it;
docs/distributed.md shows how to use the launchers directly, for several machines too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.plan import checkpoint, documents
from engram.plan.checkpoint import Keeper
from engram.plan.sharding import Ranks
from engram.support import signals
from engram.support.errors import EngramError
from engram.support.files import write_bytes


class Silent:
    """Progress that shows nothing."""

    def start(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    step = validation = start


def launch(backend: str, processes: int, arguments: Sequence[str], log: Path) -> None:
    """Run an engram command, given as its `arguments`, in several processes on this machine, and wait for it.

    `log` is the training log that the command writes. mlx.launch ends with 0 even if a process fails, so the run counts
    as finished only if that file was written. Raises EngramError if a process failed or the launcher is not installed,
    and Stopped for a signal, which the processes hear too: they finish the current step.
    """
    command = [*_launcher(backend, processes), sys.executable, "-m", "engram.cli", *arguments]
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)), **os.environ}
    before = _written(log)
    running = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # left open: mlx.launch reads a closed input in a busy loop
        env=environment,
        start_new_session=True,
        # mlx.launch survives SIGINT, to print the last messages of its processes; they listen for it themselves
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    passed = False
    try:
        with signals.patient():
            while running.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.wait(0.2)
                if signals.heard() and not passed:
                    passed = True
                    os.killpg(running.pid, signal.SIGINT)  # torchrun passes it on
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGTERM)
            running.wait()
    if number := signals.heard():
        raise signals.Stopped(number)
    if running.returncode or _written(log) == before:
        what, fix = f"training in {processes} processes failed", "the messages above say why"
        raise EngramError(what, where="NPROC", fix=f"{fix}; the same command continues from the last checkpoint")


def _launcher(backend: str, processes: int) -> list[str]:
    """The start of the launcher's command line; raises EngramError if it is not installed."""
    mlx = backend == "mlx"
    name = "mlx.launch" if mlx else "torchrun"
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    script = shutil.which(name, path=folders)
    if not script:
        fix = f"make setup BACKEND={backend}, or leave NPROC out"
        raise EngramError(f"{name} is not installed", where="NPROC", fix=fix)
    if not mlx:
        return [script, "--standalone", "--nproc-per-node", str(processes), "--no-python"]
    with socket.socket() as free:  # two runs on one machine need different ports
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [script, "--backend", "ring", "--repeat-hosts", str(processes), "--starting-port", port, "--"]


def _written(log: Path) -> int:
    """The time at which a file was written, in nanoseconds; 0 if there is none."""
    return log.stat().st_mtime_ns if log.is_file() else 0


@contextlib.contextmanager
def member(rank: int) -> Iterator[None]:
    """Around the work of one process: all but the first print nothing but their errors, which name the process."""
    if rank == 0:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield
        except signals.Stopped as stop:
            raise signals.Stopped(stop.number) from None
        except EngramError as error:
            where = f"process {rank}: {error.where}" if error.where else f"process {rank}"
            raise EngramError(error.what, where=where, problems=error.problems, fix=error.fix) from error


def refuse_unlike(ranks: Ranks, identity: Mapping[str, Any]) -> None:
    """Raise an EngramError, in every process, if they are about to train something else than the first does."""
    if ranks.size == 1:
        return
    first, *others = [json.loads(content) for content in ranks.gather(json.dumps(identity).encode())]
    problems = []
    for rank, other in enumerate(others, 1):
        lines = documents.differing(first, other, sorted({*first, *other}))
        problems += [f"{line} (process 0, and process {rank})" for line in lines]
    if problems:
        what = "the processes would not train the same"
        fix = "the same checkout, packages, MODEL and data on every machine"
        raise EngramError(what, where="NPROC", problems=problems[:20], fix=fix)


def lead(ranks: Ranks, keeper: Keeper) -> None:
    """In the first process: send the others the checkpoint that the run continues from, if any."""
    if ranks.size > 1:
        ranks.gather(checkpoint.pack(keeper.begun, keeper.identity) if keeper.begun else b"")


def follower(ranks: Ranks, identity: Mapping[str, Any], every: int) -> Keeper:
    """In every other process: the keeper of the same run, which continues from the first one's checkpoint.

    Only the first process writes checkpoints, so this keeper's path is never used.
    """
    content = ranks.gather(b"")[0]
    if not content:
        return Keeper(Path(), identity, every)
    with tempfile.TemporaryDirectory(prefix="engram-") as folder:
        file = Path(folder) / "checkpoint"
        write_bytes(file, content)
        return Keeper(Path(), identity, every, checkpoint.read(file)[1])
