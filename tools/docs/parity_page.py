"""The generated parts of `docs/parity.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engram.plan import documents
from engram.support import console
from tools.docs.performance_page import table_of
from tools.parity import campaign
from tools.parity.campaign import NAMES, shown


def parts(path: Path) -> dict[str, str]:
    """Each generated part of the page by its name, from the parity document at `path`."""
    document = documents.read(path, "parity", "make parity")
    return {
        "parity-targets": _targets(document),
        "parity-pairs": _pairs(document),
        "parity-floor": _floor(document),
        "parity-defaults": _defaults(document),
        "parity-half": _half(document),
    }


def real(path: Path) -> str:
    """How far the backends are apart on a real model, beside how far each is from itself."""
    document = documents.read(path, "parity", "make parity")
    (pair,), (target, *_) = document["pairs"], document["targets"]
    own = {side: campaign.noise([c for c in document["controls"] if c["side"] == side]) for side in ("mlx", "torch")}
    weaker = campaign.noise([c for c in document["controls"] if c["name"] != "weights"])
    same = pair["answers"]
    return (
        f"Over {pair['curves']['steps']} steps the losses differ by {shown(pair['curves']['largest'])} nats at most: "
        f"{target['measured']:.2g} times the noise floor (limit {target['limit']:g}), since MLX moves by "
        f"{shown(own['mlx'])} and Unsloth by {shown(own['torch'])} if every weight of the model is "
        "one unit in the last place away. "
        f"That change was added after the run had missed the limit by the other two, which move the losses by "
        f"{shown(weaker)} at most: {pair['curves']['largest'] / weaker:.0f} times. "
        f"{same['equal']} of {same['prompts']} answers are the same {console.interval(same['ci95'])}.\n"
    )


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
    return table_of(["recipe", "target", "limit", "worst seed", ""], rows)


def _pairs(document: dict[str, Any]) -> str:
    rows = []
    for pair in document["pairs"]:
        weights, answers = pair["adapters"], pair["answers"]
        share = f"{answers['equal']} of {answers['prompts']} {console.interval(answers['ci95'])}"
        apart = f"{shown(weights['rms'])} of {shown(weights['weights_rms'])}"
        rows.append([f"`{pair['recipe']}`", str(pair["seed"]), shown(pair["curves"]["largest"]), apart, share])
    return table_of(["recipe", "seed", "losses, nats", "adapter weights, RMS", "same answers, %"], rows)


def _floor(document: dict[str, Any]) -> str:
    """The largest difference of each backend from itself, over the seeds."""
    largest: dict[str, dict[str, float]] = {}
    for one in document["controls"]:
        sides = largest.setdefault(one["what"], {})
        sides[one["side"]] = max(one["curves"]["largest"], sides.get(one["side"], 0))
    rows = [[what, *(shown(sides[side]) for side in ("mlx", "torch"))] for what, sides in largest.items()]
    return table_of(["change", "MLX against itself", "Unsloth against itself"], rows)


def _defaults(document: dict[str, Any]) -> str:
    rows = [
        [one["title"], one["whose"], one["engram"], shown(one["curves"]["largest"])]
        for one in sorted(document["deviations"], key=lambda one: -one["curves"]["largest"])
    ]
    return table_of(["left unmatched", "of", "engram", "nats"], rows)


def _half(document: dict[str, Any]) -> str:
    apart = document["half_precision"]
    if apart is None:
        return "Not run.\n"
    return f"Over {apart['steps']} steps {shown(apart['largest'])} nats at most, {shown(apart['mean'])} in the mean.\n"
