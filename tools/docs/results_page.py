"""The made parts of `docs/results.md`: the reference runs over seeds, by rule, and their charts as files."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engram.evaluation import compare_runs, tables
from engram.evaluation.scoring import GENERAL
from engram.plan import documents
from engram.show.report import charts
from engram.support import console as show
from engram.support.text import normalise, shorten, visible
from tools import ablation
from tools.reference import Reference

LEAD = "default-0"  # the run that is shown in detail
MAKE = "make reference docs"
AIMS = (("recall", 99), ("rewording", 95))  # in percent
ASKED = ("recall", "rewording")  # of the ablation; of rules it shows the mean over families


def parts(place: Path, names: Sequence[str]) -> dict[str, str]:
    """The tables over seeds, by the name of their place; `names` are the runs, `place` has their summary too."""
    runs = [documents.read(place / name / "comparison.json", "comparison", MAKE) for name in names]
    summary = documents.read(place / "seeds.json", "seeds", MAKE)
    return {"targets": targets_table(summary, runs), "rules": rules_table(runs)}


def targets_table(summary: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    """What the default recipe was to reach, and what it reaches over the seeds."""
    splits, kept = summary["splits"], summary["retention"]
    means = {name: statistics.fmean(shares) for name, shares in _rules(runs).items()}
    least = min(means, key=means.__getitem__)
    against = (
        one for run in runs for split, one in run["few_shot"].items() if split != "control"
    )  # nothing is better there
    largest = max(one["change"]["p_value"] for one in against)
    worse = {kind: math.exp(kept[f"{kind}_nats"]["mean"]) for kind in GENERAL}
    seconds = summary["training"]["train_seconds"]["mean"]
    rows = [
        *((f"{name}, %", f"≥ {aim}", show.mean_spread(splits[name]["after"], 100, "{:.1f}")) for name, aim in AIMS),
        ("rules, mean over families, %", "≥ 85", f"{100 * statistics.fmean(means.values()):.1f}"),
        ("rules, the least family, %", "≥ 60", f"{100 * means[least]:.1f} (`{least}`)"),
        ("control, %", "chance: 0", show.mean_spread(splits["control"]["after"], 100, "{:.1f}")),
        ("better than eight examples in the prompt, the largest p", "< 0.001", show.p_value(largest)),
        *(
            (f"KL from before, {kind}, nats", "≤ 0.05", show.mean_spread(kept[f"{kind}_kl"], 1, "{:.3f}"))
            for kind in GENERAL
        ),
        *((f"perplexity after / before, {kind}", "≤ 1.03", f"{worse[kind]:.2f}") for kind in GENERAL),
        ("training, one core, minutes", "≤ 8", f"{seconds / 60:.0f}"),
    ]
    return table(tables.Table(["", "target", f"{len(runs)} seeds"], [[*row] for row in rows]))


def _rules(runs: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Each rule's share of right answers to unseen members, in each run."""
    families = [run["categories"]["generalization"] for run in runs]
    return {name: [one[name]["after"]["exact"] for one in families] for name in families[0]}


def rules_table(runs: Sequence[dict[str, Any]]) -> str:
    """Unseen members that were right, for each rule and seed."""
    found = tables.Table(["rule", *(f"seed {run['recipe']['seed']}" for run in runs), "mean"], [])
    for name, shares in _rules(runs).items():
        n = runs[0]["categories"]["generalization"][name]["n"]
        cells = [f"{round(share * n)}/{n}" for share in shares]
        found.rows.append([f"`{visible(name)}`", *cells, show.percent(statistics.fmean(shares))])
    return table(found)


def ablation_table(path: Path) -> str:
    """What each change to the recipe does: shares of right answers, each with the paired test against the recipe."""
    runs = documents.read(path, "ablation", "python -m tools.ablation")["runs"]
    heads = [head for name in (*ASKED, "rules, mean") for head in (name, "p")]
    found = tables.Table(["change", *heads, "KL, text", "KL, chat"], [])
    for run in runs:
        shares = [run["splits"][kind]["exact"] for kind in ASKED] + [statistics.fmean(run["rules"].values())]
        cells = []
        for kind, share in zip((*ASKED, "generalization"), shares, strict=True):
            p = "" if run is runs[0] else show.p_value(ablation.p_value(runs[0], run, kind))
            cells += [show.percent(share), p]
        found.rows.append([run["label"], *cells, *(f"{run['kl'][kind]:.3f}" for kind in GENERAL)])
    return table(found)


def bits_table(runs: dict[str, Reference], place: Path) -> str:
    """The same run with the model's weights in fewer bits: answers, retention, memory and speed."""
    heads = ("perplexity, text", *(f"KL, {kind}" for kind in GENERAL), "peak memory, MiB", "tokens/s")
    found = tables.Table(["weights", *ASKED, *heads], [])
    for name, run in runs.items():
        one = documents.read(place / name / "comparison.json", "comparison", MAKE)
        speed = documents.read(place / name / "speed.json", "training", "engram train")["summary"]
        kept, trained = one["retention"], one["training"]
        shares = [f"{show.percent(one['tuned'][kind]['exact'])} of {one['tuned'][kind]['n']}" for kind in ASKED]
        worse = f"{show.number(kept['text']['before'])} → {show.number(kept['text']['after'])}"
        far = [f"{kept['kl'][kind]['nats']:.3f}" for kind in GENERAL]
        cost = f"{trained['peak_memory_bytes'] / 2**20:,.0f}", f"{speed['tokens_per_second']:.0f}"
        found.rows.append([run.label, *shares, worse, *far, *cost])
    return table(found)


def pictures(reference: Path, folder: Path) -> dict[Path, str]:
    """The charts as SVG files, by their path."""
    run = compare_runs.read_run(reference / LEAD, LEAD)
    found = {
        f"{split}.svg": charts.levels_file(f"{split.capitalize()} by category, exact match", charts.levels(categories))
        for split, categories in run.comparison["categories"].items()
    }
    curves = charts.curves([run])
    if curves:
        found["loss.svg"] = charts.losses_file(
            "Nats per answer token, training (line) and validation (circles)", curves
        )
    return {folder / name: text for name, text in found.items()}


def code(text: str, width: int = 90) -> str:
    """A text as code in a cell of a table, in one line of at most so many columns."""
    shown = shorten(visible(normalise(text)), width).replace("|", "\\|") or "(nothing)"
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


def table(found: tables.Table) -> str:
    """A table in Markdown."""
    lines = [found.columns, ["---"] * len(found.columns), *found.rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
