"""The proof that no split gives away another's answer, for any number of rows.

Each row is looked at once. What is kept of it are 64-bit marks of its prompt, input and answer; rows whose marks are
alike are read again, and only their texts decide.
"""

from __future__ import annotations

import itertools
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from engram.dataset import near, phrasing
from engram.dataset.rows import SPLITS, Example
from engram.support.errors import EngramError
from engram.support.lazy import View
from engram.support.marks import Places, mark
from engram.support.text import normalise

KINDS = {"train": ("train",), "valid": ("valid",), "test": ("recall", "generalization")}
SHOWN = 20
_ALLOWED = {"train": phrasing.TRAIN, "valid": phrasing.VALID, "test": phrasing.TEST}

Rows = Mapping[str, Sequence[Example]]


def check_leaks(rows: Rows) -> None:
    """Raise an EngramError that names every row by which one split gives away another's answer.

    Each split is gone through once, in order; single rows are asked for again.
    """
    leaks = _Leaks(rows)
    problems = itertools.chain(leaks.prompts(), leaks.answers(), leaks.misplaced, leaks.near())
    shown = list(itertools.islice(problems, SHOWN))
    if shown:
        count = len(shown) + sum(1 for _ in problems) + leaks.misplaced_more
        more = [f"… and {count - SHOWN} more"] if count > SHOWN else []
        what = f"the splits leak: {count} problems"
        raise EngramError(what, problems=shown + more, fix="rm -r data && make data")


