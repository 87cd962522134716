"""The made parts of `docs/video_script.md`: when each section of the show begins, and the numbers to say in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engram.show.demo import demo
from engram.show.demo import stage as sections
from engram.show.demo.answers import is_right, replayed
from engram.show.demo.figures import findings
from engram.show.demo.material import Material, choose
from engram.show.video.cast import record
from engram.support.console import interval, number, percent


def parts(comparison: dict[str, Any], stages: dict[str, dict[str, Any]], log: dict[str, Any]) -> dict[str, str]:
    """The text between `<!-- say: title -->` and its end, for each section."""
    rows = choose(stages["baseline"], comparison["recipe"]["seed"])
    asked_of = {name: change["n"] for name, change in comparison["improvement"].items()}
    counts = {"taught": asked_of["recall"], "held_out": asked_of["generalization"] + asked_of.get("control", 0)}
    material = Material(Path("results"), comparison, stages, log, counts, rows, [])
    times = [marker.time for marker in record(lambda c, k: demo.play(c, k, material)).markers]
    found = {}
    for title, began in zip(sections.SECTIONS, times, strict=True):
        lines = [
            f"Begins at {int(began) // 60}:{int(began) % 60:02}.",
            "",
            *(f"- {s}" for s in SAYINGS[title](material)),
        ]
        found[f"say: {title}"] = "\n".join(lines) + "\n"
    return found


def _title(shown: Material) -> list[str]:
    model, comparison = shown.comparison["model"], shown.comparison
    return [f"{model['name']}, {model['parameters'] / 1e6:.1f} million parameters", f"{comparison['device']}"]


def _taught(shown: Material) -> list[str]:
    return [f"{shown.counts['taught']} patterns taught, {shown.counts['held_out']} held out"]


def _training(shown: Material) -> list[str]:
    log: dict[str, Any] = shown.log or {}
    s, losses = log["summary"], [step["loss"] for step in log["steps"]]
    share = f"{log['adapter']['parameters']:,} of {log['model']['parameters']:,} parameters trained"
    return [
        f"rank {log['recipe']['rank']}: {share}",
        f"{s['steps']} steps, {s['rows']:,} rows in {s['train_seconds']:.0f} s: {s['tokens_per_second']:,.0f} tokens/s",
        f"loss {losses[0]:.2f} → {losses[-1]:.2f} nats per answer token, validation {number(s['validation_loss'])}",
    ]


def _pairs(section: str) -> Callable[[Material], list[str]]:
    def said(shown: Material) -> list[str]:
        rows = [e for e in shown.rows if e.split_kind in sections.ASKED[section]]
        pairs = list(zip(rows, replayed(rows, shown.stages), strict=True))
        right = [sum(bool(is_right(e, both[side])) for e, both in pairs) for side in (0, 1)]
        medians = [shown.comparison[stage]["latency"] for stage in ("baseline", "tuned")]
        first = " → ".join(f"{1000 * (one['first_token_seconds'] or 0):.0f}" for one in medians)
        rate = " → ".join(f"{one['tokens_per_second'] or 0:,.0f}" for one in medians)
        return [
            f"{len(rows)} questions shown: {right[0]} right before, {right[1]} after",
            f"time to first token {first} ms, {rate} tokens/s (medians)",
        ]

    return said


def _figures(shown: Material) -> list[str]:
    lines = []
    for split, change in shown.comparison["improvement"].items():
        sides = [shown.comparison[stage][split] for stage in ("baseline", "tuned")]
        shares = " → ".join(f"{percent(side['exact'])} {interval(side['ci95'])}" for side in sides)
        lines.append(f"{split}: {shares}, n = {change['n']}: {change['verdict']}")
    kept = shown.comparison["retention"]
    for kind in ("text", "chat"):
        sides = [number(kept[kind][side]) for side in ("before", "after")]
        lines.append(
            f"retention, {kind}: perplexity {' → '.join(sides)}, n = {kept[kind]['n']}: {kept[kind]['verdict']}"
        )
    return lines


def _not_shown(shown: Material) -> list[str]:
    asked = sum(e.split_kind == "general" for e in shown.rows)
    general = f"{asked} general questions shown, each answered before and after"
    return [general, *(f"{finding.head}: {finding.text}" for finding in findings(shown.comparison))]


SAYINGS: dict[str, Callable[[Material], list[str]]] = {
    sections.TITLE: _title,
    sections.TAUGHT: _taught,
    sections.TRAINING: _training,
    sections.RECALL: _pairs(sections.RECALL),
    sections.GENERALIZATION: _pairs(sections.GENERALIZATION),
    sections.FIGURES: _figures,
    sections.NOT_SHOWN: _not_shown,
}
