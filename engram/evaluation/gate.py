"""A verdict on what was taught, for people and for CI: each limit met, not shown or broken, from paired answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engram.evaluation import compare, scoring
from engram.plan import documents
from engram.plan.config import GateSettings
from engram.support import strict_json
from engram.support.errors import EngramError
from engram.support.files import read_bytes, sha256
from engram.support.statistics import wilson
from engram.support.text import first

VERDICTS = LEARNED, NOT_SHOWN, BROKE = ("LEARNED", "NOT SHOWN", "BROKE SOMETHING")
EXIT = {LEARNED: 0, NOT_SHOWN: 1, BROKE: 3}
STATES = MET, OPEN, BROKEN = ("met", "not shown", "broken")
LIMITS = GateSettings().limits  # of a recipe that says nothing else
GUESSED = 0.1  # a larger share of a random mapping's unseen members is not guessed: they were seen


class Limit(NamedTuple):
    """One limit: what is measured, with interval; the limit, None where only a loss counts; and whether it is met."""

    name: str
    n: int
    figure: float | None
    ci95: list[float] | None
    limit: float | None
    state: str
    text: str


def of_run(place: Path, limits: Mapping[str, float]) -> dict[str, Any]:
    """The verdict on the run in a folder of results, from its two documents.

    Raises EngramError as `compare.compare` does: for documents of different models, data, recipes or scoring.
    """
    before, after = compare.results(place)
    compare.refuse_unlike(before, after, place)
    found = splits(compare.paired(before["answers"], after["answers"]), limits)
    kept = retained(compare.retention(before["general"], after["general"]), limits)
    return document([*found, *kept], {stage: place / f"{stage}.json" for stage in compare.STAGES})


def of_files(before: Path, after: Path, limits: Mapping[str, float]) -> dict[str, Any]:
    """The verdict on the answers in two files of JSON Lines; retention isn't in them.

    A row holds `id`, `expected` and `answer`, and may hold `split`; or it is one that lm_eval logged with
    `--log_samples`. Raises EngramError for rows that can't be read, and questions that the files don't share.
    """
    one, other = (_rows(path) for path in (before, after))
    expected = [{name: row["expected"] for name, row in rows.items()} for rows in (one, other)]
    wrong = [name for name in {*one, *other} if expected[0].get(name) != expected[1].get(name)]
    if wrong or not one:
        differ = f"{len(wrong)} questions are not in both files, or expect other answers"
        what = differ if wrong else "there are no rows"
        fix = "give two files with the same questions"
        raise EngramError(what, where=f"{before} and {after}", problems=first(sorted(wrong)), fix=fix)
    pairs = [(row, other[name]) for name, row in one.items()]
    return document(splits(pairs, limits), {"baseline": before, "tuned": after})


def splits(pairs: compare.Pairs, limits: Mapping[str, float]) -> list[Limit]:
    """Each split's share of right answers against its limit: met where it is reached by a gain that is shown."""
    found = []
    for name in scoring.SPLITS:
        of = compare.of_split(pairs, name)
        if not of and name not in limits:
            continue
        right, change, limit = sum(after["exact"] for _, after in of), compare.change(of), limits.get(name)
        share, ci95 = (right / len(of) if of else None), wilson(right, len(of))
        state = OPEN if limit is None or share is None or share < limit or change["verdict"] != "gain" else MET
        text = "better than before" if change["verdict"] == "gain" else "no gain over before is shown"
        if name == "control" and ci95 and ci95[0] > GUESSED:
            state, text = BROKEN, "unseen members of a random mapping are answered: the test was known"
        elif change["verdict"] == "loss":
            state, text = BROKEN, "worse than before"
        elif limit is None:
            state = MET
        found.append(Limit(name, len(of), share, list(ci95) if ci95 else None, limit, state, text))
    return found


def retained(kept: Mapping[str, Any], limits: Mapping[str, float]) -> list[Limit]:
    """What general text and chat lost, in nats per token: broken or met where the whole interval is on that side."""
    most = limits.get("retention", LIMITS["retention"])
    found = []
    for kind in scoring.GENERAL:
        part, ci95 = kept[kind], kept[kind]["ci95"]
        state = OPEN if ci95 is None else BROKEN if ci95[0] > most else MET if ci95[1] <= most else OPEN
        name, text = f"retention: {kind}", "nats per token lost"
        found.append(Limit(name, part["n"], part["nats"], list(ci95) if ci95 else None, most, state, text))
    return found


def document(found: Sequence[Limit], sources: Mapping[str, Path]) -> dict[str, Any]:
    """The verdict as `schemas/gate.schema.json` has it: broken if one limit is, learned if all are met."""
    states = {one.state for one in found}
    verdict = BROKE if BROKEN in states else LEARNED if states == {MET} else NOT_SHOWN
    return {
        "document": "gate",
        "schema_version": 1,
        "verdict": verdict,
        "limits": documents.rounded([one._asdict() for one in found]),
        "sources": {name: sha256(path) for name, path in sources.items()},
    }


def sentence(made: Mapping[str, Any]) -> str:
    """The verdict in one sentence, with the names of what broke or is not shown."""
    state = BROKEN if made["verdict"] == BROKE else OPEN
    names = ", ".join(one["name"].replace(": ", " of ") for one in made["limits"] if one["state"] == state)
    return {
        LEARNED: "Learned: the taught patterns are answered, and nothing got worse beyond its limit.",
        NOT_SHOWN: f"Not shown: the evidence doesn't reach the limit for {names}.",
        BROKE: f"Broke something: {names}.",
    }[made["verdict"]]


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    problems = []
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").split("\n"), 1):
        if line.strip():
            try:
                row = _row(strict_json.parse(line.encode()))
            except (ValueError, KeyError, IndexError, TypeError) as error:
                problems.append(f"{path}:{number} {type(error).__name__}: {error}")
                continue
            if row["id"] in rows:
                problems.append(f"{path}:{number} the id {row['id']!r} comes twice")
            rows[row["id"]] = row
    if problems:
        fix = 'write a row as {"id": …, "expected": …, "answer": …}, or take lm_eval\'s --log_samples'
        raise EngramError("these answers can't be read", where=str(path), problems=first(problems), fix=fix)
    return rows


def _row(row: Any) -> dict[str, Any]:
    if "filtered_resps" in row:  # lm_eval
        answer = row["filtered_resps"][0]
        row = {"id": row["doc"].get("id", row["doc_id"]), "expected": row["target"], "answer": answer}
    texts = {name: row[name] for name in ("expected", "answer")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"expected and answer are texts, not {json.dumps(texts, ensure_ascii=False)}")
    name = str(row["id"])
    kinds = {"pattern": str(row.get("pattern", name)), "split_kind": row.get("split", "recall")}
    if kinds["split_kind"] not in scoring.SPLITS:
        raise ValueError(f"split is one of {', '.join(scoring.SPLITS)}")
    return {"id": name, **kinds, **texts, "exact": scoring.score(**texts).exact}
