"""The tables of the page, from the documents: the same figures and words as in the terminal, and every answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from engram.evaluation import tables
from engram.evaluation.compare import Pairs, paired
from engram.evaluation.compare_runs import Run
from engram.support.console import number, percent

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


def parity_table(document: dict[str, Any]) -> tables.Table:
    """The parity document's targets: what was asked for, what was measured."""
    rows = []
    for target in document["targets"]:
        name, measured = target["name"], target["measured"]
        shown = percent(measured) if name == "same_answers" else f"{measured:.1e}"
        limit, met = number(target["limit"]), "met" if target["met"] else "missed"
        rows.append([TARGETS[name], target["recipe"], limit, shown, met])
    return tables.Table(["", "Recipe", "Limit", "Measured, worst", "Target"], rows)


def facts(run: Run) -> dict[str, str]:
    """Where a run's figures come from."""
    document = run.comparison
    made, model, adapter = document["provenance"], document["model"], run.stages["tuned"]["adapter"]
    hardware, revision = made["hardware"], f", revision {model['revision']}" if model["revision"] else ""
    found = {
        "Model": f"{model['name']}, {model['parameters']:,} parameters" + revision,
        "SHA-256 of its weights": model["weights_sha256"],
        "SHA-256 of the adapter": adapter["sha256"],
        "SHA-256 of the data's manifest": document["data"]["manifest_sha256"],
        "Backend and device": f"{document['backend']}, {document['device']}",
        "Hardware": ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in hardware.items()),
        "Recipe": _listed(document["recipe"]),
        "Scoring": _listed(document["scoring"]),
        "Packages": _listed({"Python": made["python"], **made["packages"]}),
        "engram": f"{made['engram']}, commit {made['git_commit'] or 'unknown'}",
        "Compared at": made["created"],
    }
    return found | {f"SHA-256 of {stage}.json": digest for stage, digest in document["sources"].items()}


def answers(runs: Sequence[Run]) -> list[Row]:
    """Every answer to the test sets, in their order."""
    pairs = [(run.name, *pair) for run in runs for pair in _pairs(run, "answers")]
    return [Row(run, before, after, OUTCOMES[before["exact"], after["exact"]]) for run, before, after in pairs]


def changed(run: Run) -> Pairs:
    """The general prompts that the tuned model answers differently, as they are in both documents."""
    return [(b, a) for b, a in _pairs(run, "general") if "answer" in b and b["answer"] != a["answer"]]


def _pairs(run: Run, part: str) -> Pairs:
    return paired(run.stages["baseline"][part], run.stages["tuned"][part])


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_plain(value)}" for key, value in values.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return _listed(value)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
