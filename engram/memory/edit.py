"""Insert, delete and merge facts: each makes a new table in which every other row keeps its bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engram.memory.facts import Fact, Placed, named
from engram.memory.lookup import MISS, build, find
from engram.memory.table import Contents, Entry
from engram.support.errors import EngramError


def empty(width: int) -> Contents:
    """A table without facts."""
    none = np.zeros(0, np.uint64)
    return Contents((), np.zeros((0, width), np.float32), none, none.astype(np.uint32))


def inserted(known: Contents, placed: Sequence[Placed], rows: NDArray[np.float32]) -> Contents:
    """The table with these facts added; `rows` are those of all their answer tokens, float32 [tokens, width].

    Raises EngramError naming the facts that the table already has or contradicts.
    """
    refuse_known(known, placed)
    parts, numbers, first = [known.addresses], [known.numbers], len(known.rows)
    entries = [Entry(one.fact, len(one.tokens), tuple(sorted({count for count, _ in one.asked}))) for one in placed]
    for one in placed:
        parts.append(one.addresses.reshape(-1))
        numbers.append(np.tile(np.arange(first, first + len(one.tokens), dtype=np.uint32), len(one.asked)))
        first += len(one.tokens)
    return Contents(
        (*known.entries, *entries),
        np.concatenate([known.rows, rows]),
        np.concatenate(parts),
        np.concatenate(numbers),
    )


def refuse_known(known: Contents, placed: Sequence[Placed]) -> None:
    """Raise an EngramError naming each fact that the table already has or that contradicts one of its facts."""
    slots, numbers = build(known.addresses, known.numbers)
    problems = []
    for one in placed:
        rows = find(slots, numbers, len(known.addresses), one.addresses[:, 0])
        if (rows != MISS).any():
            there = known.entries[int(np.searchsorted(known.firsts, rows.max(), side="right")) - 1].fact
            same = there.output == one.fact.output
            problems.append(f"{named(one.fact)}: {'is there already' if same else f'contradicts {named(there)}'}")
    if problems:
        what = f"{len(problems)} facts are refused, and nothing is changed"
        raise EngramError(what, where="memory", problems=problems[:20], fix="engram memory delete the old one first")


def deleted(known: Contents, inputs: Sequence[str]) -> Contents:
    """The table without the facts of these inputs; raises EngramError naming inputs that it does not have."""
    wanted = {text.lstrip() for text in inputs}
    if missing := wanted - {fact.input.lstrip() for fact in known.facts}:
        problems = sorted(missing)[:20]
        raise EngramError("no such fact", where="memory", problems=problems, fix="engram memory list shows the inputs")
    keep = [i for i, fact in enumerate(known.facts) if fact.input.lstrip() not in wanted]
    owner = np.repeat(np.arange(len(known.entries)), [one.rows for one in known.entries])
    kept = np.isin(owner, keep)
    moved = np.cumsum(kept) - 1
    stay = kept[known.numbers] if len(known.numbers) else np.zeros(0, bool)
    return Contents(
        tuple(known.entries[i] for i in keep),
        known.rows[kept],
        known.addresses[stay],
        moved[known.numbers[stay]].astype(np.uint32),
    )


def merged(one: Contents, other: Contents, placed: Sequence[Placed]) -> Contents:
    """Both tables in one; `placed` are the other's facts. Facts in both are taken from the first.

    Raises EngramError naming the facts that contradict each other.
    """
    known: set[Fact] = set(one.facts)
    new = [i for i, fact in enumerate(other.facts) if fact not in known]
    firsts = other.firsts
    rows = [other.rows[firsts[i] : firsts[i] + other.entries[i].rows] for i in new]
    width = one.rows.shape[1]
    return inserted(one, [placed[i] for i in new], np.concatenate([np.zeros((0, width), np.float32), *rows]))
