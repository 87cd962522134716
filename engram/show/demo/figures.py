"""The section with the figures: recall, generalization and retention, each with its n and interval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engram.evaluation.scoring import GENERAL
from engram.show.demo import sections
from engram.show.demo.findings import tested
from engram.show.demo.stage import MARGIN, QUIET, Stage, styled
from engram.support.console import bounds, interval, number, percent

if TYPE_CHECKING:
    from rich.text import Text

VERDICTS = {"gain": "bold green", "loss": "bold red", "not shown": "bold yellow"}
BAR_SECONDS = 1.0
BAR_FRAMES = 20
HOLD = 9.0


def perform(stage: Stage, comparison: dict[str, Any]) -> None:
    """Recall, generalization and retention with n and intervals; the bars grow to their values."""
    row = stage.section(sections.FIGURES)
    bars: list[tuple[int, float, str]] = []
    for name, text in (("recall", "taught, in words never trained on"), ("generalization", "held out, never taught")):
        row = _split(stage, comparison, name, text, row, bars)
    row = _retention(stage, comparison["retention"], row)
    _beside_them(stage, comparison, row)
    for frame in range(1, BAR_FRAMES + 1):
        for at, share, style in bars:
            stage.put(at, MARGIN + 10, _bar(share * frame / BAR_FRAMES, _bar_width(stage), style))
        stage.clock.sleep(BAR_SECONDS / BAR_FRAMES)
    stage.hold(HOLD)


def _split(
    stage: Stage, comparison: dict[str, Any], name: str, text: str, row: int, bars: list[tuple[int, float, str]]
) -> int:
    """One split: its n, both shares with their intervals, and the change with its test."""
    change = comparison["improvement"][name]
    stage.put(row, MARGIN, styled((f"{name}  ", "bold"), (f"{text}, n = {change['n']}", QUIET)))
    for at, (label, side, style) in enumerate((("before", "baseline", QUIET), ("after", "tuned", "cyan")), start=1):
        part, width = comparison[side][name], _bar_width(stage)
        shown = f"{percent(part['exact']):>8}  {interval(part['ci95'])}"
        stage.put(row + at, MARGIN, styled((f"  {label:6}", QUIET)))
        stage.put(row + at, MARGIN + 10 + width, styled((shown, "bold" if side == "tuned" else "")))
        bars.append((row + at, part["exact"] or 0.0, style))
    if change["exact"] is None:
        stage.put(row + 3, MARGIN, styled(("  change  not measured", "yellow")))
    else:
        points = f"{100 * change['exact']:+.1f} points {interval(change['ci95'], points=True)}"
        test = f"  ·  McNemar {tested(change['p_value'])}  ·  "
        verdict = (change["verdict"], VERDICTS.get(change["verdict"], "bold"))
        stage.put(row + 3, MARGIN, styled(("  change  ", QUIET), (points, ""), (test, QUIET), verdict))
    return row + 5


def _retention(stage: Stage, kept: dict[str, Any], row: int) -> int:
    stage.put(row, MARGIN, styled(("retention  ", "bold"), ("what the model could do before, perplexity", QUIET)))
    for at, kind in enumerate(GENERAL, start=1):
        part = kept[kind]
        sides = f"{number(part['before'])} → {number(part['after'])}"
        nats = "" if part["nats"] is None else f"{part['nats']:+.2f} nats {bounds(part['ci95'])}"
        verdict = (part["verdict"], VERDICTS.get(part["verdict"], "bold"))
        line = styled(
            (f"  {kind:6}  ", QUIET), (f"{sides:<15}", ""), (f"  {nats}, n = {part['n']}  ·  ", QUIET), verdict
        )
        stage.put(row + at, MARGIN, line)
    changed = kept["changed"]
    share = f"{percent(changed['share'])} {interval(changed['ci95'])} of {changed['n']} general answers are others now"
    stage.put(row + 3, MARGIN, styled(("  answers ", QUIET), (share, "")))
    return row + 5


def _beside_them(stage: Stage, comparison: dict[str, Any], row: int) -> None:
    """Consistency and latency."""
    sides = [comparison[stage] for stage in ("baseline", "tuned")]
    agreed = " → ".join(percent(s["consistency"]["phrasing_agreement"]) for s in sides)
    drawn = " → ".join(percent(s["consistency"]["sample_agreement"]) for s in sides)
    first = " → ".join(
        number(1000 * s["latency"]["first_token_seconds"]) if s["latency"]["first_token_seconds"] else "–"
        for s in sides
    )
    rate = " → ".join(f"{s['latency']['tokens_per_second'] or 0:,.0f}" for s in sides)
    temperature = comparison["scoring"]["temperature"]
    n = f", n = {sides[1]['consistency']['patterns']}"
    prompts = f", {sides[1]['latency']['prompts']} prompts"
    stage.put(row, MARGIN, styled(("consistency  ", "bold"), (f"same answer in other words {agreed}{n}", "")))
    stage.put(row + 1, MARGIN, styled(("             ", ""), (f"same answer at temperature {temperature} {drawn}", "")))
    stage.put(
        row + 2, MARGIN, styled(("latency      ", "bold"), (f"first token {first} ms · {rate} tokens/s{prompts}", ""))
    )


def _bar_width(stage: Stage) -> int:
    return min(stage.inner - 34, 50)


def _bar(share: float, width: int, style: str) -> Text:
    """A bar of eighths of a column on a faint track."""
    eighths = round(8 * width * share)
    part = "▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else ""
    full = "█" * (eighths // 8) + part
    return styled((full, style), ("·" * (width - len(full)), "bright_black"))
