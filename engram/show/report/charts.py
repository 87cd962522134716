"""Charts as SVG of our own: shares with their intervals, and loss curves, inside the page or as a file.

Marks stand in percent of their drawing's width, and text is never stretched, so that a chart is as readable on a phone
as on a desk. Colours are classes; `assets/chart.css` gives them for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.evaluation.compare_runs import Run
from engram.support.files import PACKAGE
from engram.support.text import visible

if TYPE_CHECKING:
    from markupsafe import Markup

TICKS = (0, 25, 50, 75, 100)  # percent
STRIP = 26  # pixels: the height of one drawing of two shares
MOST_POINTS = 500  # of a curve: longer ones are averaged
LOWEST = 1e-3  # nats: where the logarithmic axis ends
BOX = 1000  # units of the curves' box, on both axes
WIDE, LABELS, FIGURES, LINE = 760, 230, 150, 30  # pixels of a chart in a file: whole, its columns, a line's height


class Share(NamedTuple):
    """A share and its interval, from 0 to 1."""

    value: float
    low: float
    high: float


class Level(NamedTuple):
    """One line of a chart of shares."""

    name: str
    n: int
    before: Share | None
    after: Share | None


class Curve(NamedTuple):
    """A training run's losses: (step, nats) of training and of validation."""

    name: str
    training: list[tuple[int, float]]
    validation: list[tuple[int, float]]


class Axes(NamedTuple):
    """The steps of the x axis, and the powers of ten between which the y axis runs."""

    steps: int
    low: int
    high: int

    def x(self, step: float) -> float:
        """A step's place from 0 to 1."""
        return step / max(self.steps, 1)

    def y(self, loss: float) -> float:
        """A loss's place from 0 (top) to 1 (bottom)."""
        return (self.high - math.log10(max(loss, LOWEST))) / (self.high - self.low)


def share(score: dict[str, Any]) -> Share | None:
    """A score of a result document as a share; None where nothing was measured."""
    return None if score["exact"] is None or score["ci95"] is None else Share(score["exact"], *score["ci95"])


def levels(categories: dict[str, Any]) -> list[Level]:
    """Each category of one split of a comparison."""
    return [Level(name, row["n"], share(row["before"]), share(row["after"])) for name, row in categories.items()]


def strip(level: Level) -> Markup:
    """Before above after, each a dot with its whiskers, as wide as what holds it."""
    return _markup(
        f'<svg class="strip" role="img" width="100%" height="{STRIP}"><title>{{}}</title>{{}}</svg>',
        say(level), _shares(level),
    )  # fmt: skip


def say(level: Level) -> str:
    """What the drawing shows, in words."""
    sides = ((name, getattr(level, name)) for name in ("before", "after"))
    return f"{level.name}, n = {level.n}: " + ", ".join(f"{name} {_words(side)}" for name, side in sides)


def scale() -> Markup:
    """The axis under a column of `strip`s."""
    return _markup('<svg class="axis" aria-hidden="true" width="100%" height="18">{}</svg>', _scale())


def curves(runs: Sequence[Run]) -> list[Curve]:
    """The curves of the runs that have a training log."""
    return [_curve(run.name, run.log) for run in runs if run.log]


def axes(found: Sequence[Curve]) -> Axes:
    """The axes on which all these curves lie."""
    values = [max(loss, LOWEST) for curve in found for _, loss in (*curve.training, *curve.validation)]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return Axes(max(step for curve in found for step, _ in curve.training), low, max(high, low + 1))


def losses(found: Sequence[Curve]) -> dict[str, Markup]:
    """The parts of a loss chart for the page: `plot`, and the numbers of its axes `x` and `y`."""
    on = axes(found)
    plot = _markup(
        '<svg class="plot" role="img" aria-labelledby="loss-title loss-desc" width="100%" height="300">'
        '<title id="loss-title">Training loss by step, logarithmic</title><desc id="loss-desc">{}</desc>{}</svg>',
        describe(found), _losses(found, on),
    )  # fmt: skip
    frame = '<svg class="axis {}" aria-hidden="true" width="{}" height="{}">{}</svg>'
    return {
        "plot": plot,
        "x": _markup(frame, "x", "100%", 18, _steps(on)),
        "y": _markup(frame, "y", 44, 300, _nats(on)),
    }


def describe(found: Sequence[Curve]) -> str:
    """The curves in words: where each begins and ends."""
    lines = []
    for curve in found:
        (_, begin), (steps, end) = curve.training[0], curve.training[-1]
        checked = f", validation at the end {curve.validation[-1][1]:.3g}" if curve.validation else ""
        lines.append(f"{curve.name}: {begin:.3g} to {end:.3g} nats per answer token in {steps} steps{checked}.")
    return " ".join(lines)


def levels_file(title: str, found: Sequence[Level]) -> str:
    """A chart of shares as an SVG file, readable on a light and on a dark page."""
    inner = WIDE - LABELS - FIGURES
    parts = [_text(0, 18, title, "title")]
    for i, level in enumerate(found):
        top = 34 + i * LINE
        sides = [("–" if side is None else f"{100 * side.value:.0f}") for side in (level.before, level.after)]
        parts.append(_text(LABELS - 16, top + 17, level.name, "label", "end"))
        parts.append(_nested(LABELS, top, inner, STRIP, _shares(level)))
        parts.append(_text(WIDE - FIGURES + 18, top + 17, f"{' → '.join(sides)} %  n = {level.n}", "figures"))
    bottom = 34 + len(found) * LINE
    parts.append(_nested(LABELS, bottom, inner, 18, _scale()))
    height = bottom + 26
    return _file(height, title, " ".join(say(level) + "." for level in found), parts)


