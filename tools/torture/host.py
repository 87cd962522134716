"""A process that has a backend's packages imported and forks itself for each command.

Run as a program it is that process: a JSON line in for each command, one back with its process id, one with its end.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engram.support.files import PACKAGE, cache_folder

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "tempfile.mkstemp", "tempfile.mkdtemp")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Host:
    """The forking process; its commands have `temporary` as the folder for temporary files. One runs at a time."""

    def __init__(self, backend: str, temporary: Path) -> None:
        temporary.mkdir()
        self.place = temporary
        command = [sys.executable, "-m", "tools.torture.host", backend]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(temporary)
        )
        self.read()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def start(self, arguments: Sequence[str], watched: Path | None = None, fatal: int = 0) -> Forked:
        """Run `engram` with these arguments; before its `fatal`-th operation on a file below `watched` it is killed."""
        output = self.place.parent / "forked.out"
        order = {"arguments": list(arguments), "output": str(output), "watched": str(watched or ""), "fatal": fatal}
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        answer = self.read()
        assert answer
        return Forked(self, answer["pid"], output)

    def read(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The host's next word, None where it says nothing for so many seconds."""
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            return None
        line = self.process.stdout.readline()
        assert line, "the host is gone"
        return dict(json.loads(line))


class Forked:
    """A command in a child of the host."""

    def __init__(self, host: Host, pid: int, place: Path) -> None:
        self.host, self.pid, self.place = host, pid, place
        self.code: int | None = None

    def wait(self, timeout: float) -> int | None:
        """Its exit code, negative for the signal that ended it; None where it still runs after so many seconds."""
        if self.code is None and (word := self.host.read(timeout)):
            self.code = word["code"]
        return self.code

    def kill(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def output(self) -> str:
        """What it printed."""
        return self.place.read_text("utf-8", "replace")

    def operations(self) -> int:
        """How many operations on files below the watched folder it did."""
        return int(self.place.with_suffix(".count").read_text())


def environment(temporary: Path) -> dict[str, str]:
    """This process's, with engram on Python's path and a folder for temporary files."""
    cache = str(cache_folder() / "inductor")  # torch makes this folder when it is imported
    return {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "TMPDIR": str(temporary), "TORCHINDUCTOR_CACHE_DIR": cache}


def serve(backend: str) -> None:
    """Import what the backend needs, then fork for every line of the input."""
    import numpy as np

    from engram import backends
    from engram.models import model
    from engram.models.tokenizer import load_encoder
    from engram.training import train  # noqa: F401

    backends.get(backend)
    if backend == "mlx":
        import mlx_lm.generate
        import mlx_lm.tuner.trainer
        import mlx_lm.tuner.utils  # noqa: F401
    else:
        import trl  # noqa: F401
    load_encoder(model.resolve("tiny"))
    np.zeros(1)
    say({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        Path(order["output"]).touch()
        if not (pid := os.fork()):
            work(order)
        say({"pid": pid})
        say({"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})


def say(word: dict[str, Any]) -> None:
    """One line of output."""
    os.write(1, json.dumps(word).encode() + b"\n")


def work(order: dict[str, Any]) -> None:
    """In the child: the command, as a process of its own would run it; never returns."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command has its own; Python's would show a traceback
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    counted = Counted(order["watched"], order["fatal"])
    if order["watched"]:
        sys.addaudithook(counted)
        os.fsync = counted.synced
    from engram import cli

    code: Any = 0
    try:
        cli.main(order["arguments"])
    except SystemExit as ending:
        code = ending.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if order["watched"]:
        Path(order["output"]).with_suffix(".count").write_text(str(counted.count))
    os._exit(code)


class Counted:
    """Python's audit hook: counts the operations on files below a folder, and kills this process before one."""

    def __init__(self, folder: str, fatal: int) -> None:
        self.folder, self.fatal, self.count, self.fsync = folder, fatal, 0, os.fsync

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An event of Python's; what opens for reading is none of ours."""
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if (opened or event in CHANGES) and str(arguments[0]).startswith(self.folder):
            self.one()

    def synced(self, descriptor: int) -> None:
        """In the place of `os.fsync`, which is no event."""
        self.one()
        self.fsync(descriptor)

    def one(self) -> None:
        """Before an operation."""
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)


if __name__ == "__main__":
    serve(sys.argv[1])
