"""The made parts of `docs/results.md`: the reference runs by category and over seeds, and their charts as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engram.evaluation import compare_runs, tables
from engram.plan import documents
from engram.show.report import charts
from engram.support.console import interval, p_value, percent
from engram.support.text import visible

LEAD = "default-0"  # the run that is shown in detail
MAKE = "make reference docs"


def parts(reference: Path) -> dict[str, str]:
    """The tables, by the name of their place."""
    comparison = documents.read(reference / LEAD / "comparison.json", "comparison", MAKE)
    seeds = documents.read(reference / "seeds.json", "seeds", MAKE)
    return {"by-category": categories_table(comparison), "seeds": table(tables.seed_table(seeds))}


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
    """Each category of each split, before and after."""
    found = tables.Table(["category", "split", "n", "before", "after", "change, points", "p (Holm)", ""], [])
    for split, categories in comparison["categories"].items():
        for name, row in categories.items():
            sides = [f"{percent(row[side]['exact'])} {interval(row[side]['ci95'])}" for side in ("before", "after")]
            change = tables.points(row["change"])
            cells = [str(row["n"]), *sides, change, p_value(row["p_holm"]), row["verdict"]]
            found.rows.append([f"`{visible(name)}`", split, *cells])
    return table(found)


def table(found: tables.Table) -> str:
    """A table in Markdown."""
    lines = [found.columns, ["---"] * len(found.columns), *found.rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
