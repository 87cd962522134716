"""Prove that no split gives away another's answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from engram.dataset import phrasing
from engram.dataset.rows import SPLITS, TEST_KINDS, Example
from engram.support.errors import EngramError
from engram.support.text import first, normalise, twins

KINDS = {"train": ("train",), "valid": ("valid",), "test": (*TEST_KINDS,)}
NEVER_TAUGHT = ("generalization", "control")  # the test rows of members that were held out
_ALLOWED = {"valid": {*phrasing.VALID}, "rewording": {phrasing.REWORDED}, "train": {*phrasing.TRAIN, phrasing.REWORDED}}

Splits = Mapping[str, Sequence[Example]]


def check_leaks(rows: Splits) -> None:
    """Raise an EngramError that names every row by which one split gives away another's answer."""
    if problems := list(_leaks(rows)):
        what = f"the splits leak: {len(problems)} problems"
        raise EngramError(what, problems=first(problems), fix="rm -r data && make data")


def _leaks(rows: Splits) -> Iterator[str]:
    teachers: dict[str, Example] = {}  # the first row that teaches an input or a rewording
    taught: dict[str, Example] = {}  # the first row that teaches a pattern
    unseen: list[Example] = []
    prompts: dict[str, Example] = {}  # by its text, in the rows' own strings: the first row with a prompt
    for name in SPLITS:
        for row in rows[name]:
            given = phrasing.unphrase(row.phrasing, row.prompt)
            yield from _misplaced(name, row, given)
            text = normalise(row.prompt)
            twin = prompts.setdefault(row.prompt if row.prompt == text else text, row)
            if twin.split_kind not in KINDS[name]:
                yield f"{name} row {row.id} has the prompt of {twin.split_kind} row {twin.id}"
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
    told = [*teachers.values()]
    for i, j in twins([(row.input, row.answer) for row in unseen], [(row.input, row.answer) for row in told]):
        alike = f"{unseen[i].split_kind} row {unseen[i].id} is nearly {told[j].split_kind} row {told[j].id}"
        yield f"{alike}, with the same answer"


def _misplaced(name: str, row: Example, given: str | None) -> Iterator[str]:
    if row.split_kind not in KINDS[name]:
        yield f"{name} row {row.id} is of the kind {row.split_kind!r}"
    if row.phrasing not in _ALLOWED.get(row.split_kind, phrasing.TEST):
        yield f"{name} row {row.id} uses the phrasing {row.phrasing!r}, kept for another split"
    elif given is None:
        yield f"{name} row {row.id} is not worded as its phrasing {row.phrasing!r}"
