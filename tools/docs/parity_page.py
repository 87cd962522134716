"""The made parts of `docs/parity.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engram.plan import documents
from engram.support import console
from tools.parity.campaign import NAMES, shown
from tools.parity.deviations import DEVIATIONS


def parts(path: Path) -> dict[str, str]:
    """Each made part of the page by its name, from the parity document at `path`."""
    document = documents.read(path, "parity", "make parity")
    return {
        "parity-targets": _targets(document),
        "parity-pairs": _pairs(document),
        "parity-floor": _floor(document),
        "parity-defaults": _defaults(document),
        "parity-half": _half(document),
    }


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(row) + " |\n" for row in lines)


def _targets(document: dict[str, Any]) -> str:
    rows = [
        [
            f"`{target['recipe']}`",
            NAMES[target["name"]],
            f"{target['limit']:g}",
            shown(target["measured"]) if target["name"] != "same_answers" else console.percent(target["measured"]),
            "met" if target["met"] else "missed",
        ]
        for target in document["targets"]
    ]
    return _table(["recipe", "target", "limit", "measured, worst seed", ""], rows)


def _pairs(document: dict[str, Any]) -> str:
    head = ["recipe", "seed", "steps", "first 100", "all", "mean", "weights apart (rms)", "same answers", "nats apart"]
    rows = []
    for pair in document["pairs"]:
        curves, weights, answers = pair["curves"], pair["adapters"], pair["answers"]
        share = f"{answers['equal']} of {answers['prompts']} {console.interval(answers['ci95'])}"
        apart = f"{shown(weights['rms'])} of {shown(weights['weights_rms'])}"
        figures = [shown(curves[name]) for name in ("first_100", "largest", "mean")]
        described = [f"`{pair['recipe']}`", str(pair["seed"]), str(curves["steps"])]
        rows.append([*described, *figures, apart, share, shown(answers["largest_nats"])])
    return _table(head, rows)


def _floor(document: dict[str, Any]) -> str:
    sides = {"mlx": "MLX", "torch": "Unsloth"}
    rows = [
        [f"{sides[one['side']]} against itself: {one['what']}", str(one["seed"])]
        + [shown(one["curves"][name]) for name in ("first_100", "largest", "mean")]
        for one in document["controls"]
    ]
    return _table(["a change that is none in exact arithmetic", "seed", "first 100", "all", "mean"], rows)


def _defaults(document: dict[str, Any]) -> str:
    head = ["left unmatched", "stock default", "of", "engram", "moves the loss by, nats", "steps", "test"]
    tests = {deviation.name: deviation.test for deviation in DEVIATIONS}  # a test may have moved since the campaign
    rows = [
        [
            *(one["title"], one["default"], f"{one['whose']}: {one['source']}", one["engram"]),
            *(shown(one["curves"]["largest"]), str(one["curves"]["steps"]), f"`{tests.get(one['name'], one['test'])}`"),
        ]
        for one in sorted(document["deviations"], key=lambda one: -one["curves"]["largest"])
    ]
    return _table(head, rows)


def _half(document: dict[str, Any]) -> str:
    apart = document["half_precision"]
    if apart is None:
        return "Not run.\n"
    return f"Over {apart['steps']} steps {shown(apart['largest'])} nats at most, {shown(apart['mean'])} in the mean.\n"
