"""Many things of one kind, kept on the disk and read back one at a time or in their order."""

from __future__ import annotations

import marshal
import tempfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engram.support.errors import readable_errors
from engram.support.lazy import Lazy, T

IN_MEMORY = 8 << 20  # bytes up to which nothing goes to the disk
_PIECE = 1 << 16  # bytes that are written at once
_AT_ONCE = 256  # things that are read at once


class Spool(Lazy[T]):
    """A sequence that grows at its end; in memory are eight bytes for each thing.

    A thing is added as the tuple of texts and numbers that `make` makes it of. The working file has no name, so the
    kernel takes it away however the process ends. Raises EngramError where the disk is full.
    """

    def __init__(self, make: Callable[..., T]) -> None:
        self._make = make
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - it lives as long as this
        self._starts = array("q", [0])
        self._waiting: list[bytes] = []
        self._written = 0

    def add(self, fields: tuple[Any, ...]) -> None:
        """Put the thing made of `fields` at the end."""
        content = marshal.dumps(fields)
        self._waiting.append(content)
        self._starts.append(self._starts[-1] + len(content))
        if self._starts[-1] - self._written > _PIECE:
            self._write()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def at(self, index: int) -> T:
        """The thing at an index, read from the disk."""
        return self._make(*marshal.loads(self._read(index, index + 1)))

    def __iter__(self) -> Iterator[T]:
        for first in range(0, len(self), _AT_ONCE):
            last = min(first + _AT_ONCE, len(self))
            content, begin = memoryview(self._read(first, last)), self._starts[first]
            for at in range(first, last):
                yield self._make(*marshal.loads(content[self._starts[at] - begin : self._starts[at + 1] - begin]))

    def _read(self, first: int, last: int) -> bytes:
        self._write()
        self._file.seek(self._starts[first])
        return self._file.read(self._starts[last] - self._starts[first])

    def _write(self) -> None:
        if self._waiting:
            with readable_errors(Path(tempfile.gettempdir()), "keep a working file"):
                self._file.seek(self._written)
                self._file.write(b"".join(self._waiting))
            self._waiting, self._written = [], self._starts[-1]
