"""The marks of what was read of a memory: a line under an answer, and one that names the fact."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from engram.support.text import normalise, visible

if TYPE_CHECKING:
    from engram.memory.facts import Fact
    from engram.show.demo.answers import Shown

MARKS, UNDER = "◆●", "─"  # at a token's first character: the first fact's, that of any other; and under its rest
STYLE = "bold yellow"


def is_read(answer: Shown) -> bool:
    """Whether any token of what is shown was read from a row."""
    return any(answer.read)


def under(answer: Shown, start: int, text: str) -> str:
    """What stands under a part of the answer's line that begins at `start`: a cell for each of the text's cells.

    A mark and a line under each token that was read from a row, blanks under every other.
    """
    from rich.cells import cell_len

    marks = _marks(answer)
    found = []
    for mark, character in zip(marks[start:].ljust(len(text)), text):
        wide = cell_len(character)
        found.append((mark + (" " if mark == " " else UNDER) * (wide - 1))[:wide])
    return "".join(found)


def facts(answers: Iterable[Shown]) -> list[Fact]:
    """The facts that were read for these answers, each once."""
    return list(dict.fromkeys(fact for answer in answers for fact in answer.read if fact))


def legend(answers: Iterable[Shown]) -> list[str]:
    """A line for each fact that was read: at most one for each mark."""
    found = facts(answers)
    lines = [f"{mark} read from: {shown(fact)}" for mark, fact in zip(MARKS, found)]
    if len(found) > len(MARKS):
        lines[-1] += f", and {len(found) - len(MARKS)} more"
    return lines


def shown(fact: Fact) -> str:
    """A fact on one line that cannot drive a terminal."""
    return f"{visible(normalise(fact.input))} → {visible(normalise(fact.output))}"


def _marks(answer: Shown) -> str:
    """A mark, a line or a blank for each character of the answer."""
    line, known = answer.line, facts([answer])
    found = [" "] * len(line)
    for begin, end, fact in zip((0, *answer.steps), answer.steps, answer.read):
        if fact is not None and end > begin:
            blanks = len(line[begin:end]) - len(line[begin:end].lstrip())
            first = begin + (blanks if blanks < end - begin else 0)
            found[first:end] = [MARKS[min(known.index(fact), 1)], *UNDER * (end - first - 1)]
    return "".join(found)
