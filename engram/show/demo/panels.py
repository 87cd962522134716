"""Questions and their answers, as a description; drawn as two boxes in which the answers are typed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from engram.dataset.rows import Example
from engram.evaluation.scoring import SPLITS
from engram.show.demo.answers import MARKED, Shown, is_right, legend
from engram.show.demo.stage import LINE, QUIET, Stage, fold, styled
from engram.support.text import normalise, visible

BESIDE = 92  # columns within the margins from which two boxes are drawn side by side
GAP = 2
MOST, MOST_READ = 4, 3  # lines of one answer, and of one with marks under each
TICK = 0.06  # seconds a token
State = tuple[int, int] | None  # of a box: the number of the answer that is typed, its tokens so far; None: not shown
DONE = (sys.maxsize, 0)
THINK = 0.5  # seconds between a question and its answers
MARKS = {True: ("✓", "right", "green"), False: ("✗", "wrong", "red"), None: ("", "", "")}
ABOUT = SPLITS | {"general": "not about the patterns, never taught"}
BLANKS = 8 * "    \n"  # the edges of a box without lines
EDGE = "not dim default"  # of what stands in a box's edges, unless it has a colour


@dataclass(frozen=True)
class Said:
    """One answer, whether it is right (None: no answer is), its label in a box, its time."""

    answer: Shown
    right: bool | None
    label: str = ""
    times: str = ""

    @property
    def steps(self) -> tuple[int, ...]:
        """Where each step of its typing ends."""
        return self.answer.steps or (len(self.answer.line),)

    def typed(self, width: int, end: int | None = None) -> list[Text]:
        """Its lines, up to `end` while it is typed, with marks under what was read of a memory; cut off if long."""
        read, label = any(self.answer.read), self.label
        most = MOST_READ if read else MOST
        style = MARKS[self.right][2] if end is None else ""
        lines = fold(self.answer.line, width - len(label))
        shown = []
        for at, (start, text) in enumerate(lines[:most]):
            part = text if end is None else text[: max(end - start, 0)]
            more = " …" if end is None and len(lines) > at + 1 == most else ""
            shown.append(styled((label, QUIET), (part, style), (more, style)))
            label = " " * len(label)
            if read:
                shown.append(styled((label, ""), (self.answer.under(start, part), MARKED)))
        return shown


@dataclass(frozen=True)
class Box:
    """A titled box with one answer or several, each typed after the one before."""

    title: str
    said: tuple[Said, ...]

    def panel(self, drawn: bool, width: int, rows: int, number: int, tick: int) -> Panel:
        """The box with the first `tick` tokens of its answer of this number, and all of those before.

        A whole answer is marked right or wrong in the lower edge. Not `drawn`, the box has no lines around it.
        """
        lines, marks = list[Text](), list[tuple[str, str]]()
        for at, said in enumerate(self.said[: number + 1]):
            done = at < number or tick >= len(said.steps) - 1
            lines += said.typed(width - 4, None if done else said.steps[tick])
            if done:
                mark, word, colour = MARKS[said.right]
                times = f" · {said.times}" if said.times and word else said.times
                label = f"{said.label.strip()} " if said.label else ""
                marks += [("  " if marks else "", ""), (label, QUIET)]
                marks += [(f"{mark} {word}" if word else "", f"bold {colour}"), (times, QUIET)]
        edges = [styled((self.title, "bold"), cut=True), styled(*marks, cut=True)]
        for edge in edges:
            edge.stylize_before(EDGE)
        return Panel(
            Text("\n", no_wrap=True, overflow="ellipsis").join(lines), box=box.ROUNDED if drawn else box.Box(BLANKS),
            width=width, height=rows + 2, border_style=LINE,
            title=edges[0], title_align="left", subtitle=edges[1] if marks else None, subtitle_align="left",
        )  # fmt: skip


@dataclass(frozen=True)
class Block:
    """One question with its boxes, and a verdict shown when all is typed."""

    example: Example
    boxes: tuple[Box, Box]
    verdict: str = ""


def pair(example: Example, before: Shown, after: Shown, usual: Sequence[dict[str, Any] | None] = (None, None)) -> Block:
    """One question before and after; `usual` are medians for answers that have no times of their own."""
    boxes = []
    for name, answer, median in zip(("before", "after"), (before, after), usual, strict=True):
        first, rate = answer.first, answer.rate
        if first is None and median:
            first, rate = median["first_token_seconds"], median["tokens_per_second"]
        times = [] if first is None else [f"first token {1000 * first:.0f} ms"]
        times += [f"{rate:,.0f} tok/s"] if rate else []
        boxes.append(Box(name, (Said(answer, is_right(example, answer), times=" · ".join(times)),)))
    return Block(example, (boxes[0], boxes[1]))


def pages(stage: Stage, blocks: Sequence[Block]) -> list[list[Block]]:
    """The blocks as they fit on screens, with a blank line between two; one on each at least."""
    found: list[list[Block]] = []
    free = 0
    for block in blocks:
        needed = len(stage.rows(finished(stage, block))) + 1
        if not found or needed > free:
            found.append([])
            free = stage.room - 1  # without the foot and a blank line, but the last block needs none after it
        found[-1].append(block)
        free -= needed
    return found


def finished(stage: Stage, block: Block, states: Sequence[State] = (DONE, DONE)) -> list[RenderableType]:
    """The block with its answers, the facts that they were read from, and its verdict."""
    read = legend(said.answer for one in block.boxes for said in one.said)
    told = [styled((line, MARKED), cut=True) for line in read]
    told += [styled((block.verdict, "bold"), cut=True)] if block.verdict else []
    return [*picture(stage, block, states), *told]


def picture(stage: Stage, block: Block, states: Sequence[State]) -> list[RenderableType]:
    """The question and its boxes, side by side or one below the other; each typed so far, or not shown yet."""
    example, beside = block.example, stage.inner >= BESIDE
    width = (stage.inner - GAP) // 2 if beside else stage.inner
    rows = [sum(len(said.typed(width - 4)) for said in one.said) for one in block.boxes]
    rows = [max(rows)] * 2 if beside else rows
    boxes = [
        one.panel(stage.drawn, width, high, *state) if state else Text("\n" * (high + 1))
        for one, high, state in zip(block.boxes, rows, states, strict=True)
    ]
    grid = Table.grid(padding=(0, GAP, 0, 0))
    for row in [boxes] if beside else [[one] for one in boxes]:
        grid.add_row(*row)
    kind, title = (visible(example.kind), "bold magenta"), (f" · {ABOUT[example.split_kind]}", QUIET)
    asked = (("prompt    ", example.prompt, "bold"), ("expected  ", example.answer, ""))
    lines = [styled((name, QUIET), (visible(normalise(text)), style), cut=True) for name, text, style in asked if text]
    return [styled(kind, title, cut=True), *lines, grid]


def perform(stage: Stage, above: Sequence[RenderableType], block: Block, which: Sequence[int] = (0, 1)) -> None:
    """Below what is there, ask the block's question and type the answers of these boxes; earlier boxes are full."""

    def show(number: int, tick: int) -> None:
        states = [(number, tick) if i in which else DONE if i < which[0] else None for i in (0, 1)]
        stage.show([*above, *picture(stage, block, states)])

    show(-1, 0)
    stage.clock.sleep(THINK)
    given = [block.boxes[i].said for i in which]
    for number in range(max(map(len, given))):
        for tick in range(max(len(said[number].steps) for said in given)):
            show(number, tick)
            stage.clock.sleep(TICK)
