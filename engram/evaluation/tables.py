"""Result documents as tables: every figure with its n and interval, retention next to accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from engram.evaluation.scoring import GENERAL
from engram.evaluation.verify import Finding
from engram.support.console import bounds, interval, make_console, make_table, mean_spread, number, p_value, percent
from engram.support.text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from engram.evaluation.attribution import Explained
    from engram.memory.table import Contents

MOST_PROBLEMS = 20  # shown of one check


def result(document: dict[str, Any]) -> None:
    """The scores of one result document, a line for each split and one for retention."""
    console = make_console()
    for name, split in document["splits"].items():
        exact = f"{percent(split['exact']):>7} {interval(split['ci95'])}"
        console.print(f"{document['stage']:8} {name:14} exact {exact}  n = {split['n']}")
    kept = ", ".join(f"{kind} {number(part['perplexity'])}" for kind, part in document["retention"].items())
    console.print(f"{document['stage']:8} {'retention':14} perplexity: {kept}")


def comparison(document: dict[str, Any]) -> None:
    """Before and after with n, intervals and the verdict, then the secondary figures."""
    console = make_console()
    columns = ("", "n", "before", "after", "change", "p", "verdict")
    table = make_table(console, *columns, title="Exact match (points) and perplexity (nats per token), 95 % intervals")
    for row in comparison_rows(document):
        table.add_row(*row)
    console.print(table)
    for line in details(document):
        console.print(line)


def comparison_rows(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells of a comparison: a row for each split, then retention."""
    rows = []
    for name, change in document["improvement"].items():
        sides = [document[stage][name] for stage in ("baseline", "tuned")]
        shown = [f"{percent(side['exact'])}\n{interval(side['ci95'])}" for side in sides]
        rows.append((name, str(change["n"]), *shown, *change_cells(change)))
    kept = document["retention"]
    for kind in GENERAL:
        part = kept[kind]
        change = "–" if part["nats"] is None else f"{part['nats']:+.2f}\n{bounds(part['ci95'])}"
        name = f"retention: {kind}"
        rows.append((name, str(part["n"]), number(part["before"]), number(part["after"]), change, "", part["verdict"]))
    changed = kept["changed"]
    share = f"{percent(changed['share'])}\n{interval(changed['ci95'])}"
    rows.append(("general answers changed", str(changed["n"]), "", "", share, "", ""))
    return rows


def categories(document: dict[str, Any]) -> None:
    """Each category's change, its p-value corrected for their number; no verdict below five patterns."""
    console = make_console()
    for split, rows in document["categories"].items():
        if not rows:
            continue
        title = (
            f"{split} by category, p corrected for {sum(r['p_holm'] is not None for r in rows.values())} tests (Holm)"
        )
        table = make_table(console, "category", "n", "before", "after", "change", "p", "verdict", title=title)
        for name, row in rows.items():
            sides = [percent(row[side]["exact"]) for side in ("before", "after")]
            difference = f"{100 * row['change']:+.1f} {interval(row['ci95'], points=True) if row['ci95'] else ''}"
            table.add_row(visible(name), str(row["n"]), *sides, difference, p_value(row["p_holm"]), row["verdict"])
        console.print(table)


def across(document: dict[str, Any]) -> None:
    """The runs in columns: accuracy, retention, speed and memory; then each two of them, tested."""
    console = make_console()
    runs = document["runs"]
    table = make_table(console, "", *map(visible, runs), title="Each run, tuned, 95 % intervals")
    for name, cell in ACROSS.items():
        table.add_row(name, *(cell(run) for run in runs.values()))
    console.print(table)
    for pair in document["pairs"]:
        _show_pair(console, pair)
    for name, reason in document["unreadable"].items():
        console.print(f"{visible(name)} cannot be read: {visible(reason)}")


