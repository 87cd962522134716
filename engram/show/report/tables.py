"""The tables of the page, from the documents: the same figures and words as in the terminal, and every answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from engram.evaluation import tables
from engram.evaluation.compare import Pairs, paired
from engram.evaluation.compare_runs import Run

ABOUT = {
    "recall": "Taught patterns, asked for in words that training never used.",
    "generalization": "Held-out patterns, never taught in any words.",
}
TARGETS = {
    "first_100": "losses over the first 100 steps, nats",
    "first_200": "losses over 200 steps, nats",
    "largest": "losses over all steps, nats",
    "same_answers": "same greedy answers, share",
}

STATES = {"fixed": "fixed", "broken": "broken", "right": "unchanged, right", "wrong": "unchanged, wrong"}
MARKS = {"fixed": "✓", "broken": "✗", "right": "=", "wrong": "–"}
OUTCOMES = {(False, True): "fixed", (True, False): "broken", (True, True): "right", (False, False): "wrong"}


class Row(NamedTuple):
    """One question with both answers as they are in the documents, and the state: a key of `STATES`."""

    run: str
    before: dict[str, Any]
    after: dict[str, Any]
    state: str

    @property
    def category(self) -> str:
        """Kind and category of its pattern."""
        return f"{self.before['kind']}/{self.before['category']}"


def speed(runs: Sequence[Run]) -> tables.Table:
    """Time and memory of training and answering, a column for each run."""
    names = [name for name in tables.ACROSS if not name.startswith(("recall", "general", "perplexity"))]
    rows = [[name, *(tables.ACROSS[name](run.comparison) for run in runs)] for name in names]
    return tables.Table(["", *(run.name for run in runs)], rows)


def answers(runs: Sequence[Run]) -> list[Row]:
    """Every answer to the test sets, in their order."""
    pairs = [(run.name, *pair) for run in runs for pair in _pairs(run, "answers")]
    return [Row(run, before, after, OUTCOMES[before["exact"], after["exact"]]) for run, before, after in pairs]


def changed(run: Run) -> Pairs:
    """The general prompts that the tuned model answers differently, as they are in both documents."""
    return [(b, a) for b, a in _pairs(run, "general") if "answer" in b and b["answer"] != a["answer"]]


def _pairs(run: Run, part: str) -> Pairs:
    return paired(run.stages["baseline"][part], run.stages["tuned"][part])


def listed(value: Any) -> str:
    """Settings as text: `name value, name value`."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {listed(one)}" for key, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
