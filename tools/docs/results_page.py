"""The made parts of `docs/results.md`: the reference runs by category and over seeds, and their charts as files."""

from __future__ import annotations

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
ASKED = ("recall", "rewording")  # of the ablation; of rules it shows the mean over families


def parts(reference: Path, several: Path) -> dict[str, str]:
    """The tables, by the name of their place; the seeds are those of the runs in `several`."""
    comparison = documents.read(reference / LEAD / "comparison.json", "comparison", MAKE)
    seeds = documents.read(several / "seeds.json", "seeds", MAKE)
    return {"by-category": categories_table(comparison), "seeds": table(tables.seed_table(seeds))}


def ablation_table(path: Path) -> str:
    """What each change to the recipe does: shares of right answers, and the paired test against the recipe itself."""
    runs = documents.read(path, "ablation", "python -m tools.ablation")["runs"]
    found = tables.Table(["change", *ASKED, "rules, mean", "p", "KL, text", "KL, chat"], [])
    for run in runs:
        shares = [show.percent(run["splits"][kind]["exact"]) for kind in ASKED]
        mean = sum(run["rules"].values()) / len(run["rules"])
        p = "" if run is runs[0] else show.p_value(ablation.p_value(runs[0], run, "generalization"))
        found.rows.append(
            [run["label"], *shares, show.percent(mean), p, *(f"{run['kl'][kind]:.3f}" for kind in GENERAL)]
        )
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


def categories_table(comparison: dict[str, Any]) -> str:
    """Right answers of each category by split, after teaching; a shown gain in bold."""
    splits: dict[str, Any] = comparison["categories"]
    found = tables.Table(["category", *splits], [])
    for name in dict.fromkeys(name for categories in splits.values() for name in categories):
        cells = [_right(categories.get(name)) for categories in splits.values()]
        found.rows.append([f"`{visible(name)}`", *cells])
    return table(found)


def _right(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    shown = f"{round(row['after']['exact'] * row['n'])}/{row['n']}"
    return f"**{shown}**" if row["verdict"] == "gain" else shown


def code(text: str, width: int = 90) -> str:
    """A text as code in a cell of a table, in one line of at most so many columns."""
    shown = shorten(visible(normalise(text)), width).replace("|", "\\|") or "(nothing)"
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


def table(found: tables.Table) -> str:
    """A table in Markdown."""
    lines = [found.columns, ["---"] * len(found.columns), *found.rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
