"""The made parts of `docs/memory.md`, from the document of `make compare-methods`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.plan import documents
from engram.show.report import charts
from engram.show.report.charts import Level, Share
from engram.support.console import interval, percent
from engram.support.files import PACKAGE
from engram.support.statistics import wilson
from tools.docs.performance_page import table_of
from tools.docs.torture_page import figure

METHODS = PACKAGE.parent / "results" / "reference" / "methods.json"
MAKE = "make compare-methods"
SETS = ("patterns", "facts")


def parts(path: Path) -> dict[str, str]:
    """Each made part by name; of a part that was not measured a line that says so."""
    document = documents.read(path, "methods", MAKE) if path.is_file() else {"runs": []}
    return {name: make(document) or f"Not run yet: `{MAKE}`.\n" for name, make in PARTS.items()}


def pictures(path: Path, folder: Path) -> dict[Path, str]:
    """The charts as SVG files, by their path; none where nothing was measured."""
    runs = documents.read(path, "methods", MAKE)["runs"] if path.is_file() else []
    found = {}
    for name, title in (("patterns", "Recall of the patterns"), ("facts", "Recall of random facts")):
        levels = [_level(method, _of(runs, name, method)) for method in _methods(runs, name)]
        if levels:
            seeds = len({run["seed"] for run in runs if run["set"] == name})
            found[folder / f"methods-{name}.svg"] = charts.levels_file(f"{title}, {seeds} seeds together", levels)
    return found


def _level(method: str, runs: Sequence[Mapping[str, Any]]) -> Level:
    share = _pooled(runs, "recall")
    return Level(method, share["n"], None, Share(share["exact"], *share["ci95"]))


def _methods(runs: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return list(dict.fromkeys(run["method"] for run in runs if run["set"] == name))


def _of(runs: Sequence[Mapping[str, Any]], name: str, method: str) -> list[Mapping[str, Any]]:
    return [run for run in runs if (run["set"], run["method"]) == (name, method)]


def _pooled(runs: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    """The seeds' questions together, with Wilson's interval."""
    count = sum(run[kind]["n"] for run in runs)
    hits = sum(round(run[kind]["exact"] * run[kind]["n"]) for run in runs)
    return {"n": count, "exact": hits / count if count else 0.0, "ci95": wilson(hits, count)}


def _compared(document: Mapping[str, Any]) -> str:
    """A row for each method, its seeds together; a column's n is in its head, another one in the cell."""
    runs = document["runs"]
    methods = list(dict.fromkeys(run["method"] for run in runs))
    columns = {
        f"recall, {name}": [_pooled(_of(runs, name, method), "recall") for method in methods] for name in SETS
    } | {
        title: [_pooled(_of(runs, "patterns", method), kind) for method in methods]
        for title, kind in (("near misses: base answer", "near_misses"), ("other words", "paraphrases"))
    }
    most = {title: max(share["n"] for share in shares) for title, shares in columns.items()} if runs else {}
    rows = []
    for place, method in enumerate(methods):
        of = [_of(runs, name, method) for name in SETS]
        shares = [_share(column[place], most[title]) for title, column in columns.items()]
        seconds = [f"{figure(sum(run['seconds'] for run in some) / len(some))} s" for some in of if some]
        size = f"{figure(max(run['bytes'] for some in of for run in some) / 1024)} KiB"
        rows.append([method, *shares, _perplexity(of[0]), ", ".join(seconds), size])
    head = ["method", *(f"{title}, n = {n}" for title, n in most.items())]
    head += ["perplexity: text, chat", "teaching: patterns, facts", "largest on disk"]
    return table_of(head, rows) + "\n" + "".join(_source(runs, name) for name in SETS) if rows else ""


def _perplexity(runs: Sequence[Mapping[str, Any]]) -> str:
    nats = [run["general"]["nats"] for run in runs if "general" in run]
    means = [sum(one[kind] for one in nats) / len(nats) for kind in ("text", "chat")] if nats else []
    return ", ".join(figure(math.exp(mean)) for mean in means) or "–"


