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
KINDS = {
    "recall": "recall, unseen phrasing",
    "near_misses": "near misses: base answer",
    "paraphrases": "other words",
    "generalization": "held out",
}


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


def _runs(name: str) -> Callable[[Mapping[str, Any]], str]:
    def made(document: Mapping[str, Any]) -> str:
        runs = document["runs"]
        head = ["method", *KINDS.values(), "time to teach", "on the disk"]
        rows = []
        for method in _methods(runs, name):
            of = _of(runs, name, method)
            cells = [_share(_pooled(of, kind)) for kind in KINDS]
            seconds = sum(run["seconds"] for run in of) / len(of)
            rows.append([method, *cells, f"{figure(seconds)} s", f"{figure(of[0]['bytes'] / 1024)} KiB"])
        return table_of(head, rows) + _source(runs, name) if rows else ""

    return made


def _share(found: Mapping[str, Any]) -> str:
    return f"{percent(found['exact'])} {interval(found['ci95'])}, n = {found['n']}" if found["n"] else "–"


def _source(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    of = [run for run in runs if run["set"] == name]
    seeds = ", ".join(map(str, sorted({run["seed"] for run in of})))
    taught = ", ".join(map(str, dict.fromkeys(run["taught"] for run in of)))
    commits = ", ".join(dict.fromkeys(str(run["commit"]) for run in of))
    return f"\nSeeds {seeds}, together; {taught} taught. {of[-1]['created'][:10]}, commit {commits}.\n"


def _kept(document: Mapping[str, Any]) -> str:
    rows = []
    for method in _methods(document["runs"], "patterns"):
        of = [run for run in _of(document["runs"], "patterns", method) if "general" in run]
        if not of:
            continue
        general = [run["general"] for run in of]
        nats = {kind: sum(one["nats"][kind] for one in general) / len(general) for kind in ("text", "chat")}
        rows.append(
            [
                method,
                *(figure(math.exp(value)) for value in nats.values()),
                _share(_pooled(general, "answers_changed")),
                _share(_pooled(general, "logits_identical")),
                figure(sum(one["tokens_per_second"] for one in general) / len(general)),
            ]
        )
    head = ["method", "perplexity, text", "perplexity, chat", "general answers changed", "logits bit-identical"]
    return table_of([*head, "tokens/s, answers together"], rows) if rows else ""


def _layers(document: Mapping[str, Any]) -> str:
    rows = [
        [
            "the head alone" if not one["blocks"] else f"the last {one['blocks']}",
            _share(one["recall"]),
            f"{figure(one['seconds'])} s",
        ]
        for one in document.get("layers", ())
    ]
    return table_of(["blocks that read the rows", "recall, unseen phrasing", "teaching"], rows) if rows else ""


def _targets(document: Mapping[str, Any]) -> str:
    rows = [row for make in (_recall, _facts, _exact, _edit, _scale) for row in make(document)]
    return table_of(["what", "target", "measured", "met"], [[*row[:3], "yes" if row[3] else "**no**"] for row in rows])


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
    for name, one in found["backends"].items():
        logits, near = one["logits_identical"], one["near_misses"]
        rows.append((f"general prompts, logits bit-identical, {name}", "100 %", _share(logits), logits["exact"] == 1))
        rows.append((f"near misses, base answer, {name}", "100 %", _share(near), near["exact"] == 1))
    same = found["same_answers"]
    rows.append(("MLX and torch, the same answers of one table", "≥ 99.9 %", _share(same), same["exact"] >= 0.999))
    return rows


def _edit(document: Mapping[str, Any]) -> list[Row]:
    if not (found := document.get("edit")):
        return []
    restored = found["logits_restored"] and found["files_restored"]
    return [
        (
            "inserting a fact, the model loaded",
            "< 1 s",
            f"{figure(found['insert_seconds'])} s",
            found["insert_seconds"] < 1,
        ),
        ("every other row bit-identical", "yes", _yes(found["other_rows_identical"]), found["other_rows_identical"]),
        ("deleting it: logits and files as before", "yes", _yes(restored), restored),
    ]


def _scale(document: Mapping[str, Any]) -> list[Row]:
    if not (found := document.get("scale")):
        return []
    ratio = max(one["lookup_microseconds"] for one in found) / min(one["lookup_microseconds"] for one in found)
    worst = max(one["overhead"] for one in found)
    most = max(one["own_mib"] for one in found)
    return [
        ("a token's search, 10³ to 10⁷ rows, slowest over quickest", "≤ 2", figure(ratio), ratio <= 2),
        ("generation slower than without a table, at most", "≤ 5 %", percent(worst), worst <= 0.05),
        (
            "memory of its own that a table takes, at most",
            "flat",
            f"{figure(most)} MiB of {_largest(found)}",
            most < 64,
        ),
    ]


def _largest(found: Sequence[Mapping[str, Any]]) -> str:
    return f"{figure(max(one['bytes'] for one in found) / 2**20)} MiB"


def _uses(document: Mapping[str, Any]) -> str:
    found = document.get("uses", {"kinds": {}})["kinds"]
    rows = [[kind, *(_share(sides[side]) for side in ("baseline", "memory"))] for kind, sides in found.items()]
    return table_of(["a taught answer …", "without", "with the memory"], rows) if rows else ""


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _sizes(document: Mapping[str, Any]) -> str:
    head = [
        "rows",
        "bytes",
        "a token's search, µs",
        "gathering a row, µs",
        "tokens/s",
        "slower by",
        "own, MiB",
        "mapped, MiB",
    ]
    rows = [
        [
            f"{one['rows']:,}",
            f"{one['bytes']:,}",
            figure(one["lookup_microseconds"]),
            figure(one["gather_microseconds"]),
            figure(one["tokens_per_second"]),
            percent(one["overhead"]),
            figure(one["own_mib"]),
            figure(one["mapped_mib"]),
        ]
        for one in document.get("scale", ())
    ]
    return table_of(head, rows) if rows else ""


PARTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "memory-targets": _targets,
    "methods-patterns": _runs("patterns"),
    "methods-facts": _runs("facts"),
    "methods-kept": _kept,
    "memory-layers": _layers,
    "memory-uses": _uses,
    "memory-sizes": _sizes,
}