def losses_file(title: str, found: Sequence[Curve]) -> str:
    """The loss curves as an SVG file."""
    on, left, height = axes(found), 52, 300
    parts = [
        _text(0, 18, title, "title"),
        _nested(left, 64, WIDE - left - 12, height, _losses(found, on)),
        _nested(0, 64, 44, height, _nats(on)),
        _nested(left, 64 + height + 4, WIDE - left - 12, 18, _steps(on)),
    ]
    for i, curve in enumerate(found):
        x = left + 180 * i
        parts.append(_markup('<line class="curve s{}" x1="{}" x2="{}" y1="42" y2="42"/>', i % 4, x, x + 28))
        parts.append(_text(x + 36, 46, curve.name, "label"))
    return _file(height + 96, title, describe(found), parts)


def style() -> str:
    """The rules of the charts' classes."""
    return (PACKAGE / "show" / "report" / "assets" / "chart.css").read_text("utf-8")


def _shares(level: Level) -> Markup:
    lines = [_markup('<line class="grid" x1="{0}%" x2="{0}%" y1="0" y2="100%"/>', tick) for tick in TICKS]
    for side, y in (("before", 8), ("after", 18)):
        found: Share | None = getattr(level, side)
        if found is not None:
            low, high, at = (f"{100 * part:.4g}" for part in (found.low, found.high, found.value))
            lines.append(_markup('<line class="whisker {}" x1="{}%" x2="{}%" y1="{}" y2="{}"/>', side, low, high, y, y))
            lines.append(_markup('<circle class="dot {}" cx="{}%" cy="{}" r="5"/>', side, at, y))
    return _join(lines)


def _words(found: Share | None) -> str:
    if found is None:
        return "not measured"
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _scale() -> Markup:
    return _join(
        _markup('<text x="{}%" y="13" text-anchor="middle">{}</text>', t, f"{t} %" if t == 100 else t) for t in TICKS
    )


def _curve(name: str, log: dict[str, Any]) -> Curve:
    steps = [(step["step"], step["loss"]) for step in log["steps"]]
    width = math.ceil(len(steps) / MOST_POINTS)
    bins = [steps[i : i + width] for i in range(0, len(steps), width)]
    means = [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in bins]
    return Curve(name, means, [(check["step"], check["loss"]) for check in log["validation"]])


def _losses(found: Sequence[Curve], on: Axes) -> Markup:
    """Curves in a box that is stretched, their dots beside it; later curves are dashed, so that none hides another."""
    parts: list[Markup] = []
    for power in range(on.low, on.high + 1):
        parts.append(
            _markup('<line class="grid" x1="0" x2="100%" y1="{0}%" y2="{0}%"/>', f"{100 * on.y(10**power):.4g}")
        )
    for i, curve in enumerate(found):
        points = " ".join(f"{BOX * on.x(step):.1f},{BOX * on.y(loss):.1f}" for step, loss in curve.training)
        box = '<svg viewBox="0 0 {0} {0}" width="100%" height="100%" preserveAspectRatio="none" overflow="visible">'
        line = '<polyline class="curve s{1}" vector-effect="non-scaling-stroke" points="{2}"/></svg>'
        parts.append(_markup(box + line, BOX, i % 4, points))
        for step, loss in curve.validation:
            at = (f"{100 * on.x(step):.4g}", f"{100 * on.y(loss):.4g}")
            parts.append(_markup('<circle class="check s{}" cx="{}%" cy="{}%" r="4.5"/>', i % 4, *at))
    return _join(parts)


def _steps(on: Axes) -> Markup:
    size = 10 ** math.floor(math.log10(max(on.steps / 3, 1)))
    each = next(size * k for k in (1, 2, 5, 10) if on.steps / (size * k) <= 6)
    ticks = takewhile(lambda step: step <= on.steps, count(0, each))
    return _join(
        _markup('<text x="{}%" y="13" text-anchor="middle">{}</text>', f"{100 * on.x(step):.4g}", step)
        for step in ticks
    )


def _nats(on: Axes) -> Markup:
    found = ((power, f"{100 * on.y(10**power):.4g}") for power in range(on.low, on.high + 1))
    return _join(
        _markup('<text x="38" y="{}%" dy="4" text-anchor="end">{}</text>', y, f"{10.0**power:g}") for power, y in found
    )


def _nested(x: int, y: int, width: int, height: int, marks: Markup) -> Markup:
    frame = '<svg x="{}" y="{}" width="{}" height="{}" overflow="visible">{}</svg>'
    return _markup(frame, x, y, width, height, marks)


def _text(x: int, y: int, text: str, kind: str, anchor: str = "start") -> Markup:
    return _markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>', kind, x, y, anchor, text)


def _file(height: int, title: str, words: str, parts: Sequence[Markup]) -> str:
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" class="file" viewBox="0 0 {0} {1}" width="{0}" height="{1}" '
        'role="img" aria-labelledby="title desc"><title id="title">{2}</title><desc id="desc">{3}</desc>\n'
        "<style>\n{4}</style>\n"
    )
    inner = _join(part + "\n" for part in parts)
    return str(_markup(head, WIDE, height, title, words, _safe(style())) + inner) + "</svg>\n"


def _markup(form: str, *values: object) -> Markup:
    """The form with every text in it visible and escaped."""
    return _safe(form).format(*(visible(v) if type(v) is str else v for v in values))


def _safe(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)


def _join(parts: Any) -> Markup:
    return _safe("").join(parts)
