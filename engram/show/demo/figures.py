"""The figures of a run, drawn: the loss curve, recall, generalization and retention; and its findings as sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.evaluation import tables
from engram.evaluation.scoring import GENERAL
from engram.show.demo import stage as sections
from engram.show.demo.stage import MARGIN, QUIET, Stage, styled
from engram.support.console import SPARKS, bounds, interval, number, p_value, percent

if TYPE_CHECKING:
    from rich.text import Text

VERDICTS = {"gain": "bold green", "loss": "bold red", "not shown": "bold yellow"}
BAR_SECONDS = 1.0
BAR_FRAMES = 20
HOLD = 9.0
STYLES = {"Lost": "bold red", "Not shown": "bold yellow", "Still wrong": "bold yellow", "Changed": "bold yellow"}
OF = {"recall": "taught patterns in other words", "generalization": "patterns never taught"}
KINDS = {"text": "general text", "chat": "general chat"}
SECONDS = 6.0  # for the whole curve
LABELS = 6  # columns left of the axis
CURVE, CHECK, MARK = "cyan", "bold yellow", "◆"
INSIDE = f"reverse {CURVE}"  # a mark within the curve's area, cut out of it


class Finding(NamedTuple):
    """One sentence under its head: `Lost`, `Not shown`, `Not measured`, …"""

    head: str
    text: str

    @property
    def style(self) -> str:
        """The style of the head."""
        return STYLES.get(self.head, "bold")


def findings(comparison: dict[str, Any]) -> list[Finding]:
    """Every loss first, then effects that were not shown, answers still wrong, and everything not measured."""
    improvement, retention = comparison["improvement"], comparison["retention"]
    lost, unproved, missing = [], [], []
    for name, change in improvement.items():
        if change["verdict"] == "loss":
            lost.append(Finding("Lost", f"{name}: {difference(change)} (n = {change['n']})."))
        elif change["verdict"] == "not shown":
            numbers = f"{difference(change)}, {tested(change['p_value'])}, n = {change['n']}"
            unproved.append(Finding("Not shown", f"an effect on {name} ({OF[name]}): {numbers}."))
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
    after = comparison["tuned"]["recall"]
    wrong = after["n"] - round(after["n"] * after["exact"]) if after["n"] else 0
    still = [Finding("Still wrong", f"{wrong} of {after['n']} taught patterns.")] if wrong else []
    if missing:
        still.append(Finding("Not measured", f"{', '.join(missing)}: there was nothing to measure on."))
    limit, seed = comparison["scoring"]["max_new_tokens"], comparison["recipe"]["seed"]
    text = (
        f"patterns that nobody wrote down, answers beyond {limit} tokens, and the spread over seeds "
        f"(this is seed {seed}; make seeds)."
    )
    return [*lost, *unproved, *still, Finding("Not measured", text)]


def difference(change: dict[str, Any]) -> str:
    """A change of a share in points, with its interval."""
    return f"{100 * change['exact']:+.1f} points {interval(change['ci95'], points=True)}"


def tested(value: float | None) -> str:
    """A p-value in a sentence: `p = 0.5`, `p < 1e-6`."""
    shown = p_value(value)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def perform(stage: Stage, comparison: dict[str, Any]) -> None:
    """Recall, generalization and retention with n and intervals; the bars grow to their values."""
    row = stage.section(sections.FIGURES)
    if not stage.drawn:
        tables.comparison(comparison)
        return
    width, bars = min(stage.inner - 34, 50), list[tuple[int, float, str]]()
    for name, text in (("recall", "taught, in words never trained on"), ("generalization", "held out, never taught")):
        change = comparison["improvement"][name]
        stage.put(row, MARGIN, styled((f"{name}  ", "bold"), (f"{text}, n = {change['n']}", QUIET)))
        for at, (label, side, style) in enumerate((("before", "baseline", QUIET), ("after", "tuned", "cyan")), row + 1):
            part = comparison[side][name]
            shown = f"{percent(part['exact']):>8}  {interval(part['ci95'])}"
            stage.put(at, MARGIN, styled((f"  {label:6}", QUIET)))
            stage.put(at, MARGIN + 10 + width, styled((shown, "bold" if side == "tuned" else "")))
            bars.append((at, part["exact"] or 0.0, style))
        if change["exact"] is None:
            stage.put(row + 3, MARGIN, styled(("  change  not measured", "yellow")))
        else:
            test = f"  ·  McNemar {tested(change['p_value'])}  ·  "
            changed = (("  change  ", QUIET), (difference(change), ""), (test, QUIET), _verdict(change))
            stage.put(row + 3, MARGIN, styled(*changed))
        row += 5
    details = [styled((line, QUIET)) for line in ("", *tables.details(comparison)[1:])]
    for at, line in enumerate([*_retention(comparison["retention"]), *details], row):
        stage.put(at, MARGIN, line)
    for frame in range(1, BAR_FRAMES + 1):
        for at, share, style in bars:
            stage.put(at, MARGIN + 10, _bar(share * frame / BAR_FRAMES, width, style))
        stage.clock.sleep(BAR_SECONDS / BAR_FRAMES)
    stage.hold(HOLD)


def _retention(kept: dict[str, Any]) -> list[Text]:
    lines = [styled(("retention  ", "bold"), ("what the model could do before, perplexity", QUIET))]
    for kind in GENERAL:
        part = kept[kind]
        sides = f"{number(part['before'])} → {number(part['after'])}"
        nats = "" if part["nats"] is None else f"{part['nats']:+.2f} nats {bounds(part['ci95'])}"
        figures = (f"  {kind:6}  ", QUIET), (f"{sides:<15}", ""), (f"  {nats}, n = {part['n']}  ·  ", QUIET)
        lines.append(styled(*figures, _verdict(part)))
    changed = kept["changed"]
    share = f"{percent(changed['share'])} {interval(changed['ci95'])} of {changed['n']} general answers are others now"
    return [*lines, styled(("  answers ", QUIET), (share, ""))]


def _verdict(change: dict[str, Any]) -> tuple[str, str]:
    return change["verdict"], VERDICTS.get(change["verdict"], "bold")


def _bar(share: float, width: int, style: str) -> Text:
    """A bar of eighths of a column on a faint track."""
    eighths = round(8 * width * share)
    part = "▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else ""
    full = "█" * (eighths // 8) + part
    return styled((full, style), ("·" * (width - len(full)), "bright_black"))


def draw(stage: Stage, log: dict[str, Any], row: int, height: int) -> int:
    """Draw the training's losses into `height` rows from `row` on, as time goes. The next free row.

    Each column is the mean loss of its share of the steps; a mark is the validation loss after a step.
    """
    left = MARGIN + LABELS
    width, steps = stage.inner - LABELS - 1, log["steps"]
    means = bins([step["loss"] for step in steps], width)
    checks = {min(v["step"] * width // len(steps), width - 1): v["loss"] for v in log["validation"]}
    top = ceiling(max([*means, *checks.values()]))
    for at in range(height + 1):
        value = top * (height - at) / height
        named = at in (0, height) or (2 * at == height)
        label, corner = f"{value:.3g}" if named else "", "└" if at == height else "┤" if named else "│"
        stage.put(row + at, MARGIN, styled((f"{label:>{LABELS - 1}}{corner}", QUIET)))
    stage.put(row + height, left, styled(("─" * width, QUIET)))
    stage.put(row + height + 1, left, styled((f"1{f'step {len(steps)}':>{width - 1}}", QUIET)))
    checked: float | None = None
    for column, mean in enumerate(means):
        for up, character in enumerate(strip(mean / top, height)):
            stage.put(row + height - 1 - up, left + column, styled((character, CURVE)))
        if column in checks:
            checked = checks[column]
            up = min(int(height * checked / top), height - 1)
            inside = strip(mean / top, height)[up : up + 1] == SPARKS[7]
            stage.put(row + height - 1 - up, left + column, styled((MARK, INSIDE if inside else CHECK)))
        _status(stage, row + height + 2, log, min((column + 1) * len(steps) // width, len(steps)), checked)
        stage.clock.sleep(SECONDS / width)
    return row + height + 3


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


def strip(share: float, height: int) -> str:
    """A column of blocks from the bottom up, an eighth of a row at least."""
    eighths = max(min(round(8 * height * share), 8 * height), 1)
    return SPARKS[7] * (eighths // 8) + (SPARKS[eighths % 8 - 1] if eighths % 8 else "")


def _status(stage: Stage, row: int, log: dict[str, Any], step: int, checked: float | None) -> None:
    """The figures of the steps drawn so far, in places that do not move."""
    step = max(step, 1)
    seconds = sum(one["seconds"] for one in log["steps"][:step])
    line = styled(
        (" " * LABELS, ""), (f"step {step:>5}", "bold"), (f"   {seconds:6.1f} s   ", ""),
        ("█ ", CURVE), (f"loss {log['steps'][step - 1]['loss']:8.3f}   ", ""),
        (f"{MARK} ", CHECK), (f"validation {'–' if checked is None else f'{checked:.3f}':>8}", ""),
    )  # fmt: skip
    stage.put(row, MARGIN, line)
