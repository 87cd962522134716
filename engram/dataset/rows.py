"""A row of a data file: made of a pattern, written as a line, read and checked."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, BinaryIO

from engram.dataset import phrasing
from engram.patterns.loading import Pattern
from engram.support import schema, strict_json
from engram.support.errors import EngramError
from engram.support.files import LARGEST, reading
from engram.support.lazy import Lazy
from engram.support.text import visible

SPLITS = ("train", "valid", "test")


ASKED = ("id", "pattern", "kind", "category", "phrasing", "split_kind", "prompt")  # what result documents say of a row


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data file: a pattern's input in one phrasing, and the answer.

    `split_kind` is `train`, `valid`, `recall` (taught pattern, unseen phrasing) or `generalization` (held-out pattern).
    """

    id: str
    pattern: str
    kind: str
    category: str
    phrasing: str
    split_kind: str
    prompt: str
    answer: str

    @property
    def input(self) -> str:
        """The pattern's input, without the phrasing's words."""
        return phrasing.unphrase(self.phrasing, self.prompt) or self.prompt

    def row(self) -> dict[str, Any]:
        """The row as it stands in the file, `messages` as mlx-lm and TRL read them."""
        fields = ("id", "pattern", "kind", "category", "phrasing", "split_kind")
        messages = [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.answer}]
        return {**{name: getattr(self, name) for name in fields}, "messages": messages}

    def line(self) -> str:
        """What `json.dumps` makes of `row()`, in a fifth of the time."""
        quoted = encode_basestring
        return (
            f'{{"id": {quoted(self.id)}, "pattern": {quoted(self.pattern)}, "kind": {quoted(self.kind)}, '
            f'"category": {quoted(self.category)}, "phrasing": {quoted(self.phrasing)}, '
            f'"split_kind": {quoted(self.split_kind)}, "messages": [{{"role": "user", "content": '
            f'{quoted(self.prompt)}}}, {{"role": "assistant", "content": {quoted(self.answer)}}}]}}\n'
        )


def example(pattern: Pattern, name: str, split_kind: str) -> Example:
    """The row that asks for a pattern in the phrasing `name`."""
    prompt = phrasing.phrase(name, pattern.input)
    row_id = f"{pattern.id}-{name}"
    return Example(row_id, pattern.id, pattern.kind, pattern.category, name, split_kind, prompt, pattern.output)


def read_line(line: bytes) -> tuple[Example | None, list[str]]:
    """The row that a line holds, else what is wrong with it.

    A line in which there is nothing to refuse is read by Python's own reader and the compiled schema. Any other is
    `json_source`'s and `jsonschema`'s to judge.
    """
    row = _quickly(line)
    if row is not None:
        return _from_row(row), []
    row, problems = _parsed(line)
    return (None, problems) if problems else (_from_row(row), [])


_decode = json.JSONDecoder().decode
_QUOTES = Example(*[""] * 8).line().count('"')


def _quickly(line: bytes) -> dict[str, Any] | None:
    """The row of a sound line; None where there may be something to refuse.

    What `json_source` refuses beyond Python's reader is no row (numbers, nesting), or half a character, which only an
    escape can bring in, or a key that stands twice: then there are more quotes than a row has.
    """
    if b"\\u" in line or b"\\\\" in line or line.count(b'"') - line.count(b'\\"') != _QUOTES:
        return None
    try:
        row: dict[str, Any] = _decode(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return row if schema.accepts("data-row")(row) and row["phrasing"] in phrasing.ALL else None


def _parsed(line: bytes) -> tuple[dict[str, Any], list[str]]:
    try:
        row = strict_json.parse(line)
    except strict_json.JSONError as error:
        return {}, [f"not JSON: {error.what} ({error.place.replace('1:', 'column ', 1)})"]
    wrong = schema.problems(row, "data-row")
    problems = [f"{schema.json_path(p.path)}: {visible(p.message)}" for p in wrong]
    if not problems and row["phrasing"] not in phrasing.ALL:
        problems.append(f"$.phrasing: unknown phrasing {row['phrasing']!r}")
    return row, problems


def _from_row(row: dict[str, Any]) -> Example:
    user, assistant = row["messages"]
    identity = row["id"], row["pattern"], row["kind"], row["category"], row["phrasing"], row["split_kind"]
    return Example(*identity, user["content"], assistant["content"])


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
