"""The answers of a run, before beside after, each with what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from engram.evaluation.compare import paired
from engram.evaluation.compare_runs import Run

STATES = {
    "fixed": "fixed",
    "broken": "broken",
    "right": "unchanged, right",
    "wrong": "unchanged, wrong",
}
MARKS = {"fixed": "✓", "broken": "✗", "right": "=", "wrong": "–"}
_OUTCOMES = {(False, True): "fixed", (True, False): "broken", (True, True): "right", (False, False): "wrong"}


class Row(NamedTuple):
    """One question, both answers, and the state: a key of `STATES`."""

    run: str
    split: str
    category: str
    prompt: str
    expected: str
    before: str
    after: str
    state: str


class Kept(NamedTuple):
    """A general prompt that is no pattern, and its answers."""

    prompt: str
    before: str
    after: str


def state(before: bool, after: bool) -> str:
    """What became of an answer that was right or wrong before and after."""
    return _OUTCOMES[before, after]


def rows(runs: Sequence[Run]) -> list[Row]:
    """Every answer to the test sets, in their order."""
    return [_row(run.name, *pair) for run in runs for pair in paired(*_both(run, "answers"))]


def changed(run: Run) -> list[Kept]:
    """The general prompts that the tuned model answers differently."""
    pairs = [(b, a) for b, a in paired(*_both(run, "general")) if "answer" in b]
    return [Kept(b["prompt"], b["answer"], a["answer"]) for b, a in pairs if b["answer"] != a["answer"]]


def counts(found: Sequence[Row]) -> dict[str, int]:
    """How many rows there are of each state."""
    return {name: sum(row.state == name for row in found) for name in STATES}


def _row(run: str, before: dict[str, Any], after: dict[str, Any]) -> Row:
    category = f"{before['kind']}/{before['category']}"
    texts = (before["prompt"], before["expected"], before["answer"], after["answer"])
    return Row(run, before["split_kind"], category, *texts, state(before["exact"], after["exact"]))


def _both(run: Run, part: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return run.stages["baseline"][part], run.stages["tuned"][part]
