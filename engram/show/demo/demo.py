"""The before/after show: drawn and paced on a terminal, plain text through a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from engram.backends import Loaded
from engram.show.demo import acts, figures, platforms, stage
from engram.show.demo.answers import live, refuse_other, replayed, splitter
from engram.show.demo.material import Material, load
from engram.show.demo.stage import Clock, Page, Stage, too_small
from engram.support import console as show
from engram.support.text import visible


@dataclass(frozen=True)
class Manner:
    """How a show is given: its speed (0 waits for nothing), columns (None: the terminal's), a key after each part."""

    speed: float = 1.0
    width: int | None = None
    pause: bool = False


USUAL = Manner()


def perform(
    loaded: Loaded | None, adapter: Path, data: Path, place: Path, patterns: str | None = None, manner: Manner = USUAL
) -> None:
    """The whole show of the results in `place`. `loaded` None replays the stored answers, else both answer live.

    Raises EngramError if results, data or adapter are missing, or of another model, adapter or data.
    """
    material = load(place, data, patterns)
    if loaded:
        refuse_other(loaded.model, loaded.backend, adapter, material.comparison, material.stages["tuned"])
        if (quantize := material.comparison["recipe"]["quantize"]) != loaded.quantize:
            loaded = Loaded(loaded.backend, loaded.model, quantize)
    with _stage(manner, acts.platform(material.comparison)) as staged:
        _show(staged, material, loaded, adapter)


def play(console: Console, clock: Clock, material: Material) -> None:
    """The show of the stored answers on this console and clock; as text where there is no room to draw."""
    drawn = Stage(console, clock, acts.platform(material.comparison))
    with show.printing_on(console):
        _show(Page(console) if too_small(console) else drawn, material)


def perform_platforms(names: list[str], folder: Path, manner: Manner) -> None:
    """The stored results of two folders in `folder` side by side; see `platforms.load` for what is refused."""
    both = platforms.load(names, folder)
    with _stage(manner, visible(" | ".join(names))) as staged:
        platforms.perform(staged, both, splitter(both.runs[0].comparison["model"]["name"]))


def _show(stage: Stage, material: Material, loaded: Loaded | None = None, adapter: Path = Path()) -> None:
    """The sections one after the other; with a model in memory both answer live when it is their turn."""
    comparison = material.comparison
    split = splitter(comparison["model"]["name"])
    acts.title(stage, material, live=loaded is not None)
    acts.taught(stage, material)
    acts.training(stage, material)
    if loaded:
        limit = comparison["scoring"]["max_new_tokens"]
        told = "both models answer now: {} of {}"
        given = live(material.rows, loaded, adapter, limit, lambda *done: stage.foot(told.format(*done)))
    else:
        given = replayed(material.rows, material.stages, split)
    acts.pairs(stage, material, given, live=loaded is not None)
    if material.erased:
        acts.erased(stage, material.erased, split)
    figures.perform(stage, comparison)
    acts.not_shown(stage, material, given, live=loaded is not None)


@contextmanager
def _stage(manner: Manner, platform: str) -> Iterator[Stage]:
    """A stage on the terminal, with the cursor hidden until the end; a page of text where nothing can be drawn."""
    console = show.make_console()
    if manner.width is not None:  # no wider than the terminal
        console.width = min(manner.width, console.width) if console.is_terminal else manner.width
    drawn = console.is_terminal and (manner.speed > 0 or manner.pause)
    if drawn and (reason := too_small(console)):
        console, drawn = show.make_console(console.width), False
        console.print(f"{reason}; as text:")
    wait = stage.wait if manner.pause else None
    with show.printing_on(console):
        if not drawn:
            yield Page(console, wait)
            return
        staged = Stage(console, Clock(manner.speed), platform, wait)
        console.file.write("\n" * (staged.height - 1))  # what is shown scrolls away, so that clearing loses none of it
        console.show_cursor(False)
        try:
            yield staged
        finally:
            console.control(Control.move_to(0, staged.height - 1), Control((ControlType.ERASE_IN_LINE, 2)))
            console.show_cursor(True)
