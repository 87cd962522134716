"""Texts known by 64-bit marks: quick to find among millions, and always confirmed on the texts themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def mark(text: str) -> int:
    """The mark of a text, good within this process: equal texts have equal marks, others nearly always differ."""
    return hash(text)


def marks(texts: Iterable[str], count: int) -> Numbers:
    """The marks of `count` texts, in order."""
    return np.fromiter(map(mark, texts), np.int64, count)


def repeats(texts: Callable[[], Iterable[str]], count: int, at: Callable[[int], str]) -> Iterator[tuple[int, int]]:
    """The index of each text that stood before, and the index of the first like it, in order.

    `texts()` gives the `count` texts, each time anew, `at(index)` a single one.
    """
    ordered = marks(texts(), count)
    ordered.sort()
    twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    del ordered
    firsts: dict[int, list[int]] = {}
    for index, text in enumerate(texts() if twice else ()):
        if (known := mark(text)) in twice:
            known_at = firsts.setdefault(known, [])
            first = next((one for one in known_at if at(one) == text), None)
            if first is None:
                known_at.append(index)
            else:
                yield index, first


class Places:
    """Where the texts with a mark stand among others."""

    def __init__(self, known: Numbers) -> None:
        self._order: NDArray[np.integer] = np.argsort(known, kind="stable").astype(np.int32)  # below 2³¹ texts
        self._marks = known[self._order]

    def have(self, wanted: Numbers) -> NDArray[np.bool_]:
        """Which of the wanted marks stand here at all."""
        if not len(self._marks):
            return np.zeros(len(wanted), bool)
        near = np.searchsorted(self._marks, wanted)
        found: NDArray[np.bool_] = self._marks[np.minimum(near, len(self._marks) - 1)] == wanted
        return found

    def of(self, wanted: int) -> list[int]:
        """The indices of the texts with this mark, in order."""
        first = int(self._marks.searchsorted(wanted))
        if first == len(self._marks) or self._marks[first] != wanted:
            return []
        last = first + 1
        if last < len(self._marks) and self._marks[last] == wanted:
            last = int(self._marks.searchsorted(wanted, "right"))
        return self._order[first:last].tolist()  # type: ignore[no-any-return]

    def firsts(self) -> NDArray[np.integer]:
        """For each text the index of the first one with its mark."""
        begins = np.flatnonzero(np.diff(self._marks, prepend=self._marks[:1] - 1))
        found = np.empty_like(self._order)
        found[self._order] = np.repeat(self._order[begins], np.diff(begins, append=len(self._order)))
        return found

    def groups(self) -> Iterator[NDArray[np.integer]]:
        """The indices of the texts that share a mark, in order; a text whose mark is its own is left out."""
        cuts = np.flatnonzero(np.diff(self._marks)) + 1
        first, last = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(self._marks)]])
        several = last - first > 1
        for begin, end in zip(first[several].tolist(), last[several].tolist()):
            yield self._order[begin:end]
