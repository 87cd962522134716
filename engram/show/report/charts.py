"""Charts as SVG, for the page or as files: shares with intervals, and loss curves; `assets/chart.svg.j2` draws them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engram.evaluation.compare_runs import Run
from engram.support.console import ending, interval, percent
from engram.support.files import PACKAGE
from engram.support.text import visible

ASSETS = PACKAGE / "show" / "report" / "assets"
MOST_POINTS = 500  # of a curve: longer ones are averaged
LOWEST = 1e-3  # nats: where the logarithmic axis ends
BOX = 1000  # units of the curves' box, on both axes


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
    ending: str = ""


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

    def powers(self) -> Iterator[tuple[float, float]]:
        """The powers of ten that get a line, each with its place."""
        return ((10.0**power, self.y(10**power)) for power in range(self.low, self.high + 1))

    def ticks(self) -> range:
        """The steps that get a number: seven at most, in ones, twos or fives."""
        size = 10 ** math.floor(math.log10(max(self.steps / 3, 1)))
        return range(0, self.steps + 1, next(size * k for k in (1, 2, 5, 10) if self.steps / (size * k) <= 6))

    def line(self, points: Sequence[tuple[int, float]]) -> str:
        """A curve's points in units of the box."""
        return " ".join(f"{BOX * self.x(step):.1f},{BOX * self.y(loss):.1f}" for step, loss in points)


@functools.cache
def environment() -> Environment:
    """Jinja that escapes every value, after making its control characters visible; with the macros of charts."""
    made = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined)
    made.finalize = lambda value: visible(value) if type(value) is str else value
    made.filters["at"] = lambda place: f"{100 * place:.4g}"
    made.globals |= {"say": say, "describe": describe, "box": BOX, "style": Markup(asset("chart.css"))}
    return made


def share(score: dict[str, Any]) -> Share | None:
    """A score of a result document as a share; None if nothing was measured."""
    return None if score["exact"] is None or score["ci95"] is None else Share(score["exact"], *score["ci95"])


def level(split: str, comparison: dict[str, Any]) -> Level:
    """A split of a comparison as a line of a chart."""
    sides = [share(comparison[stage][split]) for stage in ("baseline", "tuned")]
    return Level(split, comparison["improvement"][split]["n"], *sides)


def levels(categories: dict[str, Any]) -> list[Level]:
    """Each category of one split of a comparison."""
    return [Level(name, row["n"], share(row["before"]), share(row["after"])) for name, row in categories.items()]


def say(level: Level) -> str:
    """The drawing of a level in words."""
    sides = [f"{percent(s.value)} {interval((s.low, s.high))}" if s else "not measured" for s in level[2:]]
    return f"{level.name}, n = {level.n}: before {sides[0]}, after {sides[1]}"


def curves(runs: Sequence[Run]) -> list[Curve]:
    """The curves of the runs that have a training log; long ones as means of neighbouring steps."""
    found = []
    for run in runs:
        if run.log:
            steps = [(step["step"], step["loss"]) for step in run.log["steps"]]
            width = math.ceil(len(steps) / MOST_POINTS)
            parts = [steps[i : i + width] for i in range(0, len(steps), width)]
            means = [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]
            checks = [(check["step"], check["loss"]) for check in run.log["validation"]]
            found.append(Curve(run.name, means, checks, ending(run.log)))
    return found


def axes(found: Sequence[Curve]) -> Axes:
    """The axes that hold all these curves."""
    values = [max(loss, LOWEST) for curve in found for _, loss in (*curve.training, *curve.validation)]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return Axes(max(step for curve in found for step, _ in curve.training), low, max(high, low + 1))


def describe(found: Sequence[Curve]) -> str:
    """The curves in words: where each begins and ends."""
    lines = []
    for curve in found:
        (_, begin), (steps, end) = curve.training[0], curve.training[-1]
        checked = f", validation at the end {curve.validation[-1][1]:.3g}" if curve.validation else ""
        checked += f"; {curve.ending}" if curve.ending else ""
        lines.append(f"{curve.name}: {begin:.3g} to {end:.3g} nats per answer token in {steps} steps{checked}.")
    return " ".join(lines)


def levels_file(title: str, found: Sequence[Level]) -> str:
    """A chart of shares as an SVG file, readable on a light and on a dark page."""
    return str(draw("levels_file", title, found))


def losses_file(title: str, found: Sequence[Curve]) -> str:
    """The loss curves as an SVG file."""
    return str(draw("losses_file", title, found, axes(found)))


def asset(name: str) -> str:
    """A style sheet or script of the page."""
    return (ASSETS / name).read_text("utf-8")


def draw(macro: str, *values: object) -> Markup:
    """What a macro of `chart.svg.j2` draws."""
    drawn: Markup = getattr(environment().get_template("chart.svg.j2").module, macro)(*values)
    return drawn
