"""Prove that no split gives away another's answer."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from engram.dataset import phrasing
from engram.dataset.rows import SPLITS, TEST_KINDS, Example
from engram.support.errors import EngramError
from engram.support.text import first, near_duplicates, normalise

KINDS = {"train": ("train",), "valid": ("valid",), "test": (*TEST_KINDS,)}
NEVER_TAUGHT = ("generalization", "control")  # the test rows of members that were held out
_ALLOWED = {"valid": {*phrasing.VALID}, "rewording": {phrasing.REWORDED}, "train": {*phrasing.TRAIN, phrasing.REWORDED}}

Splits = Mapping[str, Iterable[Example]]


def check_leaks(rows: Splits) -> None:
    """Raise an EngramError that names every row by which one split gives away another's answer.

    Each split is iterated once, and once more where prompts may be alike. A taught input is kept in memory once.
    """
    if problems := list(_leaks(rows)):
        what = f"the splits leak: {len(problems)} problems"
        raise EngramError(what, problems=first(problems), fix="rm -r data && make data")


def _leaks(rows: Splits) -> Iterator[str]:
    teachers: dict[str, Example] = {}  # the first row that teaches an input or a rewording
    taught: dict[str, Example] = {}  # the first row that teaches a pattern
    unseen: list[Example] = []
    prompts = array("q")
    for name in SPLITS:
        for row in rows[name]:
            given = phrasing.unphrase(row.phrasing, row.prompt)
            yield from _misplaced(name, row, given)
            prompts.append(hash(normalise(row.prompt)))
            text = normalise(given or row.prompt)
            teacher = teachers.get(text) if name == "test" else teachers.setdefault(text, row)
            if name != "test":
                taught.setdefault(row.pattern, row)
                if teacher and teacher.answer != row.answer:
                    yield f"{name} row {row.id} teaches another answer than {teacher.id}"
                continue
            if row.split_kind != "recall":
                unseen.append(row)
                if teacher:
                    yield f"{row.split_kind} row {row.id} has the input of {teacher.split_kind} row {teacher.id}"
            teacher = taught.get(row.pattern)
            if row.split_kind in NEVER_TAUGHT:
                if teacher:
                    yield f"{row.split_kind} row {row.id} asks for a pattern that row {teacher.id} teaches"
            elif not teacher:
                yield f"{row.split_kind} row {row.id} asks for a pattern that is not taught"
            elif teacher.answer != row.answer:
                yield f"{row.split_kind} row {row.id} expects another answer than {teacher.id} teaches"
    if again := repeated(prompts):
        yield from _same_prompts(rows, again)
    yield from _near(unseen, teachers)


def _misplaced(name: str, row: Example, given: str | None) -> Iterator[str]:
    if row.split_kind not in KINDS[name]:
        yield f"{name} row {row.id} is of the kind {row.split_kind!r}"
    if row.phrasing not in _ALLOWED.get(row.split_kind, phrasing.TEST):
        yield f"{name} row {row.id} uses the phrasing {row.phrasing!r}, kept for another split"
    elif given is None:
        yield f"{name} row {row.id} is not worded as its phrasing {row.phrasing!r}"


def repeated(hashes: array[int]) -> set[int]:
    """The hashes that occur more than once: eight bytes each, where a set of all of them would take a hundred."""
    import numpy as np

    ordered = np.sort(np.frombuffer(hashes, np.int64))
    return set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


def _same_prompts(rows: Splits, again: set[int]) -> Iterator[str]:
    """Each row with the prompt of a row in an earlier split; `again` holds the hashes of prompts that may be alike."""
    earlier: dict[str, Example] = {}
    for name in SPLITS:
        own: dict[str, Example] = {}
        for row in rows[name]:
            text = normalise(row.prompt)
            if hash(text) in again:
                own.setdefault(text, row)
                if twin := earlier.get(text):
                    yield f"{name} row {row.id} has the prompt of {twin.split_kind} row {twin.id}"
        earlier |= own


def _near(unseen: Iterable[Example], teachers: Mapping[str, Example]) -> Iterator[str]:
    """Each row of what was never taught in these words whose input is nearly a taught one with the same answer."""
    asked: defaultdict[str, list[Example]] = defaultdict(list)
    for row in unseen:
        asked[normalise(row.answer)].append(row)
    taught: defaultdict[str, list[Example]] = defaultdict(list)
    for row in teachers.values():
        if (answer := normalise(row.answer)) in asked:
            taught[answer].append(row)
    for answer, twins in taught.items():
        inputs = [row.input for row in asked[answer]]
        for i, j in near_duplicates(inputs, [twin.input for twin in twins]):
            row, twin = asked[answer][i], twins[j]
            yield f"{row.split_kind} row {row.id} is nearly {twin.split_kind} row {twin.id}, with the same answer"
