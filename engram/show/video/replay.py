"""The demo as a show to record: the stored answers and figures of one backend, in its own sections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engram.evaluation import compare
from engram.show.demo import demo
from engram.show.demo.material import load
from engram.support.text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from engram.show.clock import Clock
    from engram.show.video.record import Show


def replay(backend: str, data: Path, results: Path, patterns: str | None = None) -> Show:
    """`engram demo --quick` for `record`; it raises EngramError where results or data are missing."""
    material = load(results / backend, data, patterns)

    def perform(console: Console, clock: Clock) -> None:
        demo.play(console, clock, material)

    return perform


def caption(backend: str, results: Path) -> str:
    """What ran where, for a window's title: `engram · mlx · CPU (x86_64, OpenBLAS)`."""
    document = compare.stored(results / backend)
    return visible(f"engram · {document['backend']} · {document['device']}")
