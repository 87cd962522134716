"""Questions and their answers, as a description; drawn as two boxes in which the answers are typed, or as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.dataset.rows import Example
from engram.show.demo.answers import MARKED, Shown, is_right, legend
from engram.show.demo.stage import LINE, MARGIN, QUIET, Stage, fold, styled
from engram.support.text import normalise, shorten, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

BESIDE = 92  # columns within the margins from which two boxes are drawn side by side
GAP = 2
QUESTION = 3  # rows
MOST, MOST_READ = 4, 3  # lines of one answer, and of one with marks under each
TICK = 0.06  # seconds a token
THINK = 0.5  # seconds between a question and its answers
TITLES = {"recall": "taught, asked in words never trained on", "generalization": "held out, never taught"}
MARKS = {True: ("✓", "right", "green"), False: ("✗", "wrong", "red")}
EDGE = "not dim default"  # of what stands in a box's edges, unless it has a colour


@dataclass(frozen=True)
class Said:
    """One answer: its name in a text, its label in a box, whether it is the expected one, and how long it took."""

    name: str
    answer: Shown
    right: bool
    label: str = ""
    times: str = ""

    @property
    def steps(self) -> tuple[int, ...]:
        """Where each step of its typing ends."""
        return self.answer.steps or (len(self.answer.line),)

    @property
    def most(self) -> int:
        """The lines shown in a box."""
        return MOST_READ if self.answer.is_read else MOST

    def rows(self, width: int) -> int:
        """Rows that it takes in a box of this width: two a line where marks are drawn under it."""
        lines = len(fold(self.answer.line, width - len(self.label)))
        return (1 + self.answer.is_read) * min(lines, self.most)

    def typed(self, width: int, label: str = "", most: int | None = None, end: int | None = None) -> list[Text]:
        """`most` lines of it, with marks under what was read of a memory; up to `end` while it is being typed."""
        done = end is None
        style = MARKS[self.right][2] if done else ""
        lines = fold(self.answer.line, width - len(label))
        shown = []
        for at, (start, text) in enumerate(lines[:most]):
            part = text[: max(end - start, 0)] if end is not None else text
            more = " …" if done and len(lines) > at + 1 == most else ""
            shown.append(styled((label, QUIET), (part, style), (more, style)))
            label = " " * len(label)
            if self.answer.is_read:
                shown.append(styled((label, ""), (self.answer.under(start, part), MARKED)))
        return shown


@dataclass(frozen=True)
class Box:
    """A titled box with one answer or several, each typed after the one before."""

    title: str
    said: tuple[Said, ...]

    def rows(self, width: int) -> int:
        """Rows within the edges of a box of this width."""
        return sum(said.rows(width - 4) for said in self.said)


@dataclass(frozen=True)
class Block:
    """One question with its boxes, and a verdict shown when all is typed."""

    example: Example
    boxes: tuple[Box, Box]
    verdict: str = ""

    @property
    def said(self) -> list[Said]:
        """The answers of both boxes."""
        return [said for box in self.boxes for said in box.said]

    @property
    def legend(self) -> list[str]:
        """The facts that were read for the answers."""
        return legend(said.answer for said in self.said)


class Drawn(NamedTuple):
    """One box at its place (row, column) on a stage, with so many rows within its edges."""

    box: Box
    place: tuple[int, int]
    width: int
    rows: int

    @property
    def end(self) -> int:
        """The row below the box."""
        return self.place[0] + self.rows + 2

    def draw(self, stage: Stage, number: int = -1, tick: int = 0) -> None:
        """The box with the first `tick` tokens of its answer of this number, and all of those before.

        With its last token an answer is marked right or wrong in the lower edge, with its time.
        """
        from rich.panel import Panel
        from rich.text import Text

        lines, marks = list[Text](), list[tuple[str, str]]()
        for at, said in enumerate(self.box.said[: number + 1]):
            done = at < number or tick >= len(said.steps) - 1
            lines += said.typed(self.width - 4, said.label, said.most, None if done else said.steps[tick])
            if done:
                mark, word, colour = MARKS[said.right]
                times = f" · {said.times}" if said.times else ""
                label = f"{said.label.strip()} " if said.label else ""
                marks += [("  " if marks else "", ""), (label, QUIET)]
                marks += [(f"{mark} {word}", f"bold {colour}"), (times, QUIET)]
        edges = [styled((self.box.title, "bold")), styled(*marks)]
        for edge in edges:
            edge.overflow = "ellipsis"
            edge.stylize_before(EDGE)
        panel = Panel(
            Text("\n", no_wrap=True).join(lines), height=self.rows + 2, border_style=LINE,
            title=edges[0], title_align="left", subtitle=edges[1] if marks else None, subtitle_align="left",
        )  # fmt: skip
        stage.show(self.place, panel, self.width)


def pair(example: Example, before: Shown, after: Shown, usual: Sequence[dict[str, Any] | None] = (None, None)) -> Block:
    """One question before and after; `usual` are medians for answers that have no times of their own."""

    def box(name: str, answer: Shown, median: dict[str, Any] | None) -> Box:
        first, rate = answer.first, answer.rate
        if first is None and median:
            first, rate = median["first_token_seconds"], median["tokens_per_second"]
        return Box(name, (Said(name, answer, is_right(example, answer), times=times(first, rate)),))

    return Block(example, (box("before", before, usual[0]), box("after", after, usual[1])))


def times(first: float | None, rate: float | None) -> str:
    """Time to the first token, and tokens a second after it, as far as they are known."""
    parts = [] if first is None else [f"first token {1000 * first:.0f} ms"]
    return " · ".join(parts + ([f"{rate:,.0f} tok/s"] if rate else []))


def pages(stage: Stage, blocks: Sequence[Block], room: int) -> list[list[Block]]:
    """The blocks as they fit on screens with `room` rows; one on each at least."""
    found: list[list[Block]] = []
    free = 0
    for block in blocks:
        # a block's place begins at 0 here, so that its end is its height; a blank line is between two
        needed = places(stage, block, 0)[1].end + len(block.legend) + bool(block.verdict) + 1
        if not found or needed > free:
            found.append([])
            free = room + 1  # the last block needs no blank line after it
        found[-1].append(block)
        free -= needed
    return found


def perform(stage: Stage, block: Block, row: int) -> int:
    """Ask the block's question at `row`, and type its answers. The next free row."""
    if not stage.drawn:
        write(stage.console, block)
        return row
    ask(stage, block.example, row)
    drawn = places(stage, block, row)
    answer(stage, drawn)
    return tell(stage, block, drawn[1].end)


