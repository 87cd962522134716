"""Result documents as tables: every figure with its n and interval, retention next to accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.evaluation.scoring import GENERAL, SPLITS
from engram.evaluation.verify import Finding
from engram.support.console import bounds, interval, make_console, make_table, mean_spread, number, p_value, percent
from engram.support.text import first, visible

if TYPE_CHECKING:
    from rich.console import Console

    from engram.evaluation.attribution import Explained
    from engram.memory.table import Contents


class Table(NamedTuple):
    """Column heads (an empty one over the names of the rows), and rows of texts."""

    columns: list[str]
    rows: list[list[str]]


def result(document: dict[str, Any]) -> None:
    """The scores of one result document, a line for each split and one for retention."""
    console = make_console()
    for name, split in document["splits"].items():
        exact = f"{percent(split['exact']):>7} {interval(split['ci95'])}"
        console.print(f"{document['stage']:8} {name:14} exact {exact}  n = {split['n']}")
    kept = ", ".join(f"{kind} {number(part['perplexity'])}" for kind, part in document["retention"].items())
    console.print(f"{document['stage']:8} {'retention':14} perplexity: {kept}")


def comparison(document: dict[str, Any]) -> None:
    """Before and after with n, intervals and the verdict, then the secondary figures; only what is shown is a gain."""
    console = make_console()
    rows = []
    for name, change in document["improvement"].items():
        shown = [_exactly(document[stage][name]) for stage in ("baseline", "tuned")]
        rows.append([name, str(change["n"]), *shown, *_change(change)])
    for kind in GENERAL:
        part = document["retention"][kind]
        apart = "–" if part["nats"] is None else f"{part['nats']:+.2f}\n{bounds(part['ci95'])}"
        sides = [number(part["before"]), number(part["after"])]
        rows.append([f"retention: {kind}", str(part["n"]), *sides, apart, "", part["verdict"]])
    for kind, part in document["retention"].get("kl", {}).items():
        apart = "–" if part["nats"] is None else f"{part['nats']:.3f}\n{bounds(part['ci95'])}"
        rows.append([f"KL from before: {kind}", str(part["n"]), "", "", apart, "", ""])
    changed = document["retention"]["changed"]
    share = f"{percent(changed['share'])}\n{interval(changed['ci95'])}"
    rows.append(["general answers changed", str(changed["n"]), "", "", share, "", ""])
    for name, part in document.get("few_shot", {}).items():
        if part["change"]["n"]:
            shown = [_exactly(side) for side in (part["before"], document["tuned"][name])]
            head = f"{name}, against {document['recipe']['shots']} examples in the prompt"
            rows.append([head, str(part["change"]["n"]), *shown, *_change(part["change"])])
    title = "Exact match (points) and perplexity (nats per token), 95 % intervals"
    _print(console, Table(["", "n", "before", "after", "change", "p", "verdict"], rows), title)
    for line in details(document):
        console.print(line)


def _exactly(side: dict[str, Any]) -> str:
    return f"{percent(side['exact'])}\n{interval(side['ci95'])}"


def _change(change: dict[str, Any]) -> list[str]:
    """A change in points with its interval, its p-value and the verdict."""
    if change["exact"] is None:
        return ["–", "–", change["verdict"]]
    apart = f"{points(change['exact'])}\n{interval(change['ci95'], points=True)}"
    return [apart, p_value(change["p_value"]), change["verdict"]]


def gate(document: dict[str, Any]) -> None:
    """A line for each limit, and the verdict."""
    console = make_console()
    rows = []
    for one in document["limits"]:
        kept = one["name"].startswith("retention")
        figure = "–" if one["figure"] is None else f"{one['figure']:+.3f}" if kept else percent(one["figure"])
        limit = "" if one["limit"] is None else f"≤ {one['limit']:g}" if kept else f"≥ {percent(one['limit'])}"
        ci95 = bounds(one["ci95"]) if kept else interval(one["ci95"])
        rows.append([one["name"], str(one["n"]), f"{figure} {ci95}", limit, one["state"], one["text"]])
    _print(console, Table(["", "n", "figure", "limit", "", ""], rows))
    console.print(document["verdict"], style="bold")


def categories(document: dict[str, Any]) -> None:
    """Each category's change, its p-value corrected for their number; no verdict below five patterns."""
    for split, found in document["categories"].items():
        if not found:
            continue
        tests = sum(row["p_holm"] is not None for row in found.values())
        rows = []
        for name, row in found.items():
            sides = [percent(row[side]["exact"]) for side in ("before", "after")]
            change = f"{points(row['change'])} {interval(row['ci95'], points=True) if row['ci95'] else ''}"
            rows.append([visible(name), str(row["n"]), *sides, change, p_value(row["p_holm"]), row["verdict"]])
        columns = ["category", "n", "before", "after", "change", "p", "verdict"]
        _print(make_console(), Table(columns, rows), f"{split} by category, p corrected for {tests} tests (Holm)")


