"""The split, its refusals and its leaks as they read off a page: every row in memory, every pair compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from engram.dataset import phrasing
from engram.dataset.build import is_held_out
from engram.dataset.leaks import KINDS
from engram.dataset.rows import SPLITS, Example
from engram.patterns.loading import Pattern
from engram.support.text import near_duplicate, normalise

Rows = Mapping[str, Sequence[Example]]


def held_out(patterns: Sequence[Pattern], seed: int) -> set[str]:
    kept = {pattern.id for pattern in patterns if is_held_out(pattern, seed)}
    by_answer: defaultdict[str, list[Pattern]] = defaultdict(list)
    for pattern in patterns:
        by_answer[normalise(pattern.output)].append(pattern)
    for group in by_answer.values():
        taught = [pattern for pattern in group if pattern.id not in kept]
        while taught:
            others = [pattern for pattern in group if pattern.id in kept]
            taught = [p for p in others if any(near_duplicate(p.input, t.input) for t in taught)]
            kept -= {pattern.id for pattern in taught}
    return kept


def collisions(patterns: Sequence[Pattern]) -> list[str]:
    owners: dict[str, Pattern] = {}
    problems: dict[str, None] = {}
    for pattern in patterns:
        for name in phrasing.ALL:
            owner = owners.setdefault(normalise(phrasing.phrase(name, pattern.input)), pattern)
            if owner is not pattern:
                problems[f"{pattern.place}: the phrasing {name!r} makes it the same prompt as {owner.place}"] = None
    return [*problems]


def leaks(rows: Rows) -> list[str]:
    return [*_exact(rows), *_phrasings(rows), *_near(rows)]


def _exact(rows: Rows) -> Iterator[str]:
    prompts: dict[str, Example] = {}
    for name in SPLITS:
        for row in rows[name]:
            if twin := prompts.get(normalise(row.prompt)):
                yield f"{name} row {row.id} has the very prompt of {twin.split_kind} row {twin.id}"
        prompts |= {normalise(row.prompt): row for row in rows[name]}
    teachers: dict[str, Example] = {}
    for row in (*rows["train"], *rows["valid"]):
        teacher = teachers.setdefault(normalise(row.input), row)
        if teacher.answer != row.answer:
            yield f"{row.split_kind} row {row.id} teaches another answer than {teacher.id}"
    for row in rows["test"]:
        found = teachers.get(normalise(row.input))
        if row.split_kind == "generalization" and found:
            yield f"held-out row {row.id} has the input of {found.split_kind} row {found.id}"
        if row.split_kind == "recall" and not found:
            yield f"recall row {row.id} asks for a pattern that is not taught"
        if row.split_kind == "recall" and found and found.answer != row.answer:
            yield f"recall row {row.id} expects another answer than {found.id} teaches"


def _phrasings(rows: Rows) -> Iterator[str]:
    allowed = {"train": phrasing.TRAIN, "valid": phrasing.VALID, "test": phrasing.TEST}
    for name, found in rows.items():
        for row in found:
            if row.split_kind not in KINDS[name]:
                yield f"{name} row {row.id} is of the kind {row.split_kind!r}"
            if row.phrasing not in allowed[name]:
                yield f"{name} row {row.id} uses the phrasing {row.phrasing!r}, kept for another split"
            elif phrasing.unphrase(row.phrasing, row.prompt) is None:
                yield f"{name} row {row.id} is not worded as its phrasing {row.phrasing!r}"


def _near(rows: Rows) -> Iterator[str]:
    by_answer: defaultdict[str, dict[str, Example]] = defaultdict(dict)
    for row in (*rows["train"], *rows["valid"]):
        by_answer[normalise(row.answer)].setdefault(normalise(row.input), row)
    for row in rows["test"]:
        if row.split_kind == "generalization":
            for twin in by_answer[normalise(row.answer)].values():
                if near_duplicate(row.input, twin.input):
                    yield f"held-out row {row.id} is nearly {twin.split_kind} row {twin.id}, with the same answer"
