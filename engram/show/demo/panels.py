"""Questions and their answers, as a description; drawn as two boxes in which the answers are typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engram.dataset.rows import Example
from engram.show.demo.answers import MARKED, Shown, is_right, legend
from engram.show.demo.stage import LINE, MARGIN, QUIET, Stage, fold, styled
from engram.support.text import normalise, visible

if TYPE_CHECKING:
    from rich.text import Text

BESIDE = 92  # columns within the margins from which two boxes are drawn side by side
GAP = 2
QUESTION = 3  # rows
MOST, MOST_READ = 4, 3  # lines of one answer, and of one with marks under each
TICK = 0.06  # seconds a token
THINK = 0.5  # seconds between a question and its answers
TITLES = {"recall": "taught, asked in words never trained on", "generalization": "held out, never taught"}
MARKS = {True: ("✓ right", "bold green"), False: ("✗ wrong", "bold red")}


@dataclass(frozen=True)
class Said:
    """One answer: its name in a text, its label in a box, whether it is the expected one, and how long it took."""

    name: str
    answer: Shown
    right: bool
    label: str = ""
    times: str = ""


@dataclass(frozen=True)
class Box:
    """A titled box with one answer or several, each typed after the one before."""

    title: str
    said: tuple[Said, ...]


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
        needed = height(stage, block) + 1
        if not found or needed > free:
            found.append([])
            free = room + 1  # the last block needs no blank line after it
        found[-1].append(block)
        free -= needed
    return found


def height(stage: Stage, block: Block) -> int:
    """Rows that a block takes."""
    rows = [_rows(box, _width(stage)) + 2 for box in block.boxes]
    return QUESTION + (max(rows) if _beside(stage) else sum(rows)) + len(block.legend) + bool(block.verdict)


def perform(stage: Stage, block: Block, row: int) -> int:
    """Ask the block's question at `row`, and type its answers. The next free row."""
    ask(stage, block.example, row)
    drawn = places(stage, block, row)
    answer(stage, drawn)
    end = marks(stage, block, drawn[1].end)
    if block.verdict:
        stage.put(end, MARGIN, styled((block.verdict, "bold")))
    return end + bool(block.verdict)


def marks(stage: Stage, block: Block, row: int) -> int:
    """The facts that the answers were read from. The next free row."""
    for line in block.legend:
        stage.put(row, MARGIN, styled((line, MARKED)))
        row += 1
    return row


def places(stage: Stage, block: Block, row: int) -> tuple[Drawn, Drawn]:
    """The block's boxes in their places below its question at `row`: side by side, or one below the other."""
    row += QUESTION
    width, beside = _width(stage), _beside(stage)
    rows = [_rows(box, width) for box in block.boxes]
    if beside:
        rows = [max(rows)] * 2
    second = (row, MARGIN + width + GAP) if beside else (row + rows[0] + 2, MARGIN)
    one, other = block.boxes
    return Drawn(stage, one, (row, MARGIN), width, rows[0]), Drawn(stage, other, second, width, rows[1])


def answer(stage: Stage, drawn: Sequence[Drawn]) -> None:
    """Draw these boxes, and type their answers at the same time."""
    for one in drawn:
        one.frame()
    stage.clock.sleep(THINK)
    for number in range(max(len(one.box.said) for one in drawn)):
        ticks = max(len(_steps(one.box.said[number].answer)) for one in drawn)
        for tick in range(ticks):
            for one in drawn:
                one.type(number, tick)
            stage.clock.sleep(TICK)


def ask(stage: Stage, example: Example, row: int) -> None:
    """The question with the expected answer, in QUESTION rows."""
    kind = (visible(example.kind), "bold magenta")
    stage.put(row, MARGIN, styled(kind, (f" · {TITLES[example.split_kind]}", QUIET)))
    stage.put(row + 1, MARGIN, styled(("prompt    ", QUIET), (visible(normalise(example.prompt)), "bold")))
    stage.put(row + 2, MARGIN, styled(("expected  ", QUIET), (visible(normalise(example.answer)), "")))


class Drawn:
    """One box at its place."""

    def __init__(self, stage: Stage, box: Box, place: tuple[int, int], width: int, rows: int) -> None:
        self.stage, self.box, self.rows, self.inner = stage, box, rows, width - 4
        self.row, self.column = place

    @property
    def end(self) -> int:
        """The row below the box."""
        return self.row + self.rows + 2

    def frame(self) -> None:
        """The empty box."""
        self._edge(0, "╭", "╮", [(f" {self.box.title} ", "bold")])
        for at in range(self.rows):
            self._line(at, styled((" " * self.inner, "")))
        self._edge(self.rows + 1, "╰", "╯", [])

    def type(self, number: int, tick: int) -> None:
        """The first `tick` tokens of its answer of this number; with the last one it is marked right or wrong."""
        said = self.box.said[number]
        answer, steps = said.answer, _steps(said.answer)
        done = tick >= len(steps) - 1
        end = len(answer.line) if done else steps[tick]
        row = sum(_lines_of(one, self.inner) for one in self.box.said[:number])
        style = MARKS[said.right][1].removeprefix("bold ") if done else ""
        most, high = _most(answer)
        label, lines = said.label, fold(answer.line, self.inner - len(said.label))
        for at, (start, text) in enumerate(lines[:most]):
            typed = text[: max(end - start, 0)]
            more = " …" if done and at == most - 1 and len(lines) > most else ""
            self._line(row, styled((label, QUIET), (typed, style), (more, style)))
            label = " " * len(label)
            if high > 1:
                self._line(row + 1, styled((label, ""), (answer.under(start, typed), MARKED)))
            row += high
        if done:
            self._mark(number)

    def _mark(self, number: int) -> None:
        """Right or wrong in the lower edge, and the time."""
        marks: list[tuple[str, str]] = []
        for said in self.box.said[: number + 1]:
            label, times = (f"{said.label.strip()} " if said.label else ""), (f" · {said.times}" if said.times else "")
            marks += [(f" {label}", QUIET), MARKS[said.right], (times, QUIET), (" ", "")]
        self._edge(self.rows + 1, "╰", "╯", marks)

    def _edge(self, row: int, left: str, right: str, parts: list[tuple[str, str]]) -> None:
        text = styled(*parts)
        text.truncate(self.inner, overflow="ellipsis")
        rest = "─" * (self.inner + 1 - text.cell_len)
        self.stage.put(self.row + row, self.column, styled((left + "─", LINE)) + text + styled((rest + right, LINE)))

    def _line(self, row: int, text: Text) -> None:
        text.truncate(self.inner, overflow="ellipsis", pad=True)
        self.stage.put(self.row + 1 + row, self.column, styled(("│ ", LINE)) + text + styled((" │", LINE)))


def _beside(stage: Stage) -> bool:
    return stage.inner >= BESIDE


def _width(stage: Stage) -> int:
    return (stage.inner - GAP) // 2 if _beside(stage) else stage.inner


def _rows(box: Box, width: int) -> int:
    return sum(_lines_of(said, width - 4) for said in box.said)


def _lines_of(said: Said, width: int) -> int:
    most, high = _most(said.answer)
    return high * min(len(fold(said.answer.line, width - len(said.label))), most)


def _most(answer: Shown) -> tuple[int, int]:
    """The lines shown of an answer, and the rows that each takes: two where marks are drawn under it."""
    return (MOST_READ, 2) if answer.is_read else (MOST, 1)


def _steps(answer: Shown) -> tuple[int, ...]:
    return answer.steps or (len(answer.line),)