def across(document: dict[str, Any]) -> None:
    """The runs in columns: accuracy, retention, speed and memory; then each two of them, tested."""
    console, runs = make_console(), document["runs"]
    rows = [[name, *(cell(run) for run in runs.values())] for name, cell in ACROSS.items()]
    _print(console, Table(["", *map(visible, runs)], rows), "Each run, tuned, 95 % intervals")
    for pair in document["pairs"]:
        one, other = map(visible, pair["runs"])
        if pair["refused"]:
            lines = [f"{one} and {other} are not comparable:", *(f"  {visible(line)}" for line in pair["refused"])]
        else:
            _print(console, pair_table(pair), f"{other} against {one}: answers to the same questions")
            lines = pair_lines(pair)
        for line in lines:
            console.print(line)
    for name, reason in document["unreadable"].items():
        console.print(f"{visible(name)} cannot be read: {visible(reason)}")


def pair_table(pair: dict[str, Any]) -> Table:
    """Two comparable runs' answers to the same questions, tested."""
    alone = [f"{visible(name)} alone right" for name in pair["runs"]]
    rows = []
    for name, change in pair["splits"].items():
        if change["exact"] is not None:
            found = "a difference" if change["verdict"] in ("gain", "loss") else "no difference shown"
            counts = [str(change[key]) for key in ("n", "broken", "fixed")]
            apart = f"{points(change['exact'])} {interval(change['ci95'], points=True)}"
            rows.append([name, *counts, apart, p_value(change["p_value"]), found])
    return Table(["", "n", *alone, "points", "p", ""], rows)


def pair_lines(pair: dict[str, Any]) -> list[str]:
    """In which settings two comparable runs differ, the share of same texts, and the difference of their losses."""
    lines = (
        ["settings that differ:", *(f"  {visible(line)}" for line in pair["settings"])] if pair.get("settings") else []
    )
    for name, part in pair["same_answers"].items():
        stage, questions = name.split("_")
        share = f"{percent(part['share'])} {interval(part['ci95'])} of {part['n']}"
        lines.append(f"same answers, {stage} on {questions} prompts: {share}")
    if losses := pair["losses"]:
        lines.append(f"training losses differ by {losses['max']:.2g} nats at most over {losses['steps']} steps")
    return lines


def seeds(document: dict[str, Any]) -> None:
    """Mean and spread over seeds, and the pooled change with its interval over patterns."""
    listed = ", ".join(map(str, document["seeds"]))
    title = f"{document['backend']}, {document['recipe']['name']}, seeds {listed}: mean ± standard deviation"
    _print(make_console(), seed_table(document), title)


def seed_table(document: dict[str, Any]) -> Table:
    """Mean and standard deviation over seeds, and the pooled change with its interval over patterns."""
    rows = []
    for name, split in document["splits"].items():
        sides = [mean_spread(split[side], 100, "{:.1f}") for side in ("before", "after")]
        pooled = split["pooled"]
        change = f"{points(pooled['change'])} {interval(pooled['ci95'], points=True)}"
        rows.append([f"{name}, %", *sides, f"{change} over {pooled['patterns']} patterns"])
    kept = document["retention"]
    for kind in GENERAL:
        rows.append([f"perplexity, {kind}, nats", "", "", mean_spread(kept[f"{kind}_nats"], 1, "{:+.2f}")])
    for kind in GENERAL if "text_kl" in kept else ():
        rows.append([f"KL from before, {kind}, nats", "", mean_spread(kept[f"{kind}_kl"], 1, "{:.3f}"), ""])
    rows.append(["general answers changed, %", "", mean_spread(kept["changed"], 100, "{:.1f}"), ""])
    rows.append(["training, s", "", mean_spread(document["training"]["train_seconds"], 1, "{:.1f}"), ""])
    return Table(["", "before", "after", "change, pooled"], rows)


