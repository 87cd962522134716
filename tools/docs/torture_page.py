"""The generated part of `docs/reliability.md`: cases and losses of each part of the campaign."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engram.plan import documents
from engram.support.files import PACKAGE

TORTURE = PACKAGE.parent / "results" / "reference" / "torture.json"
MAKE = "make torture"


def parts(path: Path) -> dict[str, str]:
    """The table of the campaign's document at `path`, or a line that there is none yet."""
    if not path.is_file():
        return {"torture": f"Not run yet: `{MAKE}`.\n"}
    document = documents.read(path, "torture", MAKE)
    grouped: dict[str, list[dict[str, Any]]] = {}
    for part in document["parts"]:
        grouped.setdefault(part["part"].split("-")[0], []).append(part)
    head = ["part", "cases", "losses", "one case", "measured"]
    lines = ["| " + " | ".join(line) + " |\n" for line in (head, *(_row(*group) for group in grouped.items()))]
    table = "".join([lines[0], "|---|---|---|---|---|\n", *lines[1:]])
    return {"torture": f"{table}\n{_summary(document)}"}


def figure(value: float) -> str:
    """A measured figure in three digits, large ones with their thousands."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _row(name: str, group: list[dict[str, Any]]) -> list[str]:
    """One row for the parts that share a name up to its hyphen; figures where there is only one."""
    counted = [f"{sum(part['cases'] for part in group):,}", str(sum(len(part["losses"]) for part in group))]
    measured = ", ".join(f"{of} {figure(value)}" for of, value in group[0]["measured"].items()) if not group[1:] else ""
    kinds = dict.fromkeys(part["part"].partition("-")[2] or part["what"].split(": ")[-1] for part in group)
    cells = [f"`{name}`", *counted, ", ".join(kinds), measured]
    return [cell.replace("|", "\\|") for cell in cells]


def _summary(document: dict[str, Any]) -> str:
    totals, made = document["totals"], document["provenance"]
    counted = f"{totals['cases']:,} cases, {totals['losses']} losses in {totals['seconds'] / 60:.0f} minutes"
    machine = f"{made['hardware']['cores']} cores of {made['hardware']['processor']}"
    source = f"{made['created'][:10]} (`results/reference/torture.json`)"
    seeds = ", ".join(map(str, sorted({part["seed"] for part in document["parts"]})))
    return f"{counted}, seed {seeds}, on {machine}, {source}.\n"
