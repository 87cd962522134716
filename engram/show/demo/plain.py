"""The show as text: for pipes and terminals that cannot be drawn on, and for a README."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engram.evaluation import tables
from engram.show.demo.answers import MARKED, legend
from engram.show.demo.figures import findings
from engram.show.demo.material import Material
from engram.show.demo.panels import TITLES, Block, Said
from engram.show.demo.stage import fold
from engram.support import console as show
from engram.support.text import normalise, shorten, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

MARKS = {True: ("✓", "green"), False: ("✗", "red")}


def introduce(console: Console, material: Material) -> None:
    """Model and platform, three patterns as they are taught, and how the training went."""
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


def show_block(console: Console, block: Block, title: str = "") -> None:
    """One question with the expected answer, and every answer marked right or wrong; `title` instead of its split."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    drawn, grid = console.is_terminal, Table.grid(padding=(0, 1))
    for name, text, style in (("prompt", block.example.prompt, ""), ("expected", block.example.answer, "dim")):
        grid.add_row(name, " ", Text(visible(normalise(shorten(text, 200))), style))
    names = max(len(name) for name in ("expected", *(said.name for said in block.said)))
    for said in block.said:
        mark, style = MARKS[said.right]
        width = max(console.width - names - (7 if drawn else 3), 8)
        grid.add_row(said.name, Text(mark, f"bold {style}"), _answer(said, style, width))
    heading = f"{visible(block.example.kind)} · {title or TITLES[block.example.split_kind]}"
    if drawn:
        console.print(Panel(grid, title=Text(heading), title_align="left", border_style="cyan"))
    else:
        console.print(f"\n{heading}")
        console.print(grid)
    if block.verdict:
        console.print(block.verdict)


def show_summary(comparison: dict[str, Any]) -> None:
    """The figures, the losses, and effects that were not shown."""
    tables.comparison(comparison)
    console = show.make_console()
    for finding in findings(comparison):
        console.print(f"{finding.head}: {finding.text}", style=finding.style)


def _answer(said: Said, style: str, width: int) -> Text:
    """An answer, with its own times where it was made live.

    Where it was read of a memory, its tokens are marked in lines of at most `width` columns, and the fact is named.
    """
    from rich.text import Text

    answer, times = said.answer, ""
    if answer.first is not None:
        rate = f", {answer.rate:.0f} tokens/s" if answer.rate else ""
        times = f"[{1000 * answer.first:.0f} ms to first token{rate}]"
    if not answer.is_read:
        return Text.assemble((answer.line, style), (f"  {times}" if times else "", "dim"))
    text = Text()
    for start, part in fold(answer.line, width):
        text.append(f"{part}\n", style=style)
        text.append(f"{answer.under(start, part)}\n", style=MARKED)
    text.append("\n".join(legend([answer])), style=MARKED)
    return text.append(f"\n{times}" if times else "", style="dim")
