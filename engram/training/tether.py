"""The line between a launched process and the command that launched it: how the one ended, that the other is alive.

A folder, named by an environment variable. In it each process holds the kernel's lock on a file of its own as long as
it lives, and writes how it ended; the command holds the lock on another, and a process that can take that one is alone
and ends. So nobody waits for a dead one, whatever killed it, and no launcher's exit code or output need be understood.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engram.support.errors import EngramError
from engram.support.files import lock, write_text
from engram.support.signals import Stopped

VARIABLE = "ENGRAM_TETHER"
GONE = "another process of this run is gone"
_COMMAND = "command"


def gone() -> EngramError:
    """The error of a process that waits for one that has ended."""
    return EngramError(GONE, where="training", fix="the same command goes on from the last checkpoint, if there is one")


@contextlib.contextmanager
def tethered(rank: int) -> Iterator[None]:
    """Around what one process of several does: a process that is not the first prints nothing.

    One that an engram command launched hands that command its EngramError or its stop, and then ends as if all were
    well; and ends at once where that command has gone.
    """
    folder = os.environ.get(VARIABLE, "")
    with contextlib.ExitStack() as stack:
        if rank:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        if not folder or not Path(folder).is_dir():  # on another machine
            yield
            return
        stack.enter_context(_held(Path(folder) / f"{rank}.alive", str(os.getpid())))
        threading.Thread(target=_end_when_alone, args=(Path(folder) / _COMMAND,), daemon=True).start()
        report: dict[str, Any] = {"code": 0}
        try:
            yield
        except EngramError as error:
            parts = {"what": error.what, "where": error.where, "fix": error.fix, "problems": list(error.problems)}
            report = {"code": 2, **parts}
        except Stopped as stop:
            report = {"code": stop.exit_code, "what": str(stop)}
        write_text(Path(folder) / f"{rank}.json", json.dumps(report))


@dataclass
class Tether:
    """The command's end of it."""

    folder: Path
    lost: set[int] = field(default_factory=set)  # processes that died without a word

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """As long as the block lasts the processes of this machine may live."""
        with _held(self.folder / _COMMAND, ""):
            yield

    def reports(self) -> dict[int, dict[str, Any]]:
        """What each process that has ended said of it."""
        return {int(path.stem): json.loads(path.read_text("utf-8")) for path in self.folder.glob("[0-9]*.json")}

    def is_broken(self) -> bool:
        """Whether a process of this machine died without a word, or ended with an error: the others wait in vain."""
        said = self.reports()
        for path in self.folder.glob("[0-9]*.alive"):
            if int(path.stem) not in said and not _is_locked(path) and int(path.stem) not in self.reports():
                self.lost.add(int(path.stem))
        return bool(self.lost) or any(report["code"] == 2 for report in said.values())

    def pass_on(self, number: int) -> bool:
        """Send the first process a signal; whether it is there yet. It tells the others when its step is done."""
        file = self.folder / "0.alive"
        if not file.is_file() or not (content := file.read_text("utf-8")) or not _is_locked(file):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(content), number)
        return True


@contextlib.contextmanager
def _held(path: Path, content: str) -> Iterator[None]:
    """Hold the kernel's lock on a file, which nobody sees before it is locked."""
    work = path.with_suffix(".part")
    descriptor = os.open(work, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock(descriptor)
        os.write(descriptor, content.encode())
        work.rename(path)
        yield
    finally:
        os.close(descriptor)


def _is_locked(path: Path) -> bool:
    """Whether another process holds the lock; on a filesystem without locks everybody is taken to be alive."""
    with path.open("rb+") as file:
        return lock(file.fileno()) is not True


def _end_when_alone(path: Path) -> None:
    """Wait for a lock that is free only when its holder has gone, and end this process, whatever it does."""
    with contextlib.suppress(OSError), path.open("rb+") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        sys.stderr.flush()
        os._exit(128 + signal.SIGTERM)