class _Leaks:
    """What is known of every row after each was looked at once.

    Training and validation rows are numbered through. Those that follow each other with one input and one answer are a
    run, and teach as its first row does.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._prompts = {name: array("q") for name in SPLITS}
        self._inputs, self._answers, self._starts = array("q"), array("q"), array("q")  # of each run
        self._asked, self._wanted, self._kinds = array("q"), array("q"), bytearray()  # of each test row
        self.misplaced: list[str] = []
        self.misplaced_more = 0
        for name in SPLITS:
            self._survey(name, rows[name])
        self._taught = Places(np.asarray(self._inputs, np.int64))
        self._new = np.ones(len(self._starts), bool)

    def _survey(self, name: str, rows: Iterable[Example]) -> None:
        before = len(self._prompts["train"]) if name == "valid" else 0
        last: tuple[str, str] | None = None
        for index, row in enumerate(rows):
            self._prompts[name].append(mark(normalise(row.prompt)))
            given = phrasing.unphrase(row.phrasing, row.prompt)
            if row.split_kind not in KINDS[name] or row.phrasing not in _ALLOWED[name] or given is None:
                self._misplace(name, row, given)
            given = given or row.prompt
            if name == "test":
                self._kinds.append(
                    ("recall", "generalization").index(row.split_kind) if row.split_kind in KINDS["test"] else 2
                )
                self._asked.append(mark(normalise(given)))
                self._wanted.append(mark(normalise(row.answer)))
            elif (given, row.answer) != last:
                last = given, row.answer
                self._inputs.append(mark(normalise(given)))
                self._answers.append(mark(normalise(row.answer)))
                self._starts.append(before + index)

    def _misplace(self, name: str, row: Example, given: str | None) -> None:
        found = []
        if row.split_kind not in KINDS[name]:
            found.append(f"{name} row {row.id} is of the kind {row.split_kind!r}")
        if row.phrasing not in _ALLOWED[name]:
            found.append(f"{name} row {row.id} uses the phrasing {row.phrasing!r}, kept for another split")
        elif given is None:
            found.append(f"{name} row {row.id} is not worded as its phrasing {row.phrasing!r}")
        room = SHOWN - len(self.misplaced)
        self.misplaced += found[:room]
        self.misplaced_more += len(found[room:])

    def prompts(self) -> Iterator[str]:
        """Each row with a prompt of an earlier split, of which the last such row is named."""
        known: list[tuple[str, Places]] = []
        for name in SPLITS:
            own = np.asarray(self._prompts.pop(name), np.int64)
            seen = np.zeros(len(own), bool)
            for _, places in known:
                seen |= places.have(own)
            for index in np.flatnonzero(seen).tolist():
                row = self._rows[name][index]
                twins = (
                    self._rows[of][at] for of, places in reversed(known) for at in reversed(places.of(int(own[index])))
                )
                if twin := next((one for one in twins if normalise(one.prompt) == normalise(row.prompt)), None):
                    yield f"{name} row {row.id} has the very prompt of {twin.split_kind} row {twin.id}"
            known.append((name, Places(own)))

    def answers(self) -> Iterator[str]:
        """Each row whose input another row, the first with it, answers otherwise, or as it must not be answered."""
        again = self._taught.firsts()
        for run in np.flatnonzero(again != np.arange(len(again))).tolist():
            head = self._head(run)
            teacher = self._teacher(self._inputs[run], head, run)
            if teacher and teacher.answer == head.answer:
                self._new[run] = False
            elif teacher:
                for row in self._run(run):
                    yield f"{row.split_kind} row {row.id} teaches another answer than {teacher.id}"
        kinds, seen = np.frombuffer(self._kinds, np.uint8), self._taught.have(np.asarray(self._asked, np.int64))
        for index in np.flatnonzero((kinds == 0) | ((kinds == 1) & seen)).tolist():
            row = self._rows["test"][index]
            yield from _test_row_leaks(row, self._teacher(self._asked[index], row) if seen[index] else None)

    def near(self) -> Iterator[str]:
        """Each held-out row with a taught input that is nearly its own and has the same answer, once for each such."""
        held_out = np.flatnonzero(np.frombuffer(self._kinds, np.uint8) == 1)
        runs = np.flatnonzero(self._new)
        wanted = np.asarray(self._wanted, np.int64)[held_out]
        asked, taught = Places(wanted), Places(np.asarray(self._answers, np.int64)[runs])
        found: list[tuple[int, int]] = []
        for answer in np.unique(wanted[taught.have(wanted)]).tolist():
            found += self._near(held_out[asked.of(answer)].tolist(), runs[taught.of(answer)].tolist())
        for index, run in sorted(set(found)):
            row, twin = self._rows["test"][index], self._head(run)
            if not self._repeats(run, twin):
                yield f"held-out row {row.id} is nearly {twin.split_kind} row {twin.id}, with the same answer"

    def _near(self, indices: list[int], runs: list[int]) -> Iterator[tuple[int, int]]:
        taught = _by_answer(runs, self._head)
        for answer, asked in _by_answer(indices, self._rows["test"].__getitem__).items():
            ones = View(asked, lambda index: self._rows["test"][index].input)
            others = View(taught.get(answer, []), lambda run: self._head(run).input)
            yield from ((asked[one], taught[answer][other]) for one, other in near.pairs(ones, others))

    def _repeats(self, run: int, head: Example) -> bool:
        """Whether an earlier run has the input and the answer of this one."""
        earlier = (self._head(one) for one in self._taught.of(self._inputs[run]) if one < run)
        own = normalise(head.input), normalise(head.answer)
        return any((normalise(one.input), normalise(one.answer)) == own for one in earlier)

    def _teacher(self, known: int, row: Example, before: int | None = None) -> Example | None:
        """The first taught row with the input of `row`, whose mark is `known`; of the runs `before` one, if given."""
        text = normalise(row.input)
        for run in self._taught.of(known):
            if before is not None and run >= before:
                break
            if normalise((head := self._head(run)).input) == text:
                return head
        return None

    def _head(self, run: int) -> Example:
        return self._learned(self._starts[run])

    def _run(self, run: int) -> Iterator[Example]:
        whole = len(self._rows["train"]) + len(self._rows["valid"])
        end = self._starts[run + 1] if run + 1 < len(self._starts) else whole
        return map(self._learned, range(self._starts[run], end))

    def _learned(self, number: int) -> Example:
        train = len(self._rows["train"])
        return self._rows["train"][number] if number < train else self._rows["valid"][number - train]


def _by_answer(numbers: Iterable[int], row: Callable[[int], Example]) -> dict[str, list[int]]:
    """The numbers of rows by their answers."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for number in numbers:
        groups[normalise(row(number).answer)].append(number)
    return groups


def _test_row_leaks(row: Example, teacher: Example | None) -> Iterator[str]:
    if row.split_kind == "generalization" and teacher:
        yield f"held-out row {row.id} has the input of {teacher.split_kind} row {teacher.id}"
    if row.split_kind == "recall" and not teacher:
        yield f"recall row {row.id} asks for a pattern that is not taught"
    if row.split_kind == "recall" and teacher and teacher.answer != row.answer:
        yield f"recall row {row.id} expects another answer than {teacher.id} teaches"
