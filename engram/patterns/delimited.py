"""CSV and TSV -> rows; read by the standard library's csv module, strictly."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator
from typing import NamedTuple

from engram.patterns.import_rows import Fields, Read, UnfitError, Wanted, choose, extra, row

DELIMITERS = (",", ";", "\t", "|")


class _Table(NamedTuple):
    delimiter: str
    names: list[str]
    fields: Fields


class _BrokenError(ValueError):
    """The text is no such table from `line` on."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read(name: str, text: str, wanted: Wanted, tabs: bool) -> Read:
    """Every row of a table, or everything that is wrong with it; `tabs` where its name says that tabs separate."""
    rows, problems = [], []
    try:
        table = _table(text, wanted, ("\t",) if tabs else DELIMITERS)
        extra(table.fields.extra, wanted)
        records = _records(text, table.delimiter)
        if wanted.header:
            next(records)
        for line, values in records:
            found = _row(f"{name}:{line}", values, table)
            rows += found.rows
            problems += found.problems
    except _BrokenError as broken:
        problems.append(f"{name}:{broken.line}: {broken}; check the quotes from this line on")
    except UnfitError as reason:
        problems.append(f"{name}:1: {reason}")
    return Read(rows, problems)


def _row(place: str, values: list[str], table: _Table) -> Read:
    if len(values) == len(table.names):
        return row(place, dict(zip(table.names, values, strict=True)), table.fields)
    what = f"{len(values)} fields, and the table has {len(table.names)} columns"
    return Read([], [f"{place}: {what}; quote a text that holds {table.delimiter!r}, or add what is missing"])


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is no blank line, with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _BrokenError(line, f"no valid table: {error}") from error
        if values:
            yield line, values


def _table(text: str, wanted: Wanted, delimiters: tuple[str, ...]) -> _Table:
    """The delimiter under which the first record names, or holds, what is wanted; raises UnfitError, _BrokenError."""
    tables: list[_Table] = []
    reasons: list[tuple[int, Exception]] = []
    for delimiter in (wanted.delimiter,) if wanted.delimiter else delimiters:
        try:
            first = next(_records(text, delimiter), (1, []))[1]
        except _BrokenError as broken:
            reasons.append((0, broken))
            continue
        try:
            tables.append(_fields(delimiter, first, wanted))
        except UnfitError as reason:
            reasons.append((len(first), reason))
    if len(tables) == 1:
        return tables[0]
    if tables:
        found = " and ".join(repr(table.delimiter) for table in tables)
        raise UnfitError(f"{found} may each separate the columns; say which: --delimiter")
    raise max(reasons, key=lambda found: found[0])[1]


def _fields(delimiter: str, first: list[str], wanted: Wanted) -> _Table:
    if not first:
        raise UnfitError("there is no row; write a line that names the columns, and rows")
    names = first if wanted.header else [str(number) for number in range(1, len(first) + 1)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UnfitError(f"the column {twice[0]!r} stands twice; rename one of them")
    if not wanted.header:
        third = "3" if len(names) > 2 else None
        wanted = dataclasses.replace(
            wanted,
            input=wanted.input or "1",
            output=wanted.output or "2",
            category=wanted.category or third,
        )
    fields = choose(names, wanted)
    return _Table(delimiter, names, fields)
