"""Compare before and after on one backend, paired; refuse results that are not comparable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engram.evaluation.scoring import GENERAL, exponential, mean, splits_of, summarise
from engram.plan import documents
from engram.plan.documents import differing
from engram.support import locks
from engram.support.errors import EngramError
from engram.support.files import sha256
from engram.support.statistics import FEWEST, holm, mcnemar, paired_bootstrap, ratio_bootstrap, wilson

STAGES = ("baseline", "tuned")
# must be the same on both sides for a difference to mean anything
SAME = ("backend", "model", "data", "recipe", "scoring")
ASKED = ("id", "split_kind", "prompt", "expected")
ALPHA = 0.05
Pairs = Sequence[tuple[dict[str, Any], dict[str, Any]]]


def compare(place: Path) -> dict[str, Any]:
    """Compare `baseline.json` and `tuned.json` of a run's folder; write and return its `comparison.json`.

    Raises EngramError, naming each differing field, for two documents that differ in model, data, recipe or scoring.
    """
    with locks.held(place / "comparison.json", "engram compare"):
        before, after = results(place)
        refuse_unlike(before, after, place)
        summary = ("consistency", "latency", "retention", "timings")
        document = {
            "document": "comparison",
            "schema_version": documents.SCHEMA_VERSION,
            **{name: after[name] for name in ("backend", "device", "model", "data", "recipe", "scoring")},
            **changes(before, after),
            **{one["stage"]: {**one["splits"], **{name: one[name] for name in summary}} for one in (before, after)},
            "sources": {stage: sha256(place / f"{stage}.json") for stage in STAGES},
            "training": training_summary(place / "training.json", after),
            "provenance": documents.provenance(),
        }
        documents.write(place / "comparison.json", document, "comparison")
    return document


def stored(place: Path) -> dict[str, Any]:
    """The comparison that a run's last `compare` wrote."""
    return documents.read(place / "comparison.json", "comparison", "make compare")


def results(place: Path) -> list[dict[str, Any]]:
    """The baseline and the tuned result of a run's folder; raises EngramError if one is missing or broken."""
    return [documents.read(place / f"{stage}.json", "result", "make eval") for stage in STAGES]


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The changes between two result documents: each split, each of its categories, and retention."""
    found = paired(before["answers"], after["answers"])
    splits = {name: of_split(found, name) for name in splits_of(before["answers"])}
    return {
        "improvement": {name: change(found) for name, found in splits.items()},
        "categories": {name: _categories(found) for name, found in splits.items()},
        "retention": retention(before["general"], after["general"]),
        **({"few_shot": _few_shot(found, before["few_shot"])} if "few_shot" in before else {}),
    }


def _few_shot(pairs: Pairs, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each split the untaught model with solved examples, and the change from that to the taught one."""
    shown = {row["id"]: row for row in rows}
    found = [({**before, **shown[before["id"]]}, after) for before, after in pairs]
    splits = {name: of_split(found, name) for name in splits_of([before for before, _ in found])}
    return {name: {"before": _side([before for before, _ in found]), "change": change(found)}
            for name, found in splits.items()}  # fmt: skip


def change(pairs: Pairs) -> dict[str, Any]:
    """The change between paired answers: the difference, its interval and p-value, and the verdict.

    The verdict is a gain or a loss only if the paired bootstrap interval, clustered by pattern, does not cover zero
    *and* the exact McNemar test gives p < 0.05; else "not shown".
    """
    before, after, n = [b["exact"] for b, _ in pairs], [a["exact"] for _, a in pairs], len(pairs)
    interval = paired_bootstrap(before, after, [b["pattern"] for b, _ in pairs])
    p_value = mcnemar(before, after)
    return {
        "n": n,
        "exact": (sum(after) - sum(before)) / n if n else None,
        "ci95": interval,
        "p_value": p_value,
        "fixed": sum(a and not b for b, a in zip(before, after)),
        "broken": sum(b and not a for b, a in zip(before, after)),
        "verdict": verdict(interval, p_value),
    }


def verdict(interval: Sequence[float] | None, p_value: float | None) -> str:
    """`gain`, `loss`, `not shown`, or `not measured` where there was nothing to measure."""
    if interval is None or p_value is None:
        return "not measured"
    if p_value >= ALPHA or interval[0] <= 0 <= interval[1]:
        return "not shown"
    return "gain" if interval[0] > 0 else "loss"


