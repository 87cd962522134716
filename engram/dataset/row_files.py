"""A data file's rows: each checked once, then read again one at a time, in order or any of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from engram.dataset.examples import Example, read_line
from engram.support import schema
from engram.support.errors import EngramError
from engram.support.files import LARGEST, reading
from engram.support.lazy import Lazy

LARGEST_DATA = 1 << 36  # bytes of a data file that is read a row at a time
_SHOWN = 20


def first(problems: list[str], count: int | None = None) -> list[str]:
    """The first problems, and how many more there are of `count`."""
    more = (len(problems) if count is None else count) - _SHOWN
    return problems[:_SHOWN] + ([f"… and {more} more"] if more > 0 else [])


def iterate(path: Path, starts: array[int] | None = None, most: int = LARGEST) -> Iterator[Example]:
    """The rows of a data file; `starts` gets the byte at which each begins.

    Raises EngramError, at the end, with every line that is not a valid row.
    """
    if not path.is_file():
        raise EngramError("the data is missing", where=str(path), fix="make data")
    problems: list[str] = []
    with reading(path, most) as file:
        for number, (start, line) in enumerate(_lines(path, file), 1):
            if line.strip():
                row, wrong = read_line(line)
                if row is not None and not problems:
                    if starts is not None:
                        starts.append(start)
                    yield row
                problems += [f"{path}:{number} {problem}" for problem in wrong]
                if len(problems) >= schema.MOST:
                    break
    if problems:
        what, fix = f"{len(problems)} problems in a data file", "make data (after taking the broken file away)"
        raise EngramError(what, where=str(path), problems=first(problems), fix=fix)


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines without their ends, each with the byte at which it begins."""
    start = 0
    while line := file.readline(LARGEST + 1):
        if len(line) > LARGEST:
            raise EngramError(f"a line is larger than {LARGEST >> 30} GiB", where=str(path), fix="make data")
        yield start, line[:-1] if line.endswith(b"\n") else line
        start += len(line)


class RowFile(Lazy[Example]):
    """The rows of a data file on the disk; eight bytes of each are in memory.

    They are checked as `iterate` checks them when they are gone through for the first time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts: array[int] | None = None
        self._file: BinaryIO | None = None

    def __iter__(self) -> Iterator[Example]:
        starts = array("q")
        yield from iterate(self.path, starts, LARGEST_DATA)
        self._starts = starts

    def _checked(self) -> array[int]:
        if self._starts is None:
            for _ in self:
                pass
        assert self._starts is not None
        return self._starts

    def __len__(self) -> int:
        return len(self._checked())

    def at(self, index: int) -> Example:
        """The row at an index, read again."""
        if self._file is None:
            self._file = self.path.open("rb")
        self._file.seek(self._checked()[index])
        row, _ = read_line(self._file.readline())
        if row is None:
            raise EngramError("this file has changed while it was read", where=str(self.path), fix="run it again")
        return row

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()
