"""The demo as a show to record: the stored answers and figures of one backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engram import compare, demo, show
from engram.text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from engram.clock import Clock
    from engram.video.record import Show

HOLD = 3.0  # seconds that each part stands, so that it can be read
END = 5.0  # and the last screen


def replay(backend: str, data: Path, results: Path) -> Show:
    """`engram demo --quick` for `record`; it raises EngramError where results or data are missing."""

    def perform(console: Console, clock: Clock) -> None:
        with show.printing_on(console):
            demo.perform(backend, None, Path(), data, results / backend, clock=clock, hold=HOLD)
        clock.sleep(END)

    return perform


def caption(backend: str, results: Path) -> str:
    """What ran where, for a window's title: `engram · mlx · CPU (x86_64, OpenBLAS)`."""
    document = compare.stored(results / backend)
    return visible(f"engram · {document['backend']} · {document['device']}")
