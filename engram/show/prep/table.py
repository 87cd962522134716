"""The checklist as a table."""

from __future__ import annotations

from collections.abc import Sequence

from engram.show.prep.checklist import ready
from engram.show.prep.finding import STATES, Finding
from engram.support.console import make_console, make_table

MARKS = {"pass": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red"), "ask": ("?", "cyan")}


def show(found: Sequence[Finding]) -> None:
    """Print each finding with its state and the remedy, and the sum of it."""
    from rich.text import Text

    console = make_console()
    table = make_table(console, "state", "check", "found")
    for one in found:
        mark, style = MARKS[one.state]
        lines = [one.text, *(f"  {detail}" for detail in one.details)]
        if one.fix and one.state != "pass":
            lines.append(f"fix: {one.fix}")
        table.add_row(Text(f"{mark} {one.state}", style=style), one.name, "\n".join(lines))
    console.print(table)
    counts = ", ".join(f"{sum(one.state == state for one in found)} {state}" for state in STATES)
    console.print(f"{counts}: {'ready to record' if ready(found) else 'not ready'}", style="bold")