def points(value: float | None) -> str:
    """A difference of shares in points, signed."""
    return "–" if value is None else f"{100 * value:+.1f}"


def _print(console: Console, found: Table, title: str | None = None) -> None:
    table = make_table(console, *found.columns, title=title)
    for row in found.rows:
        table.add_row(*row)
    console.print(table)


def _cell(form: str, *path: str, scale: float = 1.0) -> Callable[[dict[str, Any]], str]:
    """The figure at a path of a comparison, in a format; a dash where it has none."""

    def cell(run: dict[str, Any]) -> str:
        value: Any = run
        for key in path:
            value = value.get(key) if value else None  # older runs have no rewordings and no divergence
        return "–" if value is None else form.format(value / scale)

    return cell


def _exact(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda run: _exactly(run["tuned"][name]).replace("\n", " ") if name in run["tuned"] else "–"


def _kept(kind: str) -> Callable[[dict[str, Any]], str]:
    return lambda run: " → ".join(number(run["retention"][kind][side]) for side in ("before", "after"))


ACROSS: dict[str, Callable[[dict[str, Any]], str]] = {
    "device": lambda run: visible(run["device"]),
    **{name: _exact(name) for name in SPLITS},
    **{f"perplexity, general {kind}": _kept(kind) for kind in GENERAL},
    **{f"KL from before, {kind}, nats": _cell("{:.3g}", "retention", "kl", kind, "nats") for kind in GENERAL},
    "general answers changed": lambda run: percent(run["retention"]["changed"]["share"]),
    "training, tokens/s": _cell("{:,.0f}", "training", "tokens_per_second"),
    "training, s": _cell("{:.1f}", "training", "train_seconds"),
    "training, peak memory, MiB": _cell("{:,.0f}", "training", "peak_memory_bytes", scale=2**20),
    "answering the test set, s": _cell("{:.1f}", "tuned", "timings", "answer_seconds"),
    "time to first token, s": _cell("{:.3g}", "tuned", "latency", "first_token_seconds"),
    "tokens/s, one prompt at a time": _cell("{:.0f}", "tuned", "latency", "tokens_per_second"),
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
        for problem in first(one.problems):
            console.print(f"      {visible(problem)}")
    return not any(one.problems for one in found)


def facts(known: dict[str, Any], contents: Contents, containing: str) -> None:
    """The facts of a memory that contain a text, and the model that the memory belongs to."""
    found = [e for e in contents.entries if containing in e.fact.input or containing in e.fact.output]
    rows = [[visible(one.fact.input), visible(one.fact.output), str(one.rows)] for one in found]
    console = make_console()
    _print(console, Table(["input", "output", "rows"], rows))
    under = " and its adapter" if known["adapter"] else ""
    size = f"{len(rows)} of {known['facts']} facts, {known['rows']} rows of {known['width']} numbers"
    console.print(f"{size} before block {known['layer']} of {visible(known['model'])}{under}", style="dim")


def why(found: Explained) -> None:
    """An answer, its tokens with the fact that they were read from, and the answer without the memory."""
    console = make_console()
    same = "the same" if found.without == found.answer else found.without or "(nothing)"
    lines = {"asked": found.prompt, "answer": found.answer or "(nothing)", "without the memory": same}
    for name, text in lines.items():
        console.print(f"{name}: {visible(text)}")
    hits = sum(1 for token in found.tokens if token.fact)
    if not hits:
        console.print("No row of the memory was read for this answer.")
        return
    rows = []
    for fact, group in itertools.groupby(found.tokens, lambda token: token.fact):
        parts = " ".join(f"‹{visible(token.text)}›" if token.text is not None else "(end)" for token in group)
        rows.append([parts, f"{visible(fact.input)} → {visible(fact.output)}" if fact else "– the model's own"])
    _print(console, Table(["tokens", "read from the rows of"], rows))
    console.print(f"{hits} of {len(found.tokens)} tokens were read from the memory.")
