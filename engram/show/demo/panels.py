"""Answers typed token by token in two boxes, side by side where there is room, else one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engram.show.demo import answers
from engram.show.demo.answers import Shown, is_right
from engram.show.demo.stage import LINE, MARGIN, QUIET, Stage, fold
from engram.support.text import normalise, visible

if TYPE_CHECKING:
    from rich.text import Text

    from engram.dataset.rows import Example

BESIDE = 92  # columns within the margins from which two boxes stand side by side
GAP = 2
QUESTION = 3  # rows
MOST, MOST_READ = 4, 3  # lines of one answer, and of one with marks under each
TICK = 0.06  # seconds a token
THINK = 0.5  # seconds between a question and its answers
TITLES = {"recall": "taught, asked in words never trained on", "generalization": "held out, never taught"}
MARKS = {True: ("✓ right", "bold green"), False: ("✗ wrong", "bold red")}


@dataclass(frozen=True)
class Said:
    """One answer in a box: what stands before it, the answer, whether it is the expected one, and how long it took."""

    label: str
    answer: Shown
    right: bool
    times: str = ""


@dataclass(frozen=True)
class Box:
    """A titled box with one answer or several, each typed after the one before."""

    title: str
    said: tuple[Said, ...]


@dataclass(frozen=True)
class Block:
    """One question with its boxes, and what is to be said when all is typed."""

    example: Example
    boxes: tuple[Box, Box]
    verdict: str = ""


def pair(
    example: Example,
    before: Shown,
    after: Shown,
    usual_before: dict[str, Any] | None = None,
    usual_after: dict[str, Any] | None = None,
) -> Block:
    """The block of one question before and after; `usual` are medians for an answer that has no time of its own."""

    def box(name: str, answer: Shown, usual: dict[str, Any] | None) -> Box:
        said = Said("", answer, is_right(example, answer), times(answer.first, answer.rate))
        if answer.first is None and usual:
            said = replace(said, times=times(usual["first_token_seconds"], usual["tokens_per_second"]))
        return Box(name, (said,))

    return Block(example, (box("before", before, usual_before), box("after", after, usual_after)))


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
    return QUESTION + (max(rows) if _beside(stage) else sum(rows)) + len(_legend(block)) + bool(block.verdict)


def perform(stage: Stage, block: Block, row: int) -> int:
    """Ask the block's question at `row`, and type its answers. The next free row."""
    from rich.text import Text

    ask(stage, block.example, row)
    drawn = places(stage, block, row)
    answer(stage, drawn)
    end = drawn[1].end
    for line in _legend(block):
        stage.put(end, MARGIN, Text(line, answers.STYLE))
        end += 1
    if block.verdict:
        stage.put(end, MARGIN, Text(block.verdict, "bold"))
    return end + bool(block.verdict)


def places(stage: Stage, block: Block, row: int) -> tuple[Drawn, Drawn]:
    """The block's boxes where they stand, below its question at `row`: side by side, or one below the other."""
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
    from rich.text import Text

    kind = visible(example.kind)
    heading = Text.assemble((kind, "bold magenta"), (f" · {TITLES[example.split_kind]}", QUIET))
    stage.put(row, MARGIN, heading)
    for at, (name, text) in enumerate((("prompt    ", example.prompt), ("expected  ", example.answer)), start=1):
        style = "bold" if at == 1 else ""
        line = Text.assemble((name, QUIET), (visible(normalise(text)), style))
        stage.put(row + at, MARGIN, line)


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
        from rich.text import Text

        self._edge(0, "╭", "╮", [(f" {self.box.title} ", "bold")])
        for at in range(self.rows):
            self._line(at, Text(" " * self.inner))
        self._edge(self.rows + 1, "╰", "╯", [])

    def type(self, number: int, tick: int) -> None:
        """So many tokens of its answer of this number; with the last one it is marked."""
        from rich.text import Text

        said = self.box.said[number]
        steps = _steps(said.answer)
        whole, done = said.answer.line, tick >= len(steps) - 1
        end = len(whole) if done else steps[tick]
        top = sum(_lines_of(one, self.inner) for one in self.box.said[:number])
        style = MARKS[said.right][1].removeprefix("bold ") if done else ""
        lines = fold(whole, self.inner - len(said.label))
        most, high = _most(said.answer)
        for at, (start, text) in enumerate(lines[:most]):
            label = said.label if not at else " " * len(said.label)
            typed = text[: max(end - start, 0)]
            shown = Text.assemble((label, QUIET), (typed, style))
            if done and at == most - 1 and len(lines) > most:
                shown.append(" …", style)
            self._line(top + high * at, shown)
            if high > 1:
                marks = answers.under(said.answer, start, typed)
                self._line(top + high * at + 1, Text.assemble(" " * len(label), (marks, answers.STYLE)))
        if done:
            self._mark(number)

    def _mark(self, number: int) -> None:
        """Right or wrong in the lower edge, and the time."""
        marks: list[tuple[str, str]] = []
        for said in self.box.said[: number + 1]:
            text, style = MARKS[said.right]
            label = f"{said.label.strip()} " if said.label else ""
            marks += [(f" {label}", QUIET), (text, style)]
            if said.times:
                marks.append((f" · {said.times}", QUIET))
            marks.append((" ", ""))
        self._edge(self.rows + 1, "╰", "╯", marks)

    def _edge(self, row: int, left: str, right: str, parts: list[tuple[str, str]]) -> None:
        from rich.text import Text

        text = Text.assemble(*parts)
        text.truncate(self.inner, overflow="ellipsis")
        rest = "─" * (self.inner + 1 - text.cell_len)
        edge = Text.assemble((left + "─", LINE), text, (rest + right, LINE))
        self.stage.put(self.row + row, self.column, edge)

    def _line(self, row: int, text: Text) -> None:
        from rich.text import Text as Line

        text.truncate(self.inner, overflow="ellipsis", pad=True)
        self.stage.put(self.row + 1 + row, self.column, Line.assemble(("│ ", LINE), text, (" │", LINE)))


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
    """How many lines of an answer are shown, and how many rows each takes: one more where marks stand under it."""
    return (MOST_READ, 2) if answers.is_read(answer) else (MOST, 1)


def _legend(block: Block) -> list[str]:
    return answers.legend(said.answer for box in block.boxes for said in box.said)


def _steps(answer: Shown) -> tuple[int, ...]:
    return answer.steps or (len(answer.line),)
