"""Compare the runs of several backends and methods with each other; refuse runs that are not comparable."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engram.evaluation.compare import STAGES, change, differing_rows, of_split, paired, results
from engram.evaluation.scoring import mean, splits_of
from engram.plan import documents
from engram.plan.documents import differing
from engram.support import locks
from engram.support.errors import EngramError
from engram.support.files import sha256
from engram.support.statistics import wilson
from engram.training import methods

# equal in comparable runs, like the model's weights and bits; two recipes or methods are compared by their answers
SAME = ("data", "scoring")
SAME_MODEL = ("weights_sha256", "parameters")


class Run(NamedTuple):
    """One folder of results: its comparison, the documents that it compares, and its training log, if any."""

    name: str
    comparison: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    log: dict[str, Any] | None


def collect(folder: Path) -> dict[str, Any]:
    """Read every run in `folder`, test each two against each other, write and return `folder/comparison.json`.

    Two runs that are not comparable are named with every field in which they differ; a run that cannot be read is
    named with the reason. Neither stops the others.
    """
    with locks.held(folder / "comparison.json", "engram compare"):
        runs, unreadable = read_runs(folder)
        if not runs and not unreadable:
            raise EngramError("no results to compare", where=str(folder), fix="make eval compare")
        document = together(runs, unreadable)
        documents.write(folder / "comparison.json", document, "comparisons")
    return document


def together(runs: Sequence[Run], unreadable: dict[str, str]) -> dict[str, Any]:
    """The document of several runs, each two of them compared."""
    return {
        "document": "comparisons",
        "schema_version": documents.SCHEMA_VERSION,
        "improvement": {run.name: run.comparison["improvement"] for run in runs},
        "runs": {run.name: run.comparison for run in runs},
        "pairs": [pair(one, other) for one, other in itertools.combinations(runs, 2)],
        "unreadable": unreadable,
    }


def read_runs(folder: Path) -> tuple[list[Run], dict[str, str]]:
    """Every run that has a comparison, by name, and the reason for each that cannot be read."""
    runs, unreadable = [], {}
    for path in sorted(folder.glob("*/comparison.json")):
        try:
            runs.append(read_run(path.parent, path.parent.name))
        except EngramError as error:
            unreadable[path.parent.name] = "; ".join([error.what, *error.problems[:3]])
    return runs, unreadable


def pair(one: Run, other: Run) -> dict[str, Any]:
    """Two runs against each other; `change` is the second minus the first, on the same questions."""
    refused = _refused(one, other)
    names = {"runs": [one.name, other.name], "refused": refused, "settings": [] if refused else _settings(one, other)}
    if refused:
        return names | {"splits": None, "same_answers": None, "losses": None}
    tuned = [run.stages["tuned"] for run in (one, other)]
    rows = paired(tuned[0]["answers"], tuned[1]["answers"])
    return names | {
        "splits": {name: change(of_split(rows, name)) for name in splits_of(tuned[0]["answers"])},
        "same_answers": {
            f"{stage}_{part}": _same(one, other, stage, key)
            for stage in STAGES
            for part, key in (("test", "answers"), ("general", "general"))
        },
        "losses": None if names["settings"] else _losses(one, other),
    }


def read_run(place: Path, name: str) -> Run:
    """The run in a folder; raises EngramError if a document is missing, broken or newer than its comparison."""
    comparison = documents.read(place / "comparison.json", "comparison", "make compare")
    stages = dict(zip(STAGES, results(place), strict=True))
    if stale := [stage for stage in STAGES if sha256(place / f"{stage}.json") != comparison["sources"][stage]]:
        what = f"{' and '.join(stale)} changed since comparison.json was made"
        raise EngramError(what, where=str(place), fix="make compare")
    log = documents.read(place / "training.json", "training", "make train") if comparison["training"] else None
    return Run(name, comparison, stages, log)


def _refused(one: Run, other: Run) -> list[str]:
    lines = []
    for stage in STAGES:
        sides = [run.stages[stage] for run in (one, other)]
        known = [
            {"model": {k: side["model"][k] for k in SAME_MODEL}, "recipe": {"quantize": side["recipe"]["quantize"]}}
            | {k: side[k] for k in SAME}
            for side in sides
        ]
        lines += [*differing(known[0], known[1], known[0]), *differing_rows(*sides)]
    return list(dict.fromkeys(lines))


def _settings(one: Run, other: Run) -> list[str]:
    """The settings in which two recipes differ; of two methods without those that only one of them reads."""
    recipes = [run.stages["tuned"]["recipe"] for run in (one, other)]
    shared = (recipes[0].keys() & recipes[1].keys()) - {"method"}
    left, right = ({"recipe": {key: recipe[key] for key in shared}} for recipe in recipes)
    return differing(left, right, left)


def _same(one: Run, other: Run, stage: str, part: str) -> dict[str, Any]:
    """The share of questions to which both give the same text."""
    pairs = paired(one.stages[stage][part], other.stages[stage][part])
    same = [a["answer"] == b["answer"] for a, b in pairs if "answer" in a]
    return {"n": len(same), "share": mean(same), "ci95": wilson(sum(same), len(same))}


def _losses(one: Run, other: Run) -> dict[str, Any] | None:
    """The distance of two training curves of the same batches, in nats; None for two methods."""
    if one.log is None or other.log is None or methods.of(one.log["recipe"]) != methods.of(other.log["recipe"]):
        return None
    apart = [abs(a["loss"] - b["loss"]) for a, b in zip(one.log["steps"], other.log["steps"])]
    return {"steps": len(apart), "max": max(apart), "mean": sum(apart) / len(apart)}
