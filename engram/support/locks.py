"""Keep two runs from writing the same place at once."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from engram.support.errors import EngramError, readable_errors
from engram.support.files import recover
from engram.support.text import shorten, visible

_held: set[Path] = set()  # by this process, which may enter its own places again


@contextlib.contextmanager
def held(path: Path, command: str) -> Iterator[None]:
    """Keep every other process from writing `path`, a file or folder, while the block runs.

    Whatever a killed writer left there is cleared away first. `command` is named to a second process, which gets an
    EngramError at once. The lock file lies next to `path`; the kernel releases the lock when its process ends.
    """
    from filelock import FileLock, Timeout

    path = Path(os.path.realpath(path))
    if path in _held:
        yield
        return
    file = path.parent / f".{path.name}.lock"
    made = [folder for folder in path.parents if not folder.exists()]
    with readable_errors(path, "write here"):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            what = f"another engram{_holder(file)} is writing here"
            raise EngramError(what, where=str(path), fix="wait for it, or stop it") from error
    try:
        with contextlib.suppress(OSError):  # on a full disk the lock holds without a name
            file.write_text(f"pid {os.getpid()}, `{command}`, since {time.strftime('%Y-%m-%d %H:%M')}", "utf-8")
        _held.add(path)
        recover(path, parts=True)
        yield
    finally:
        _held.discard(path)
        with contextlib.suppress(OSError):
            file.unlink()
        lock.release()
        with contextlib.suppress(OSError):  # remove the folders if nothing was written in them
            for folder in made:
                folder.rmdir()


def _holder(file: Path) -> str:
    """Who holds the lock, in brackets, as its file says; it is written a moment after the lock is taken."""
    for _ in range(50):
        with contextlib.suppress(OSError):
            if said := file.read_text("utf-8", "replace"):
                return f" ({visible(shorten(said, 120))})"
        time.sleep(0.01)
    return ""
