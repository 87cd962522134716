"""The loss curve as an area of block characters with axes, drawn from left to right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engram.support.console import SPARKS

if TYPE_CHECKING:
    from engram.show.demo.stage import Stage

SECONDS = 6.0  # for the whole curve
LABELS = 6  # columns left of the axis
CURVE, CHECK, MARK = "cyan", "bold yellow", "◆"
INSIDE = f"reverse {CURVE}"  # a mark within the curve's area, cut out of it


def draw(stage: Stage, log: dict[str, Any], row: int, height: int) -> int:
    """Draw the training's losses into `height` rows from `row` on, as time goes. The next free row.

    Each column is the mean loss of its share of the steps; a mark is the validation loss after a step.
    """
    from rich.text import Text

    from engram.show.demo.stage import MARGIN, QUIET

    left = MARGIN + LABELS
    width, steps = stage.inner - LABELS - 1, log["steps"]
    means = bins([step["loss"] for step in steps], width)
    checks = {min(v["step"] * width // len(steps), width - 1): v["loss"] for v in log["validation"]}
    top = ceiling(max([*means, *checks.values()]))
    for at in range(height + 1):
        value = top * (height - at) / height
        named = at in (0, height) or (2 * at == height)
        put_label = f"{value:.3g}" if named else ""
        corner = "└" if at == height else "┤" if named else "│"
        stage.put(row + at, MARGIN, Text(f"{put_label:>{LABELS - 1}}{corner}", QUIET))
    stage.put(row + height, left, Text("─" * width, QUIET))
    _axis(stage, row + height + 1, left, width, len(steps))
    checked: float | None = None
    for column, mean in enumerate(means):
        for up, character in enumerate(strip(mean / top, height)):
            stage.put(row + height - 1 - up, left + column, Text(character, CURVE))
        if column in checks:
            checked = checks[column]
            up = min(int(height * checked / top), height - 1)
            inside = strip(mean / top, height)[up : up + 1] == SPARKS[7]
            stage.put(row + height - 1 - up, left + column, Text(MARK, INSIDE if inside else CHECK))
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


def _axis(stage: Stage, row: int, left: int, width: int, steps: int) -> None:
    from rich.text import Text

    from engram.show.demo.stage import QUIET

    end = f"step {steps}"
    stage.put(row, left, Text(f"1{end:>{width - 1}}", QUIET))


def _status(stage: Stage, row: int, log: dict[str, Any], step: int, checked: float | None) -> None:
    """The figures of the steps drawn so far, in places that do not move."""
    from rich.text import Text

    from engram.show.demo.stage import MARGIN

    step = max(step, 1)
    seconds = sum(one["seconds"] for one in log["steps"][:step])
    line = Text.assemble(
        (" " * LABELS, ""), (f"step {step:>5}", "bold"), (f"   {seconds:6.1f} s   ", ""),
        ("█ ", CURVE), (f"loss {log['steps'][step - 1]['loss']:8.3f}   ", ""),
        (f"{MARK} ", CHECK), (f"validation {'–' if checked is None else f'{checked:.3f}':>8}", ""),
    )  # fmt: skip
    stage.put(row, MARGIN, line)
