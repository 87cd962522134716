"""The generated parts of `docs/performance.md`: targets, peers and curves, from the document of `make bench`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.plan import documents
from engram.support.files import PACKAGE
from tools.docs.torture_page import figure

BENCH = PACKAGE.parent / "results" / "reference" / "bench.json"
MAKE = "make bench"
COMMANDS = {"validate": "`engram validate`", "data": "`engram data`"}


def parts(path: Path) -> dict[str, str]:
    """Each generated part by name; for a part that was not measured, a line that says so."""
    document = documents.read(path, "bench", MAKE) if path.is_file() else {"parts": {}, "targets": []}
    found = document["parts"]
    made = {"targets": _targets(document), "measured": _sources(found)}
    for name, (table, *needed) in TABLES.items():
        known = all(part in found for part in needed)
        made[name] = table(*(found[part]["result"] for part in needed)) if known else ""
    return {name: text or f"Not run yet: `{MAKE}`.\n" for name, text in made.items()}


def table_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in (head, *rows)]
    return "".join([lines[0], "|" + "---|" * len(head) + "\n", *lines[1:]])


def _targets(document: Mapping[str, Any]) -> str:
    rows = [
        [
            one["name"],
            one["bound"],
            f"{figure(one['measured'])} {one['unit']}".strip(),
            "yes" if one["met"] else "**no**",
        ]
        for one in document["targets"]
    ]
    return table_of(["", "target", "measured", "met"], rows) if rows else ""


def _sources(found: Mapping[str, Any]) -> str:
    """When, at which commit and on which machine the parts were measured, with the load at each one's start."""
    runs: dict[str, list[str]] = {}
    for name, part in found.items():
        made = part["provenance"]
        machine = f"{made['hardware']['cores']} cores of {made['hardware']['processor']}"
        run = f"{made['created'][:10]}, {made['git_commit']}, {machine}"
        runs.setdefault(run, []).append(f"`{name}` {part['load']:.1f}")
    return "".join(f"- {run}; loads: {', '.join(loads)}\n" for run, loads in runs.items())


def _race(found: Mapping[str, Any]) -> str:
    rows = []
    for name, run in found["runs"].items():
        shown = f"{name}, {found['settings']}" if name.startswith("stock") else name
        reached = "" if run["reached"] else " (not reached)"
        pace = f"{1000 * run['whole_seconds'] / run['whole_steps']:.0f}"
        rows.append([shown, str(run["steps"]), f"{run['seconds']:.0f}{reached}", pace])
    for one in found.get("candidates", ()):
        if one["name"] != found["settings"]:
            pace = f"{1000 * one['seconds'] / one['steps']:.0f}"
            enough = (str(one["enough_step"]), f"{one['enough_seconds']:.0f}") if one["enough_step"] else ("–", "–")
            rows.append([f"stock mlx_lm.lora, {one['name']}", *enough, pace])
    return table_of(["run", "steps", "seconds", "ms a step"], rows)


def _profile(found: Mapping[str, Any]) -> str:
    rows = []
    for point in found["points"]:
        step = point["milliseconds"]["and optimizer"]
        floor = f"{point['floor_milliseconds']:.0f} ({100 * point['share_of_floor']:.0f} %)"
        speed = 1000 * point["tokens_a_step"]["real"] / step
        rows.append([point["model"], f"{step:.0f}", floor, f"{speed:,.0f}"])
    return table_of(["model", "step, ms", "floor, ms", "tokens/s"], rows)


def _unsloth(found: Mapping[str, Any]) -> str:
    rows = [[name, f"{rate:,.0f}"] for name, rate in found["median"].items()]
    return table_of(["trainer", "answer tokens/s"], rows)


def _evaluation(found: Mapping[str, Any]) -> str:
    stages = found["stages"]
    rows = []
    for name in next(iter(stages.values()))["peers"]:
        peers = [stage["peers"][name] for stage in stages.values()]
        same = ", ".join(f"{peer['identical']}/{peer['answers']}" for peer in peers)
        rows.append([name, *(f"{peer['median']:.1f}" for peer in peers), same])
    return table_of(["answers/s", *stages, "same text as engram's"], rows)


def _startup(found: Mapping[str, Any]) -> str:
    rows = [
        [model, *(f"{1000 * backends[name]['load_seconds']['median']:.0f}" for name in ("mlx", "cpu"))]
        for model, backends in found["load"].items()
    ]
    return table_of(["model", "load on mlx, ms", "load on cpu, ms"], rows)


def _data(found: Mapping[str, Any], million: Mapping[str, Any]) -> str:
    """The two largest sizes of the usual run, then the larger ones of the part `million`."""
    usual = found["sizes"][-2:]
    sizes = usual + [size for size in million["sizes"] if size["patterns"] > usual[-1]["patterns"]]
    rows = []
    for size in sizes:
        cells = [f"{size[name]['seconds']:.1f} s, {size[name]['peak_mib']:.0f} MiB" for name in COMMANDS]
        rate = f"{size['rows_alone']['rows_per_second']:,}"
        rows.append([f"{size['patterns']:,}", f"{size['data']['rows']:,}", *cells, rate])
    return table_of(["patterns", "rows", *COMMANDS.values(), "rows validated/s"], rows)


def _cores(found: Mapping[str, Any]) -> str:
    """Tokens a second by backend; a column for each number of processes and threads."""
    shapes = list(dict.fromkeys((case["processes"], case["threads"]) for case in found["cases"]))
    rows = []
    for backend in dict.fromkeys(case["backend"] for case in found["cases"]):
        cases = {(c["processes"], c["threads"]): c for c in found["cases"] if c["backend"] == backend}
        apart = max(case["largest_loss_difference"] for case in cases.values())
        rows.append([backend, *(f"{cases[shape]['tokens_per_second']:,.0f}" for shape in shapes), f"{apart:.0e}"])
    heads = [f"processes {processes}, threads {threads}" for processes, threads in shapes]
    return table_of(["tokens/s", *heads, "losses differ, nats"], rows)


TABLES: dict[str, tuple[Any, ...]] = {
    "race": (_race, "race"),
    "real": (_race, "real"),
    "profile": (_profile, "models"),
    "unsloth": (_unsloth, "unsloth"),
    "evaluation": (_evaluation, "evaluation"),
    "startup": (_startup, "startup"),
    "data": (_data, "data", "million"),
    "cores": (_cores, "cores"),
}
