"""The show as text: for pipes and terminals that cannot be drawn on, and for a README."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engram.evaluation import tables
from engram.show.demo import answers
from engram.show.demo.answers import Shown, is_right
from engram.show.demo.figures import findings
from engram.show.demo.material import Material
from engram.show.demo.panels import TITLES
from engram.show.demo.stage import fold
from engram.support import console as show
from engram.support.text import normalise, shorten, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from engram.dataset.rows import Example

MARKS = {True: ("✓", "green"), False: ("✗", "red")}
Line = tuple[str, "Text", "Text"]  # name, mark, text


def introduce(console: Console, material: Material) -> None:
    """What runs where, three patterns as they are taught, and how the training went."""
    comparison, counts = material.comparison, material.counts
    model = comparison["model"]
    console.rule("engram: patterns taught to a small language model", characters="─" if console.is_terminal else "-")
    size = f"{model['parameters'] / 1e6:.1f} M parameters"
    device = visible(comparison["device"])
    console.print(f"model {visible(model['name'])} ({size}) · backend {comparison['backend']} · {device}")
    how = material.method.words
    console.print(f"{counts['taught']} patterns taught with {how}, {counts['held_out']} held out and never taught")
    console.print("\nWhat is taught", style="bold")
    for lesson in material.lessons:
        console.print(f"  {visible(lesson.place)}", style="dim")
        for line in lesson.lines or (f"{shorten(lesson.question, 52)} → {shorten(lesson.answer, 38)}",):
            console.print(f"    {visible(line)}")
    if material.missing:
        console.print(f"  ({visible(material.missing)})", style="dim")
    if material.log:
        summary, losses = material.log["summary"], [step["loss"] for step in material.log["steps"]]
        took = f"{summary['steps']} steps in {summary['train_seconds']:.0f} s"
        console.print(f"  loss {losses[0]:.2f} {show.sparkline(losses)} {losses[-1]:.2f}  {took}")


def show_pair(console: Console, example: Example, before: Shown, after: Shown) -> None:
    """One prompt with the expected answer, and the two answers marked right or wrong."""
    rows = question(example)
    for name, answer in (("before", before), ("after", after)):
        rows += answer_lines(name, answer, is_right(example, answer), text_width(console))
    print_box(console, f"{visible(example.kind)} · {TITLES[example.split_kind]}", rows)


def show_summary(comparison: dict[str, Any]) -> None:
    """The figures, what was lost, and what was not shown."""
    tables.comparison(comparison)
    console = show.make_console()
    for finding in findings(comparison):
        console.print(f"{finding.head}: {finding.text}", style=finding.style)


def question(example: Example) -> list[Line]:
    """The lines of a prompt and the expected answer."""
    return [_line("prompt", example.prompt), _line("expected", example.answer, style="dim")]


def answer_lines(name: str, answer: Shown, right: bool | None, width: int) -> list[Line]:
    """One answer's line, marked where it is known to be right or wrong, with its own times where it was made live.

    Where it was read of a memory, its tokens are marked in lines of at most `width` columns, and the fact is named.
    """
    from rich.text import Text

    mark, style = MARKS[right] if right is not None else (" ", "")
    times = ""
    if answer.first is not None:
        rate = f", {answer.rate:.0f} tokens/s" if answer.rate else ""
        times = f"  [{1000 * answer.first:.0f} ms to first token{rate}]"
    head = Text(mark, style=f"bold {style}".strip())
    if not answers.is_read(answer):
        return [(name, head, Text.assemble((answer.line, style), (times, "dim")))]
    text = Text()
    for start, part in fold(answer.line, width):
        text.append(f"{part}\n", style=style)
        text.append(f"{answers.under(answer, start, part)}\n", style=answers.STYLE)
    text.append("\n".join(answers.legend([answer])), style=answers.STYLE)
    return [(name, head, text.append(f"\n{times.strip()}" if times else "", style="dim"))]


def text_width(console: Console) -> int:
    """Columns of what stands behind name and mark in a box."""
    return max(console.width - (15 if console.is_terminal else 11), 8)


def print_box(console: Console, title: str, rows: Sequence[Line]) -> None:
    """Rows under a title: in a box on a terminal, indented through a pipe."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    for row in rows:
        grid.add_row(*row)
    if console.is_terminal:
        console.print(Panel(grid, title=Text(title), title_align="left", border_style="cyan"))
    else:
        console.print(f"\n{title}")
        console.print(grid)


def _line(name: str, text: str, style: str = "") -> Line:
    from rich.text import Text

    return name, Text(" "), Text(visible(normalise(shorten(text, 200))), style=style)
