"""The made parts of `docs/performance.md`: targets, peers and curves, from the document of `make bench`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.plan import documents
from engram.support.files import PACKAGE
from tools.docs.torture_page import figure

BENCH = PACKAGE.parent / "results" / "reference" / "bench.json"
MAKE = "make bench"
COMMANDS = {"validate": "`engram validate`", "data": "`engram data`", "check": "`engram data --check`"}
STEPS = {"forward, blocks": "forward", "and loss": "head and loss", "and backward": "backward"}
STEPS["and optimizer"] = "optimizer"


def parts(path: Path) -> dict[str, str]:
    """Each made part by name; of a part that was not measured a line that says so."""
    document = documents.read(path, "bench", MAKE) if path.is_file() else {"parts": {}, "targets": []}
    found = document["parts"]
    made = {"targets": _targets(document)}
    for name, (table, *needed) in TABLES.items():
        known = [found[part] for part in needed if part in found]
        text = table(*(part["result"] for part in known)) if len(known) == len(needed) else ""
        made[name] = text + _source(known) if text else f"Not run yet: `{MAKE}`.\n"
    return made


def table_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


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
    return table_of(["what", "target", "measured", "met"], rows) if rows else f"Not run yet: `{MAKE}`.\n"


def _source(known: Sequence[Mapping[str, Any]]) -> str:
    made = known[-1]["provenance"]
    machine = f"{made['hardware']['cores']} cores of {made['hardware']['processor']}"
    commits = ", ".join(dict.fromkeys(str(part["provenance"]["git_commit"]) for part in known))
    return f"\n{made['created'][:10]}, commit {commits}, {machine}, load {known[-1]['load']:.1f} at the start.\n"


def _race(found: Mapping[str, Any]) -> str:
    rows = []
    for name, run in found["runs"].items():
        shown = f"{name}, {found['settings']}" if name.startswith("stock") else name
        reached = "" if run["reached"] else " (not reached)"
        pace = f"{1000 * run['whole_seconds'] / run['whole_steps']:.0f}"
        cells = [str(run["steps"]), f"{run['seconds']:.0f}{reached}", pace, f"{100 * run['recall']:.1f} %"]
        rows.append([shown, *cells])
    return table_of(["run", "steps", "seconds to 95 % recall", "ms a step", "recall of its last adapter"], rows)


def _sweep(found: Mapping[str, Any]) -> str:
    rows = []
    for one in found["candidates"]:
        enough = f"{one['enough_seconds']:.0f}" if one["enough_seconds"] else "not reached"
        name = f"**{one['name']}**" if one["name"] == found["best"] else one["name"]
        rows.append([name, str(one["steps"]), f"{one['seconds']:.0f}", f"{100 * one['recall']:.1f} %", enough])
    return table_of(["stock `mlx_lm.lora`", "steps", "seconds", "recall", "seconds to 95 %"], rows)


def _profile(found: Mapping[str, Any]) -> str:
    rows = []
    for point in found["points"]:
        spent, before = [], 0.0
        for name in STEPS:
            now = point["milliseconds"][name]
            spent.append(f"{max(now - before, 0):.0f}")
            before = now
        floor = f"{point['floor_milliseconds']:.0f} ({100 * point['share_of_floor']:.0f} %)"
        speed = 1000 * point["tokens_a_step"]["real"] / before
        size = f"{point['parameters'] / 1e6:.1f} M"
        rows.append([point["model"], size, *spent, f"{before:.0f}", floor, f"{speed:,.0f}"])
    head = ["model", "parameters", *(f"{name}, ms" for name in STEPS.values()), "step, ms", "floor, ms", "tokens/s"]
    return table_of(head, rows) + f"\nA token's cost grows with parameters to the power of {found['exponent']:.2f}.\n"


def _overhead(found: Mapping[str, Any]) -> str:
    rows = [
        [name, f"{1e6 * seconds:.0f}", str(len(found["rounds"][name]))] for name, seconds in found["median"].items()
    ]
    return table_of(["way to train", "µs a real token, median", "rounds"], rows)


def _unsloth(found: Mapping[str, Any]) -> str:
    rows = [[name, f"{rate:,.0f}", str(len(found["rounds"][name]))] for name, rate in found["median"].items()]
    return table_of(["trainer", "answer tokens/s, median", "rounds"], rows)


def _evaluation(found: Mapping[str, Any]) -> str:
    rows = []
    for stage, measured in found["stages"].items():
        for name, one in measured["peers"].items():
            same = f"{one['identical']} of {one['answers']}"
            cells = [
                f"{one['median']:.1f}",
                f"{one['min']:.1f} to {one['max']:.1f}",
                f"{1000 * one['cpu_seconds']:.1f}",
            ]
            rows.append([stage, name, *cells, same])
    head = ["model", "peer", "answers/s", "range", "processor, ms an answer", "the same text as engram's"]
    return table_of(head, rows)


def _floors(found: Mapping[str, Any]) -> str:
    rows = []
    for stage, one in found.get("profile", {}).items():
        ours, theirs = one["engram"], one["lm_eval"]
        watched = ours["watched"]
        cells = [f"{ours['seconds']:.2f}", *(f"{watched[name]:.2f}" for name in ("prefill", "steps", "rest"))]
        peers = found["stages"][stage]["peers"]
        best = max(peer["median"] for name, peer in peers.items() if name.startswith("lm_eval"))
        floor = f"{ours['floor_seconds']:.2f} ({ours['floor_answers_per_second']:.0f} answers/s)"
        wanted = f"{5 * best:.0f} answers/s"
        share = f"{100 * theirs['products'] / theirs['operators']:.0f} %"
        rows.append([stage, *cells, f"{ours['products_seconds']:.2f}", floor, wanted, share])
    head = ["model", "engram, s", "prompts, s", "steps, s", "rest, s", "products, s", "floor, s"]
    head += ["five times lm_eval's best", "lm_eval's time in products"]
    return table_of(head, rows) if rows else ""


def _decoding(found: Mapping[str, Any]) -> str:
    """A step of the median number of rows, part by part."""
    profile = {stage: one["engram"] for stage, one in found.get("profile", {}).items()}
    if not profile:
        return ""
    names = next(iter(profile.values()))["parts_of_step"]
    heads = [f"{stage}, {one['step']['rows']} rows, ms" for stage, one in profile.items()]
    rows = [[name, *(f"{one['parts_of_step'][name]:.1f}" for one in profile.values())] for name in names]
    rows.append(["all of these", *(f"{sum(one['parts_of_step'].values()):.1f}" for one in profile.values())])
    rows.append(["the step", *(f"{one['step']['milliseconds']:.1f}" for one in profile.values())])
    return table_of(["part of a step", *heads], rows)


def _gaps(found: Mapping[str, Any]) -> str:
    rows = [
        [
            stage,
            gap["id"],
            *(["the same", ""] if gap["same_tokens"] else [f"part at {gap['token']}", f"{gap['gap']:.1e}"]),
        ]
        for stage, one in found.get("profile", {}).items()
        for gap in one["gaps"]
    ]
    if not rows:
        return "Every answer's text is that of the loop.\n" if "profile" in found else ""
    return table_of(["model", "answer whose text is another", "its tokens", "nats between the two"], rows)


def _startup(found: Mapping[str, Any]) -> str:
    names = {"help": "`engram --help`", "version": "`engram --version`", "make": "`make`"}
    names["make_nothing_to_do"] = "`make train eval` with nothing to do"
    rows = []
    for name, text in names.items():
        one = found[name]
        rows.append([text, *_milliseconds(one)])
    for model, backends in found["load"].items():
        rows += [
            [f"{model} into memory, {name}", *_milliseconds(one["load_seconds"])] for name, one in backends.items()
        ]
    return table_of(["what", "ms, median", "least", "most", "runs"], rows)


def _milliseconds(one: Mapping[str, Any]) -> list[str]:
    return [*(f"{1000 * one[key]:.0f}" for key in ("median", "min", "max")), str(one["n"])]


def _data(found: Mapping[str, Any]) -> str:
    rows = []
    for size in found["sizes"]:
        cells = [f"{size[name]['seconds']:.1f} s, {size[name]['peak_mib']:.0f} MiB" for name in COMMANDS]
        rate = f"{size['rows_alone']['rows_per_second']:,}"
        rows.append([f"{size['patterns']:,}", f"{size['data']['rows']:,}", *cells, rate])
    head = ["patterns", "rows", *COMMANDS.values(), "rows validated a second"]
    slopes = ", ".join(f"{COMMANDS[name]} {value:.2f}" for name, value in found["exponents"].items())
    first = min((size["patterns"] for size in found["sizes"] if size["patterns"] >= 1000), default=0)
    grown = f"\nSeconds grow with patterns, from {first:,} on, to the power of: {slopes}.\n" if slopes else ""
    return table_of(head, rows) + grown


def _planning(found: Mapping[str, Any]) -> str:
    rows = [[f"{one['patterns']:,}", f"{one['rows']:,}", f"{one['seconds']:.2f}"] for one in found["points"]]
    grown = f"\nSeconds grow with patterns to the power of {found['exponent']:.2f}.\n"
    return table_of(["patterns", "rows of a pass", "seconds to encode and plan"], rows) + grown


def _cores(found: Mapping[str, Any]) -> str:
    rows = []
    for case in found["cases"]:
        distance = f"{case['largest_loss_difference']:.1e}"
        cells = [
            case["backend"],
            str(case["processes"]),
            str(case["threads"]),
            f"{case['tokens_per_second']:,.0f}",
            distance,
        ]
        rows.append(cells)
    head = ["backend", "processes", "threads", "tokens/s", "largest difference of a loss from one process, nats"]
    return table_of(head, rows)


TABLES: dict[str, tuple[Any, ...]] = {
    "race": (_race, "race"),
    "sweep": (_sweep, "sweep"),
    "profile": (_profile, "models"),
    "overhead": (_overhead, "overhead"),
    "unsloth": (_unsloth, "unsloth"),
    "evaluation": (_evaluation, "evaluation"),
    "floors": (_floors, "evaluation"),
    "decoding": (_decoding, "evaluation"),
    "gaps": (_gaps, "evaluation"),
    "startup": (_startup, "startup"),
    "data": (_data, "data"),
    "million": (_data, "million"),
    "planning": (_planning, "planning"),
    "cores": (_cores, "cores"),
}