def _share(found: Mapping[str, Any], most: int = 0) -> str:
    asked = "" if found["n"] == most else f", n = {found['n']}"
    return f"{percent(found['exact'])} {interval(found['ci95'])}{asked}" if found["n"] else "–"


def _source(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    of = [run for run in runs if run["set"] == name]
    seeds = ", ".join(map(str, sorted({run["seed"] for run in of})))
    taught = ", ".join(f"{count:,}" for count in dict.fromkeys(run["taught"] for run in of))
    return f"Taught {name}: {taught} with seeds {seeds}, pooled.\n" if of else ""


def _targets(document: Mapping[str, Any]) -> str:
    rows = [row for make in (_recall, _facts, _exact, _edit, _scale) for row in make(document)]
    cells = [[what, target, measured if met else f"{measured}: **not met**"] for what, target, measured, met in rows]
    return table_of(["", "target", "measured"], cells)


Row = tuple[str, str, str, bool]


def _recall(document: Mapping[str, Any]) -> list[Row]:
    of = _of(document["runs"], "patterns", "memory")
    found = _pooled(of, "recall") if of else None
    return [("patterns, unseen phrasing", "≥ 99 %", _share(found), found["exact"] >= 0.99)] if found else []


def _facts(document: Mapping[str, Any]) -> list[Row]:
    if not (found := document.get("facts")):
        return []
    return [
        ("5,000 random facts, unseen phrasing", "≥ 99 %", _share(found["recall"]), found["recall"]["exact"] >= 0.99),
        ("teaching them", "< 90 s", f"{figure(found['seconds'])} s", found["seconds"] < 90),
    ]


def _exact(document: Mapping[str, Any]) -> list[Row]:
    if not (found := document.get("exact")):
        return []
    rows: list[Row] = []
    named = " and ".join(found["backends"])
    for kind, what in (("logits_identical", "logits bit-identical"), ("near_misses", "base answer")):
        worst = min((one[kind] for one in found["backends"].values()), key=lambda share: share["exact"])
        asked = "general prompts" if kind == "logits_identical" else "near misses"
        rows.append((f"{asked}: {what} ({named})", "100 %", _share(worst), worst["exact"] == 1))
    same = found["same_answers"]
    rows.append(("same answers from one table in MLX and torch", "≥ 99.9 %", _share(same), same["exact"] >= 0.999))
    return rows


def _edit(document: Mapping[str, Any]) -> list[Row]:
    if not (found := document.get("edit")):
        return []
    seconds = found["insert_seconds"]
    restored, same = found["logits_restored"] and found["files_restored"], found["other_rows_identical"]
    return [
        ("inserting a fact into a loaded model", "< 1 s", f"{figure(seconds)} s", seconds < 1),
        ("… leaves other rows bit-identical", "yes", _yes(same), same),
        ("deleting it restores logits and files", "yes", _yes(restored), restored),
    ]


def _scale(document: Mapping[str, Any]) -> list[Row]:
    if not (found := document.get("scale")):
        return []
    ratio = max(one["lookup_microseconds"] for one in found) / min(one["lookup_microseconds"] for one in found)
    worst = max(one["overhead"] for one in found)
    most = max(one["own_mib"] for one in found)
    return [
        ("search per token, 10³ to 10⁷ rows: slowest / fastest", "≤ 2", figure(ratio), ratio <= 2),
        ("generation slows down by at most", "≤ 5 %", percent(worst), worst <= 0.05),
        (f"private memory of tables up to {_largest(found)}", "< 64 MiB", f"{figure(most)} MiB", most < 64),
    ]


def _largest(found: Sequence[Mapping[str, Any]]) -> str:
    return f"{figure(max(one['bytes'] for one in found) / 2**20)} MiB"


def _uses(document: Mapping[str, Any]) -> str:
    kinds = document.get("uses", {"kinds": {}})["kinds"]
    found = "; ".join(f"{kind} {_share(sides['memory'])}" for kind, sides in kinds.items())
    return f"Right answers with the memory: {found}.\n" if found else ""


def _yes(value: bool) -> str:
    return "yes" if value else "no"


PARTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "memory-targets": _targets,
    "methods": _compared,
    "memory-uses": _uses,
}
