"""Lines and columns of the values of a YAML document, in eight bytes each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

from engram.support.schema import Path

LARGE = 100  # keys


class Place(NamedTuple):
    """Line and column, both from 1."""

    line: int
    column: int


class Places:
    """Where the values of a document stand, eight bytes each: of every list and mapping those of its entries."""

    def __init__(self) -> None:
        self._marks = array("q")  # line and column in one number, see `_mark`
        self._starts: dict[int, int] = {}  # of a list or mapping, by its identity: where the marks of its entries begin
        self._orders: dict[int, dict[str, int]] = {}  # of a mapping, by its identity: where each key stands among them
        self._root = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places) and (self._root, self._marks) == (other._root, other._marks)

    __hash__ = None  # type: ignore[assignment]

    def begin(self, mark: int) -> None:
        """The document stands at `mark`."""
        self._root = mark

    def add(self, entries: list[Any] | dict[str, Any], marks: Iterable[int]) -> None:
        """The entries of a list or mapping, all that it holds and in its order, stand at `marks`."""
        self._starts[id(entries)] = len(self._marks)
        self._marks.extend(marks)

    def find(self, document: Any, path: Path) -> Place:
        """The place of the value at `path`, or of the nearest thing around it."""
        mark = self._root
        for part in path:
            start = self._starts.get(id(document)) if isinstance(document, (list, dict)) else None
            try:
                at = self._order(document)[str(part)] if isinstance(document, dict) else int(part)
                document = document[part]
            except (LookupError, TypeError, ValueError):
                break
            if start is None:
                break
            mark = self._marks[start + at]
        return Place(mark >> 32, mark & 0xFFFFFFFF) if mark else Place(1, 1)

    def _order(self, mapping: dict[str, Any]) -> dict[str, int]:
        """The place of each key among a mapping's keys, kept where counting them out again would take long."""
        if len(mapping) < LARGE:
            return {key: place for place, key in enumerate(mapping)}
        if id(mapping) not in self._orders:
            self._orders[id(mapping)] = {key: place for place, key in enumerate(mapping)}
        return self._orders[id(mapping)]