def tell(stage: Stage, block: Block, row: int) -> int:
    """The facts that the answers were read from, and the verdict. The next free row."""
    told = [*((line, MARKED) for line in block.legend), *([(block.verdict, "bold")] if block.verdict else [])]
    for at, line in enumerate(told):
        stage.put(row + at, MARGIN, styled(line))
    return row + len(told)


def places(stage: Stage, block: Block, row: int) -> tuple[Drawn, Drawn]:
    """The block's boxes in their places below its question at `row`: side by side, or one below the other."""
    row += QUESTION
    beside = stage.inner >= BESIDE
    width = (stage.inner - GAP) // 2 if beside else stage.inner
    rows = [box.rows(width) for box in block.boxes]
    if beside:
        rows = [max(rows)] * 2
    second = (row, MARGIN + width + GAP) if beside else (row + rows[0] + 2, MARGIN)
    one, other = block.boxes
    return Drawn(one, (row, MARGIN), width, rows[0]), Drawn(other, second, width, rows[1])


def answer(stage: Stage, drawn: Sequence[Drawn]) -> None:
    """Draw these boxes, and type their answers at the same time."""
    for one in drawn:
        one.draw(stage)
    stage.clock.sleep(THINK)
    for number in range(max(len(one.box.said) for one in drawn)):
        for tick in range(max(len(one.box.said[number].steps) for one in drawn)):
            for one in drawn:
                one.draw(stage, number, tick)
            stage.clock.sleep(TICK)


def ask(stage: Stage, example: Example, row: int) -> None:
    """The question with the expected answer, in QUESTION rows."""
    kind = (visible(example.kind), "bold magenta")
    stage.put(row, MARGIN, styled(kind, (f" · {TITLES[example.split_kind]}", QUIET)))
    stage.put(row + 1, MARGIN, styled(("prompt    ", QUIET), (visible(normalise(example.prompt)), "bold")))
    stage.put(row + 2, MARGIN, styled(("expected  ", QUIET), (visible(normalise(example.answer)), "")))


def write(console: Console, block: Block) -> None:
    """Print the question with the expected answer, and every answer marked right or wrong."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    for name, text in (("prompt", block.example.prompt), ("expected", block.example.answer)):
        grid.add_row(name, " ", Text(visible(normalise(shorten(text, 200)))))
    width = console.width - max(len(name) for name in ("expected", *(said.name for said in block.said))) - 3
    for said in block.said:
        mark, _, colour = MARKS[said.right]
        lines = said.typed(max(width, 8)) + [styled((line, MARKED)) for line in legend([said.answer])]
        lines += [styled((said.times, "dim"))] if said.times else []
        grid.add_row(said.name, Text(mark, f"bold {colour}"), Text("\n").join(lines))
    console.print(f"\n{visible(block.example.kind)} · {TITLES[block.example.split_kind]}")
    console.print(grid)
    if block.verdict:
        console.print(block.verdict)
