"""Answers while they are made: boxes that grow together on a terminal, one after the other as text elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from engram.show.ask_side import Side
from engram.show.demo import keys
from engram.show.demo.panels import BESIDE
from engram.show.demo.stage import LINE, QUIET, WIDEST, too_small

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

HEAD = 10  # columns of a name before a text
NOTHING = "(nothing)"
FRAMES = 15  # a second


def drawn(console: Console) -> bool:
    """Whether boxes can be drawn: on a terminal that is not dumb and not too small for the show."""
    return console.is_terminal and not too_small(console)


def answer(console: Console, sides: Sequence[Side], question: str) -> None:
    """Let every side answer, and show it; an interrupt leaves what was said on the screen, marked as stopped."""
    with keys.unseen(), contextlib.ExitStack() as closing:
        streams = [closing.enter_context(contextlib.closing(side.answer(question))) for side in sides]
        if drawn(console):
            _grow(console, sides, streams)
        else:
            for side, stream in zip(sides, streams, strict=True):
                _write(console, side, stream)


def line(console: Console, name: str, text: str) -> None:
    """A name and what belongs to it, as an answer is shown in text."""
    console.file.write(f"{name:<{HEAD}}{text}\n")
    console.file.flush()


def _grow(console: Console, sides: Sequence[Side], streams: Sequence[Iterator[None]]) -> None:
    """A token of each side in turn, in boxes."""
    from rich.live import Live

    for side in sides:
        side.text, side.mark = "", ""
    with Live(_boxes(console, sides), console=console, refresh_per_second=FRAMES) as live:
        try:
            waiting = list(streams)
            while waiting:
                waiting = [stream for stream in waiting if next(stream, waiting) is not waiting]
                live.update(_boxes(console, sides))
        finally:
            live.update(_boxes(console, sides))


def _boxes(console: Console, sides: Sequence[Side]) -> RenderableType:
    """The answers side by side where there is room, else one below the other."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    width = min(console.width, WIDEST)
    beside = width >= BESIDE and len(sides) > 1
    grid = Table.grid(padding=(0, 1), pad_edge=False)
    for _ in sides if beside else sides[:1]:
        grid.add_column(width=(width - 1) // 2 if beside else width)
    boxes = [
        Panel(
            Text.assemble("\n".join(side.lines()), (side.mark, QUIET)),
            title=Text(side.name, "bold"),
            title_align="left",
            border_style=LINE,
        )
        for side in sides
    ]
    for row in [boxes] if beside else [[box] for box in boxes]:
        grid.add_row(*row)
    return grid


def _write(console: Console, side: Side, stream: Iterator[None]) -> None:
    """One side's answer as text, each piece as it comes, further lines indented so that none looks like a name."""
    written = 0
    console.file.write(f"{side.name:<{HEAD}}")

    def more() -> None:
        nonlocal written
        text = ("\n" + " " * HEAD).join(side.lines())
        console.file.write(text[written:])
        console.file.flush()
        written = max(written, len(text))

    try:
        for _ in stream:
            more()
    finally:
        more()
        console.file.write(("" if written else NOTHING) + side.mark + "\n")
        console.file.flush()