def retention(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
    """How much of its former abilities the model kept: perplexity on general text and chat, share of changed answers.

    `nats` is the change of nats per token with its bootstrap interval over rows; a perplexity that grows by a
    factor f is one of ln f nats. `kl` is the mean KL divergence from before to after per token, which no gain
    elsewhere can hide. `changed` is the share of general prompts with another greedy answer (Wilson).
    """
    pairs = paired(before, after)
    changed = [b["answer"] != a["answer"] for b, a in pairs if "answer" in b]
    return {
        **{kind: _perplexity_change([pair for pair in pairs if pair[0]["kind"] == kind]) for kind in GENERAL},
        **({"kl": {kind: _divergence([a for a in after if a["kind"] == kind]) for kind in GENERAL}}
           if any("kl" in a for a in after) else {}),
        "changed": {"n": len(changed), "share": mean(changed), "ci95": wilson(sum(changed), len(changed))},
    }  # fmt: skip


def differing_rows(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """A line for each list of questions that two result documents do not share, with the first that differ."""
    lines = []
    for part, fields in (("answers", ASKED), ("general", ("id", "kind", "tokens", "prompt"))):
        asked = [{row["id"]: tuple(row.get(f) for f in fields) for row in d[part]} for d in (one, other)]
        if wrong := sorted(k for k in {*asked[0], *asked[1]} if asked[0].get(k) != asked[1].get(k)):
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            lines.append(f"{part}: not the same question and expected answer in {', '.join(wrong[:3])}{more}")
    return lines


def refuse(what: str, place: Path, problems: Sequence[str], fix: str) -> None:
    """Raise an EngramError with these differences, if there are any."""
    if problems:
        raise EngramError(what, where=str(place), problems=problems, fix=fix)


def refuse_unlike(before: dict[str, Any], after: dict[str, Any], place: Path) -> None:
    """Raise an EngramError, naming each difference, for two documents that can't be compared as before and after."""
    problems = differing(before, after, SAME)
    stages = [document["stage"] for document in (before, after)]
    if stages != [*STAGES]:
        problems.append(f"stage: {stages[0]!r} and {stages[1]!r}")
    if before["adapter"] is not None or after["adapter"] is None:
        problems.append("adapter: a baseline has none, a tuned model has one")
    problems += differing_rows(before, after)
    refuse("baseline and tuned are not comparable", place, problems, "make eval makes both again")


def paired(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Pairs:
    """The rows of two documents with the same id, in the first one's order."""
    by_id = {row["id"]: row for row in after}
    return [(row, by_id[row["id"]]) for row in before]


def of_split(pairs: Pairs, split: str) -> Pairs:
    """The pairs of one split."""
    return [pair for pair in pairs if pair[0]["split_kind"] == split]


def _categories(pairs: Pairs) -> dict[str, Any]:
    """Each category's change, its p-value corrected for their number (Holm); no test of one that is too small."""
    groups: defaultdict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = defaultdict(list)
    for pair in pairs:
        groups[f"{pair[0]['kind']}/{pair[0]['category']}"].append(pair)
    rows: dict[str, Any] = {}
    for name, group in sorted(groups.items()):
        before, after = (_side([pair[i] for pair in group]) for i in (0, 1))
        row = {"n": len(group), "before": before, "after": after, "change": after["exact"] - before["exact"]}
        found = {"ci95": None, "p_value": None} if len(group) < FEWEST else change(group)
        rows[name] = row | {key: found[key] for key in ("ci95", "p_value")} | {"p_holm": None, "verdict": "too few"}
    tested = [row for row in rows.values() if row["n"] >= FEWEST]
    for row, p_holm in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row |= {"p_holm": p_holm, "verdict": verdict(row["ci95"], p_holm)}
    return rows


def _side(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in summarise(answers).items() if key in ("exact", "ci95")}


def _perplexity_change(pairs: Pairs) -> dict[str, Any]:
    tokens = [b["tokens"] for b, _ in pairs]
    before, after = (mean([pair[i]["nats"] for pair in pairs], sum(tokens)) for i in (0, 1))
    interval = ratio_bootstrap([a["nats"] - b["nats"] for b, a in pairs], tokens)
    said = "not measured" if interval is None else "loss" if interval[0] > 0 else "gain" if interval[1] < 0 else ""
    return {
        **{"n": len(pairs), "before": exponential(before), "after": exponential(after)},
        "nats": None if before is None or after is None else after - before,
        **{"ci95": interval, "verdict": said or "not shown"},
    }


def _divergence(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    tokens, nats = [row["tokens"] for row in rows], [row["kl"] for row in rows]
    found = {"nats": mean(nats, sum(tokens)), "ci95": ratio_bootstrap(nats, tokens)}
    return {"n": len(rows), "tokens": sum(tokens), **found}


def training_summary(path: Path, after: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of the log at `path`; None if there is none, or it is of another adapter than `after`."""
    log = documents.read(path, "training", "make train") if path.exists() else None
    return log["summary"] if log and log["adapter"]["sha256"] == after["adapter"]["sha256"] else None
