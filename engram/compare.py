"""Before and after on one backend, paired; and the last comparison of every backend in one document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engram import results
from engram.errors import EngramError
from engram.evaluate import SPLITS
from engram.files import sha256
from engram.statistics import mcnemar, paired_bootstrap

# what must be the same on both sides for a difference to mean anything
SAME = ("backend", "model", "data", "recipe", "scoring")
ASKED = ("id", "split_kind", "prompt", "expected")


def compare(folder: Path, backend: str) -> dict[str, Any]:
    """Compare `baseline.json` and `tuned.json` of `folder/<backend>`; write and return `comparison.json`.

    Also puts it into `folder/comparison.json`, which holds every backend's last one. Raises EngramError, naming
    each differing field, where the two documents do not speak of the same model, data, recipe and scoring.
    """
    place = folder / backend
    before, after = (results.read(place / f"{stage}.json", "result", "make eval") for stage in ("baseline", "tuned"))
    _refuse_unlike(before, after, place)
    pairs = _pair(before, after)
    document = {
        "schema_version": results.SCHEMA_VERSION,
        **{name: after[name] for name in ("backend", "device", "model", "data", "recipe", "scoring")},
        "improvement": {name: change(*_outcomes(pairs, name)) for name in SPLITS},
        "baseline": _stage(before),
        "tuned": _stage(after),
        "sources": {stage: sha256(place / f"{stage}.json") for stage in ("baseline", "tuned")},
        "training": _training_summary(place / "training.json", after),
        "provenance": results.provenance(),
    }
    results.write(place / "comparison.json", document, "comparison")
    _collect(folder, backend, document)
    return document


def stored(folder: Path, backend: str) -> dict[str, Any]:
    """The comparison that a backend's last `compare` wrote."""
    return results.read(folder / backend / "comparison.json", "comparison", "make compare")


def change(before: list[bool], after: list[bool]) -> dict[str, Any]:
    """What changed between paired outcomes: the difference, its interval and p-value, and the verdict.

    A gain or loss is said only where the paired bootstrap interval does not cover zero *and* the exact McNemar
    test gives p < 0.05; else it is "not shown".
    """
    n = len(before)
    interval, p_value = paired_bootstrap(before, after), mcnemar(before, after)
    return {
        "n": n,
        "exact": (sum(after) - sum(before)) / n if n else None,
        "ci95": interval,
        "p_value": p_value,
        "fixed": sum(a and not b for b, a in zip(before, after)),
        "broken": sum(b and not a for b, a in zip(before, after)),
        "verdict": _verdict(interval, p_value),
    }


def differing(one: dict[str, Any], other: dict[str, Any], fields: tuple[str, ...]) -> list[str]:
    """A line for each of the fields (one level deep) in which two documents differ."""
    lines = []
    for name in fields:
        left, right = one.get(name), other.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            keys = sorted(k for k in {*left, *right} if left.get(k) != right.get(k))
            lines += [f"{name}.{key}: {left.get(key)!r} and {right.get(key)!r}" for key in keys]
        elif left != right:
            lines.append(f"{name}: {left!r} and {right!r}")
    return lines


def _refuse_unlike(before: dict[str, Any], after: dict[str, Any], place: Path) -> None:
    problems = differing(before, after, SAME)
    stages = [document["stage"] for document in (before, after)]
    if stages != ["baseline", "tuned"]:
        problems.append(f"stage: {stages[0]!r} and {stages[1]!r}")
    if before["adapter"] is not None or after["adapter"] is None:
        problems.append("adapter: a baseline has none, a tuned model has one")
    asked = [{tuple(a[key] for key in ASKED) for a in document["answers"]} for document in (before, after)]
    if asked[0] != asked[1]:
        problems.append(f"answers: {len(asked[0] ^ asked[1])} rows are not the same prompt and expected answer in both")
    if problems:
        what = "baseline and tuned are not comparable"
        raise EngramError(what, where=str(place), problems=problems, fix="make eval makes both anew")


def _pair(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    by_id = {answer["id"]: answer for answer in after["answers"]}
    return [(answer, by_id[answer["id"]]) for answer in before["answers"]]


def _outcomes(pairs: list[tuple[dict[str, Any], dict[str, Any]]], split: str) -> tuple[list[bool], list[bool]]:
    chosen = [(b["exact"], a["exact"]) for b, a in pairs if b["split_kind"] == split]
    return [b for b, _ in chosen], [a for _, a in chosen]


def _verdict(interval: tuple[float, float] | None, p_value: float | None) -> str:
    if interval is None or p_value is None:
        return "not measured"
    if p_value >= 0.05 or interval[0] <= 0 <= interval[1]:
        return "not shown"
    return "gain" if interval[0] > 0 else "loss"


def _stage(document: dict[str, Any]) -> dict[str, Any]:
    return {**document["splits"], "consistency": document["consistency"], "latency": document["latency"]}


def _training_summary(path: Path, after: dict[str, Any]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    log = results.read(path, "training", "make train")
    if log["adapter"]["sha256"] != after["adapter"]["sha256"]:
        return None  # the log of another adapter
    summary: dict[str, Any] = log["summary"]
    return summary


def _collect(folder: Path, backend: str, document: dict[str, Any]) -> None:
    path = folder / "comparison.json"
    every = {**_collected(path), backend: document}
    collected = {
        "schema_version": results.SCHEMA_VERSION,
        "improvement": {name: one["improvement"] for name, one in every.items()},
        "backends": every,
    }
    results.write(path, collected, "comparisons")


def _collected(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        known: dict[str, Any] = results.read(path, "comparisons", "make compare")["backends"]
    except EngramError as error:
        raise EngramError(
            error.what, where=error.where, problems=error.problems, fix=f"rm {path}; make compare"
        ) from error
    return known