def seeds(document: dict[str, Any]) -> None:
    """Mean and spread over seeds, and the pooled change with its interval over patterns."""
    console = make_console()
    listed = ", ".join(map(str, document["seeds"]))
    title = f"{document['backend']}, {document['recipe']['name']}, seeds {listed}: mean ± standard deviation"
    table = make_table(console, "", "before", "after", "change (points), pooled", title=title)
    for name, split in document["splits"].items():
        sides = [mean_spread(split[side], 100, "{:.1f}") for side in ("before", "after")]
        pooled = split["pooled"]
        change = "–" if pooled["change"] is None else f"{100 * pooled['change']:+.1f}"
        patterns = f"{change} {interval(pooled['ci95'], points=True)} over {pooled['patterns']} patterns"
        table.add_row(f"{name}, %", *sides, patterns)
    kept = document["retention"]
    for kind in GENERAL:
        table.add_row(f"retention: {kind}, nats", "", mean_spread(kept[f"{kind}_nats"], 1, "{:+.2f}"), "")
    table.add_row("general answers changed, %", "", mean_spread(kept["changed"], 100, "{:.1f}"), "")
    table.add_row("training, s", "", mean_spread(document["training"]["train_seconds"], 1, "{:.1f}"), "")
    console.print(table)


def _show_pair(console: Console, pair: dict[str, Any]) -> None:
    """Two runs compared, or the reasons why they are not comparable."""
    one, other = map(visible, pair["runs"])
    if pair["refused"]:
        console.print(f"{one} and {other} are not comparable:")
        for line in pair["refused"]:
            console.print(f"  {visible(line)}")
        return
    title = f"{other} against {one}: answers to the same questions"
    table = make_table(console, "", "n", f"{one} alone right", f"{other} alone right", "points", "p", "", title=title)
    for name, change in pair["splits"].items():
        if change["exact"] is not None:
            points = f"{100 * change['exact']:+.1f} {interval(change['ci95'], points=True)}"
            shown = "a difference" if change["verdict"] in ("gain", "loss") else "no difference shown"
            counts = [str(change[key]) for key in ("n", "broken", "fixed")]
            table.add_row(name, *counts, points, p_value(change["p_value"]), shown)
    console.print(table)
    for name, part in pair["same_answers"].items():
        stage, questions = name.split("_")
        share = f"{percent(part['share'])} {interval(part['ci95'])} of {part['n']}"
        console.print(f"same answers, {stage} on {questions} prompts: {share}")
    if losses := pair["losses"]:
        console.print(f"training losses differ by {losses['max']:.2g} nats at most over {losses['steps']} steps")


def change_cells(change: dict[str, Any]) -> tuple[str, str, str]:
    """Difference with interval, p-value and verdict; an unproved difference is never shown as a gain."""
    if change["exact"] is None:
        return "–", "–", "not measured"
    difference = f"{100 * change['exact']:+.1f}\n{interval(change['ci95'], points=True)}"
    return difference, p_value(change["p_value"]), change["verdict"]


