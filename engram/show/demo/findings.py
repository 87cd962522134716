"""What a comparison says was lost, was not shown and was not measured, in plain sentences."""

from __future__ import annotations

from typing import Any, NamedTuple

from engram.support.console import bounds, interval, number, p_value, percent

STYLES = {"Lost": "bold red", "Not shown": "bold yellow", "Still wrong": "bold yellow", "Changed": "bold yellow"}
OF = {"recall": "taught patterns in other words", "generalization": "patterns never taught"}
GENERAL = {"text": "general text", "chat": "general chat"}


class Finding(NamedTuple):
    """One sentence under its head: `Lost`, `Not shown`, `Not measured`, …"""

    head: str
    text: str

    @property
    def style(self) -> str:
        """How the head is drawn."""
        return STYLES.get(self.head, "bold")


def findings(comparison: dict[str, Any]) -> list[Finding]:
    """Every loss first, then what was not shown, what is still wrong, and what nobody measured."""
    return [*_losses(comparison), *_unproved(comparison), *_wrong(comparison), *_unmeasured(comparison)]


def _losses(comparison: dict[str, Any]) -> list[Finding]:
    found = []
    for name, change in comparison["improvement"].items():
        if change["verdict"] == "loss":
            points = f"{100 * change['exact']:+.1f} points {interval(change['ci95'], points=True)}"
            found.append(Finding("Lost", f"{name}: {points} (n = {change['n']})."))
    for kind, part in ((kind, comparison["retention"][kind]) for kind in GENERAL):
        if part["verdict"] == "loss":
            sides = f"perplexity {number(part['before'])} → {number(part['after'])}"
            nats = f"{part['nats']:+.2f} nats per token {bounds(part['ci95'])}"
            found.append(Finding("Lost", f"{GENERAL[kind]} is predicted worse: {sides}, {nats} (n = {part['n']})."))
    changed = comparison["retention"]["changed"]
    if changed["share"]:
        share = f"{percent(changed['share'])} {interval(changed['ci95'])}"
        text = f"{share} of {changed['n']} answers to general prompts: teaching reaches further than the patterns."
        found.append(Finding("Changed", text))
    return found


def _unproved(comparison: dict[str, Any]) -> list[Finding]:
    found = []
    for name, change in comparison["improvement"].items():
        if change["verdict"] == "not shown":
            points = f"{100 * change['exact']:+.1f} points {interval(change['ci95'], points=True)}"
            numbers = f"{points}, {tested(change['p_value'])}, n = {change['n']}"
            found.append(Finding("Not shown", f"an effect on {name} ({OF[name]}): {numbers}."))
    return found


def _wrong(comparison: dict[str, Any]) -> list[Finding]:
    after = comparison["tuned"]["recall"]
    wrong = after["n"] - round(after["n"] * after["exact"]) if after["n"] else 0
    return [Finding("Still wrong", f"{wrong} of {after['n']} taught patterns.")] if wrong else []


def _unmeasured(comparison: dict[str, Any]) -> list[Finding]:
    missing = [name for name, change in comparison["improvement"].items() if change["verdict"] == "not measured"]
    missing += [GENERAL[kind] for kind in GENERAL if comparison["retention"][kind]["verdict"] == "not measured"]
    found = [Finding("Not measured", f"{', '.join(missing)}: there was nothing to measure on.")] if missing else []
    limit = comparison["scoring"]["max_new_tokens"]
    text = (
        f"patterns that nobody wrote down, answers beyond {limit} tokens, and the spread over seeds "
        f"(this is seed {comparison['recipe']['seed']}; make seeds)."
    )
    return [*found, Finding("Not measured", text)]


def tested(value: float | None) -> str:
    """A p-value in a sentence: `p = 0.5`, `p < 1e-6`."""
    shown = p_value(value)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"
