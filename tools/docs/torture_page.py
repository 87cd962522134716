"""The made part of `docs/reliability.md`: what the campaign of faults did, and what it lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engram.plan import documents
from engram.support.files import PACKAGE

TORTURE = PACKAGE.parent / "results" / "reference" / "torture.json"
MAKE = "make torture"
SHOWN_KINDS = 10


def parts(path: Path) -> dict[str, str]:
    """The table of the campaign's document at `path`, or a line that there is none yet."""
    if not path.is_file():
        return {"torture": f"Not run yet: `{MAKE}`.\n"}
    document = documents.read(path, "torture", MAKE)
    head = ["part", "a case", "cases", "of which", "losses", "seconds", "measured"]
    lines = [head, ["---"] * len(head), *(_row(part) for part in document["parts"])]
    return {"torture": "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n" + _summary(document)}


def figure(value: float) -> str:
    """A measured figure in three digits, large ones with their thousands."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _row(part: dict[str, Any]) -> list[str]:
    largest = sorted(part["kinds"].items(), key=lambda kind: -kind[1])[:SHOWN_KINDS]
    more = len(part["kinds"]) - len(largest)
    kinds = ", ".join([*(f"{name} {number:,}" for name, number in largest), *([f"{more} more kinds"] if more else [])])
    measured = ", ".join(f"{name} {figure(value)}" for name, value in part["measured"].items())
    counted = [f"{part['cases']:,}", kinds, str(len(part["losses"])), f"{part['seconds']:,.0f}", measured]
    return [cell.replace("|", "\\|") for cell in [f"`{part['part']}`", part["what"], *counted]]


def _summary(document: dict[str, Any]) -> str:
    totals, made = document["totals"], document["provenance"]
    counted = f"{totals['cases']:,} cases, {totals['losses']} losses in {totals['seconds'] / 60:.0f} minutes"
    machine = f"{made['hardware']['cores']} cores of {made['hardware']['processor']}"
    source = f"{made['created'][:10]} (`results/reference/torture.json`)"
    seeds = ", ".join(map(str, sorted({part["seed"] for part in document["parts"]})))
    return f"{counted}, seed {seeds}, on {machine}, {source}.\n"
