"""Two runs side by side: the same questions, both answers of each, and the figures that can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from engram.dataset.rows import Example
from engram.evaluation import compare_runs, tables
from engram.evaluation.compare import refuse
from engram.show.demo import acts, figures, panels
from engram.show.demo import stage as sections
from engram.show.demo.answers import Splitter, is_right, replayed
from engram.show.demo.material import asked, choose_rows, read_run
from engram.show.demo.stage import BLANK, QUIET, Stage, styled
from engram.support.errors import EngramError
from engram.support.text import visible

FIGURES = {
    "device": "device", "recall": "recall", "generalization": "generalization",
    "perplexity, text": "perplexity, general text", "perplexity, chat": "perplexity, general chat",
    "training, tokens/s": "training, tokens/s", "training, s": "training, s",
    "peak memory, MiB": "training, peak memory, MiB", "first token, s": "time to first token, s",
    "tokens/s": "tokens/s, one prompt at a time",
}  # fmt: skip
FIRST = 20  # columns of the figures' names
SAME = {True: "the same", False: "different"}


@dataclass(frozen=True)
class Both:
    """Two comparable runs, their comparison, and the rows that are shown."""

    runs: tuple[compare_runs.Run, compare_runs.Run]
    pair: dict[str, Any]
    rows: list[Example]


def load(names: Sequence[str], folder: Path) -> Both:
    """The runs of two folders in `folder`; raises EngramError if one is missing, or more than the platform differs."""
    if len(names) != 2 or names[0] == names[1]:
        what = f"two different runs are shown side by side, not {', '.join(map(visible, names)) or 'none'}"
        raise EngramError(what, where="--platforms", fix="name two folders in results/: --platforms mlx,cuda")
    one, other = (read_run(folder / name) for name in names)
    pair = compare_runs.pair(one, other)
    fix = "make eval compare BACKEND=… with the same MODEL, RECIPE, SEED and PATTERNS"
    refuse("these runs are not comparable", folder, [*pair["refused"], *pair["settings"]], fix)
    rows = choose_rows(asked(one.stages["baseline"]), one.comparison["recipe"]["seed"])
    return Both((one, other), pair, rows)


def perform(stage: Stage, both: Both, split: Splitter) -> None:
    """The questions with both platforms' answers; then their figures, tested against each other."""
    note = "Stored answers; the questions are chosen by hash, not by result."
    acts.answer(stage, sections.PLATFORMS_ANSWERS, blocks(both, split), note)
    stage.section(sections.PLATFORMS_FIGURES)
    one, other = (visible(run.name) for run in both.runs)
    width = (stage.inner - FIRST) // 2
    grid = Table.grid()
    for column in (FIRST, width, width):
        grid.add_column(width=column, no_wrap=True)
    grid.add_row("", *(styled((name, "bold"), cut=True) for name in (one, other)))
    for name, key in FIGURES.items():
        cells = (styled((tables.ACROSS[key](run.comparison), ""), cut=True) for run in both.runs)
        grid.add_row(styled((name, QUIET)), *cells)
    lines = []
    for name, n, _, _, apart, p, found in tables.pair_table(both.pair).rows:
        head = f"{name}, {other} against {one}: {apart} points, p {p}, n = {n}: "
        lines.append(styled((head, ""), (found, "bold yellow" if found == "a difference" else "bold green")))
    lines += [styled((line, "")) for line in tables.pair_lines(both.pair) if "on general prompts" not in line]
    stage.show([grid, BLANK, *lines])
    stage.hold(figures.HOLD)


def blocks(both: Both, split: Splitter | None = None) -> list[panels.Block]:
    """Each question with a box for each platform: its answer before and after."""
    given = [replayed(both.rows, run.stages, split) for run in both.runs]
    found = []
    for example, *sides in zip(both.rows, *given, strict=True):
        boxes = []
        for run, answers in zip(both.runs, sides, strict=True):
            labelled = zip(("before  ", "after   "), answers, strict=True)
            said = tuple(panels.Said(answer, is_right(example, answer), label) for label, answer in labelled)
            boxes.append(panels.Box(f"{visible(run.name)} · {visible(run.comparison['device'])}", said))
        before, after = (one.text == other.text for one, other in zip(*sides, strict=True))
        verdict = f"{'=' if before and after else '≠'} before: {SAME[before]} · after: {SAME[after]}"
        found.append(panels.Block(example, (boxes[0], boxes[1]), verdict))
    return found
