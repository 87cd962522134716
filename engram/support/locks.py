"""Two runs at once are kept apart: one writes a place, the other is told who does."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from engram.support.errors import EngramError, readable_errors
from engram.support.files import is_open_at, lock, sweep
from engram.support.text import shorten, visible

_held: set[Path] = set()  # by this process, which may enter a place of its own again


@contextlib.contextmanager
def held(path: Path, command: str) -> Iterator[None]:
    """Keep every other process from writing `path`, a file or folder, as long as the block lasts.

    What killed writers left there is taken away first. `command` is what others are told. The lock lies beside `path`
    while it is held; the kernel gives it back when its process ends, even if that is killed. On a filesystem without
    locks the block runs all the same. Raises EngramError, at once, where another process holds the place.
    """
    path = Path(os.path.realpath(path))
    if path in _held:
        yield
        return
    file = path.parent / f".{path.name}.lock"
    made = [folder for folder in path.parents if not folder.exists()]
    with readable_errors(path, "write here"):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _taken(file, path)
    try:
        with contextlib.suppress(OSError):  # on a full disk it locks as well without a name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"pid {os.getpid()}, `{command}`, since {time.strftime('%Y-%m-%d %H:%M')}".encode())
        _held.add(path)
        sweep(path)
        yield
    finally:
        _held.discard(path)
        with contextlib.suppress(OSError):
            file.unlink()
        os.close(descriptor)
        with contextlib.suppress(OSError):  # folders in which nothing was written go again
            for folder in made:
                folder.rmdir()


def _taken(file: Path, path: Path) -> int:
    """The open lock file; it is one's own only if it still lies there once it is locked."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        free = lock(descriptor)
        if free is None or (free and is_open_at(descriptor, file)):
            return descriptor
        holder = visible(shorten(os.read(descriptor, 200).decode("utf-8", "replace"), 120))
        os.close(descriptor)
        if not free:
            who = f"another engram ({holder})" if holder else "another engram"
            raise EngramError(f"{who} is writing here", where=str(path), fix="wait for it, or stop it")