def _exact(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda run: f"{percent(run['tuned'][name]['exact'])} {interval(run['tuned'][name]['ci95'])}"


def _kept(kind: str) -> Callable[[dict[str, Any]], str]:
    return lambda run: " → ".join(number(run["retention"][kind][side]) for side in ("before", "after"))


def _trained(key: str, form: str, scale: float = 1.0) -> Callable[[dict[str, Any]], str]:
    return lambda run: form.format(run["training"][key] / scale) if run["training"] else "–"


ACROSS: dict[str, Callable[[dict[str, Any]], str]] = {
    "device": lambda run: visible(run["device"]),
    "recall": _exact("recall"),
    "generalization": _exact("generalization"),
    "perplexity, general text": _kept("text"),
    "perplexity, general chat": _kept("chat"),
    "general answers changed": lambda run: percent(run["retention"]["changed"]["share"]),
    "training, tokens/s": _trained("tokens_per_second", "{:,.0f}"),
    "training, s": _trained("train_seconds", "{:.1f}"),
    "training, peak memory, MiB": _trained("peak_memory_bytes", "{:,.0f}", 2**20),
    "answering the test set, s": lambda run: f"{run['tuned']['timings']['answer_seconds']:.1f}",
    "time to first token, s": lambda run: number(run["tuned"]["latency"]["first_token_seconds"]),
    "tokens/s, one prompt at a time": lambda run: f"{run['tuned']['latency']['tokens_per_second'] or 0:.0f}",
}


def details(document: dict[str, Any]) -> list[str]:
    """The secondary figures of a comparison, before → after."""
    patterns, prompts = document["tuned"]["consistency"]["patterns"], document["tuned"]["latency"]["prompts"]
    drawn = f"at temperature {document['scoring']['temperature']}"
    wanted = (
        ("nats per token of the expected answer, recall", "recall", "nll", "{:.3f}"),
        (f"same answer across 4 unseen phrasings, n = {patterns}", "consistency", "phrasing_agreement", "{:.1%}"),
        (f"same answer across samples {drawn}, n = {patterns}", "consistency", "sample_agreement", "{:.1%}"),
        (f"time to first token, s, {prompts} prompts", "latency", "first_token_seconds", "{:.4f}"),
        ("tokens/s, one prompt at a time", "latency", "tokens_per_second", "{:.0f}"),
    )
    lines = []
    for name, part, key, form in wanted:
        sides = [document[stage][part][key] for stage in ("baseline", "tuned")]
        lines.append(f"{name}: " + " → ".join("–" if v is None else form.format(v) for v in sides))
    return lines


def checked(name: str, found: Sequence[Finding]) -> bool:
    """The checks of one document, a line each and every problem under it; whether none failed."""
    console = make_console()
    console.print(visible(name), style="bold")
    for one in found:
        mark = "✗" if one.problems else "–" if one.skipped else "✓"
        console.print(f"  {mark} {one.what}" + (f": not checked, {visible(one.skipped)}" if one.skipped else ""))
        for problem in one.problems[:MOST_PROBLEMS]:
            console.print(f"      {visible(problem)}")
        if len(one.problems) > MOST_PROBLEMS:
            console.print(f"      … and {len(one.problems) - MOST_PROBLEMS} more")
    return not any(one.problems for one in found)


def facts(known: dict[str, Any], contents: Contents, containing: str) -> None:
    """The facts of a memory that contain a text, and the model that the memory belongs to."""
    console = make_console()
    table = make_table(console, "input", "output", "rows")
    shown = 0
    for fact, count in ((one.fact, one.rows) for one in contents.entries):
        if containing in fact.input or containing in fact.output:
            table.add_row(visible(fact.input), visible(fact.output), str(count))
            shown += 1
    console.print(table)
    under = " and its adapter" if known["adapter"] else ""
    console.print(
        f"{shown} of {known['facts']} facts, {known['rows']} rows of {known['width']} numbers before block "
        f"{known['layer']} of {visible(known['model'])}{under}",
        style="dim",
    )


def why(found: Explained) -> None:
    """An answer, its tokens with the fact that they were read from, and the answer without the memory."""
    console = make_console()
    same = "the same" if found.without == found.answer else visible(found.without) or "(nothing)"
    lines = [("asked", found.prompt), ("answer", found.answer or "(nothing)"), ("without the memory", same)]
    grid = make_table(console, "", "")
    grid.show_header = False
    for name, text in lines:
        grid.add_row(name, visible(text))
    console.print(grid)
    hits = sum(1 for token in found.tokens if token.fact)
    if not hits:
        console.print("No row of the memory was read for this answer.")
        return
    table = make_table(console, "tokens", "read from the rows of")
    for fact, group in itertools.groupby(found.tokens, lambda token: token.fact):
        parts = " ".join(f"‹{visible(token.text)}›" if token.text is not None else "(end)" for token in group)
        table.add_row(parts, f"{visible(fact.input)} → {visible(fact.output)}" if fact else "– the model's own")
    console.print(table)
    console.print(f"{hits} of {len(found.tokens)} tokens were read from the memory.")
