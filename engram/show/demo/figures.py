"""The figures of a run, drawn: the loss curve, recall, generalization and retention; and its findings as sentences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.text import Text

from engram.evaluation import tables
from engram.evaluation.scoring import GENERAL, SPLITS
from engram.show.demo import stage as sections
from engram.show.demo.stage import BLANK, QUIET, ROOMY, Stage, styled
from engram.support.console import SPARKS, bounds, ending, interval, number, p_value, percent
from engram.training import methods

VERDICTS = {"gain": "bold green", "loss": "bold red", "not shown": "bold yellow"}
BAR_SECONDS = 1.0
BAR_FRAMES = 20
HOLD = 9.0
STYLES = {"Lost": "bold red", "Not shown": "bold yellow", "Still wrong": "bold yellow", "Changed": "bold yellow"}
KINDS = {"text": "general text", "chat": "general chat"}
SECONDS = 6.0  # for the whole curve
LABELS = 6  # columns left of the axis
CURVE, CHECK, MARK = "cyan", "bold yellow", "◆"
INSIDE = f"reverse {CURVE}"  # a mark within the curve's area, cut out of it


class Finding(NamedTuple):
    """One sentence under its head: `Lost`, `Not shown`, `Not measured`, …"""

    head: str
    text: str


def findings(comparison: dict[str, Any]) -> list[Finding]:
    """Every loss first, then effects that were not shown, answers still wrong, and everything not measured."""
    improvement, retention = comparison["improvement"], comparison["retention"]
    lost, unproved, missing = [], [], []
    for name, change in improvement.items():
        if change["verdict"] == "loss":
            lost.append(Finding("Lost", f"{name}: {difference(change)} (n = {change['n']})."))
        elif change["verdict"] == "not shown" and name != "control":  # which must show none
            numbers = f"{difference(change)}, {tested(change['p_value'])}, n = {change['n']}"
            unproved.append(Finding("Not shown", f"an effect on {name} ({SPLITS[name]}): {numbers}."))
        elif change["verdict"] == "not measured":
            missing.append(name)
    for kind, title in KINDS.items():
        part = retention[kind]
        if part["verdict"] == "loss":
            sides = f"perplexity {number(part['before'])} → {number(part['after'])}"
            nats = f"{part['nats']:+.2f} nats per token {bounds(part['ci95'])}"
            lost.append(Finding("Lost", f"{title} is predicted worse: {sides}, {nats} (n = {part['n']})."))
        elif part["verdict"] == "not measured":
            missing.append(title)
    if (changed := retention["changed"])["share"]:
        share = f"{percent(changed['share'])} {interval(changed['ci95'])}"
        text = f"{share} of {changed['n']} answers to general prompts: teaching reaches further than the patterns."
        lost.append(Finding("Changed", text))
    after, rest = comparison["tuned"]["recall"], []
    if wrong := after["n"] - round(after["n"] * (after["exact"] or 0)):
        rest.append(Finding("Still wrong", f"{wrong} of {after['n']} taught patterns."))
    if missing:
        rest.append(Finding("Not measured", f"{', '.join(missing)}: there was nothing to measure on."))
    text = f"patterns that nobody wrote down, answers beyond {comparison['scoring']['max_new_tokens']} tokens, "
    text += f"and the spread over seeds (this is seed {comparison['recipe']['seed']}; make seeds)."
    return [*lost, *unproved, *rest, Finding("Not measured", text)]


def difference(change: dict[str, Any]) -> str:
    """A change of a share in points, with its interval."""
    return f"{100 * change['exact']:+.1f} points {interval(change['ci95'], points=True)}"


def tested(value: float | None) -> str:
    """A p-value in a sentence: `p = 0.5`, `p < 1e-6`."""
    shown = p_value(value)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def perform(stage: Stage, comparison: dict[str, Any]) -> None:
    """Recall, generalization and retention with n and intervals; the bars grow to their values."""
    stage.section(sections.FIGURES)
    width = max(min(stage.inner - 34, 50), 0)
    for frame in stage.frames(BAR_FRAMES):
        stage.show([*_shares(comparison, width, frame / BAR_FRAMES), *_kept(comparison)])
        stage.clock.sleep(BAR_SECONDS / BAR_FRAMES)
    stage.hold(HOLD)


def _shares(comparison: dict[str, Any], width: int, grown: float) -> list[Text]:
    """Each split before and after, as bars that have grown to this share of their length."""
    lines = []
    for name, change in comparison["improvement"].items():
        changed = [("not measured", "yellow")]
        if change["exact"] is not None:
            changed = [(difference(change), ""), (f"  ·  {tested(change['p_value'])}  ·  ", QUIET), _verdict(change)]
        lines.append(styled((f"{name}  ", "bold"), (f"n = {change['n']}: ", QUIET), *changed, cut=True))
        for label, side, style, bold in (("before", "baseline", QUIET, ""), ("after", "tuned", "cyan", "bold")):
            part = comparison[side][name]
            shown = f"{percent(part['exact']):>8}  {interval(part['ci95'])}"
            bar = blocks(grown * (part["exact"] or 0.0), width, " ▏▎▍▌▋▊▉█")
            track = "·" * (width - len(bar)), "bright_black"
            lines.append(styled((f"  {label:6}  ", QUIET), (bar, style), track, (shown, bold)))
    return lines


def _kept(comparison: dict[str, Any]) -> list[Text]:
    """Retention, and the secondary figures."""
    kept = comparison["retention"]
    lines = [styled(("retention  ", "bold"), ("what the model could do before, perplexity", QUIET))]
    for kind in GENERAL:
        part = kept[kind]
        sides = f"{number(part['before'])} → {number(part['after'])}"
        nats = "" if part["nats"] is None else f"{part['nats']:+.2f} nats {bounds(part['ci95'])}"
        figures = (f"  {kind:6}  ", QUIET), (f"{sides:<15}", ""), (f"  {nats}, n = {part['n']}  ·  ", QUIET)
        lines.append(styled(*figures, _verdict(part), cut=True))
    if apart := {kind: part["nats"] for kind, part in kept.get("kl", {}).items() if part["nats"] is not None}:
        said = ", ".join(f"{kind} {nats:.3f}" for kind, nats in apart.items())
        lines.append(styled(("  KL      ", QUIET), (f"{said} nats a token from the model before", ""), cut=True))
    changed = kept["changed"]
    share = f"{percent(changed['share'])} {interval(changed['ci95'])} of {changed['n']} general answers are others now"
    lines.append(styled(("  answers ", QUIET), (share, ""), cut=True))
    return [*lines, styled(), *(styled((line, QUIET), cut=True) for line in tables.details(comparison)[1:])]


def _verdict(change: dict[str, Any]) -> tuple[str, str]:
    return change["verdict"], VERDICTS.get(change["verdict"], "bold")


def curve(stage: Stage, log: dict[str, Any]) -> None:
    """The training's losses and figures; drawn as time goes."""
    s, steps, width = log["summary"], len(log["steps"]), stage.inner - LABELS - 1
    speed = f"{s['steps']} steps, {s['rows']:,} rows in {s['train_seconds']:.0f} s: "
    speed += f"{s['tokens_per_second']:,.0f} tokens/s"
    memory = f"  ·  peak memory {s['peak_memory_bytes'] / 2**20:,.0f} MiB"
    about, took = styled((methods.of(log["recipe"]).describe(log), "")), styled((speed, "bold"), (memory, QUIET))
    end = [took, styled((said, QUIET), cut=True)] if (said := ending(log)) else [BLANK, took]
    chart = _chart(log, width, 16 if stage.height >= ROOMY else 12)
    axis = [styled((f"{'0└':>{LABELS}}{'─' * width}", QUIET))]
    axis += [styled((f"{'1':>{LABELS + 1}}{f'step {steps}':>{width - 1}}", QUIET))]
    for drawn in stage.frames(width):
        step = max(drawn * steps // width, 1)
        lines = [*(line[: LABELS + drawn] for line in chart), *axis, _status(log, step)]
        parts = [about, styled(("loss, nats per answer token", QUIET)), *lines]
        stage.show(parts)
        stage.clock.sleep(SECONDS / width)
    stage.show([*parts, *end])


def _chart(log: dict[str, Any], width: int, height: int) -> list[Text]:
    """The lines above the axis: a column is the mean loss of its share of the steps, a mark a validation loss."""
    steps = log["steps"]
    means = bins([step["loss"] for step in steps], width)
    checks = {min(v["step"] * width // len(steps), width - 1): v["loss"] for v in log["validation"]}
    top = ceiling(max([*means, *checks.values()]))
    columns = [f"{blocks(mean / top, height, ' ' + SPARKS, 1):<{height}}" for mean in means]
    marks = {column: min(int(height * loss / top), height - 1) for column, loss in checks.items()}
    lines = []
    for up in reversed(range(height)):
        value = top * (up + 1) / height
        named = up + 1 in (height, height / 2)
        label, corner = f"{value:.3g}" if named else "", "┤" if named else "│"
        line = styled((f"{label:>{LABELS - 1}}{corner}", QUIET))
        cells = [(column[up], CURVE) for column in columns]
        for at in (at for at, height in marks.items() if height == up):
            cells[at] = (MARK, INSIDE if cells[at][0] == SPARKS[7] else CHECK)
        for style, run in itertools.groupby(cells, key=lambda cell: cell[1]):
            line.append("".join(character for character, _ in run), style)
        lines.append(line)
    return lines


def bins(values: Sequence[float], width: int) -> list[float]:
    """Means of `values` over `width` columns; fewer values than columns are repeated."""
    n = len(values)
    parts = [values[i * n // width : max((i + 1) * n // width, i * n // width + 1)] for i in range(width)]
    return [sum(part) / len(part) for part in parts]


def ceiling(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten: the top of an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= value * (1 - 1e-9))


def blocks(share: float, length: int, signs: str, least: int = 0) -> str:
    """A bar or column of this share of `length`, by eighths of a cell: `signs` are those of 0 to 8 eighths."""
    eighths = max(min(round(8 * length * share), 8 * length), least)
    return signs[8] * (eighths // 8) + signs[eighths % 8] * bool(eighths % 8)


def _status(log: dict[str, Any], step: int) -> Text:
    """The figures up to a step, in places that do not move."""
    seconds = sum(one["seconds"] for one in log["steps"][:step])
    checked = next((f"{v['loss']:.3f}" for v in reversed(log["validation"]) if v["step"] <= step), "–")
    return styled(
        (" " * LABELS, ""), (f"step {step:>5}", "bold"), (f"   {seconds:6.1f} s   ", ""),
        ("█ ", CURVE), (f"loss {log['steps'][step - 1]['loss']:8.3f}   ", ""),
        (f"{MARK} ", CHECK), (f"validation {checked:>8}", ""), cut=True,
    )  # fmt: skip
