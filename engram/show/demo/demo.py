"""The before/after show: drawn and paced on a terminal, plain text through a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.backends import Loaded
from engram.evaluation import erase
from engram.memory.table import is_memory
from engram.show.demo import acts, erased, figures, platforms, stage
from engram.show.demo.answers import Shown, live, refuse_other, replayed, splitter
from engram.show.demo.material import Material, asked, load
from engram.show.demo.stage import Clock, Page, Stage, too_small
from engram.support import console as show

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Manner:
    """How a show is given: its speed (0 waits for nothing), columns (None: the terminal's), a key after each part."""

    speed: float = 1.0
    width: int | None = None
    pause: bool = False


@dataclass(frozen=True)
class Speakers:
    """Both models of a run: with a model in memory they answer live, without they replay the stored answers."""

    material: Material
    loaded: Loaded | None = None
    adapter: Path = Path()

    def answers(self, report: Callable[[int, int], None] = lambda _done, _of: None) -> list[tuple[Shown, Shown]]:
        """The answers to the show's rows; `report` hears how many of how many are made."""
        shown = self.material
        if self.loaded is None:
            return replayed(shown.rows, shown.stages, splitter(shown.comparison["model"]["name"]))
        return live(shown.rows, self.loaded, self.adapter, shown.comparison["scoring"]["max_new_tokens"], report)

    def erased(self) -> dict[str, Any] | None:
        """The effect of erasing a fact, stored or measured now; None without a memory, or where it cannot be had."""
        if self.loaded is None or not is_memory(self.adapter):
            return self.material.erased
        example = erase.choose(asked(self.material.stages["tuned"]), self.material.comparison["recipe"]["seed"])
        if example is None or erase.missing(self.adapter, example):
            return None
        limit = self.material.comparison["scoring"]["max_new_tokens"]
        return erase.measure(self.loaded, self.adapter, example, limit)


def perform(
    loaded: Loaded | None,
    adapter: Path,
    data: Path,
    place: Path,
    manner: Manner | None = None,
    patterns: str | None = None,
) -> None:
    """The whole show of the results in `place`. `loaded` None replays the stored answers, else both answer live.

    Raises EngramError if results, data or adapter are missing, or of another model, adapter or data.
    """
    manner = manner or Manner()
    material = load(place, data, patterns)
    if loaded:
        refuse_other(loaded.model, loaded.backend, adapter, material.comparison, material.stages["tuned"])
        if (quantize := material.comparison["recipe"]["quantize"]) != loaded.quantize:
            loaded = Loaded(loaded.backend, loaded.model, quantize)
    with _stage(manner, acts.platform(material.comparison)) as staged:
        _show(staged, Speakers(material, loaded, adapter))


def play(console: Console, clock: Clock, material: Material) -> None:
    """The show of the stored answers on this console and clock; as text where there is no room to draw."""
    with show.printing_on(console):
        platform = acts.platform(material.comparison)
        _show(Page(console) if too_small(console) else Stage(console, clock, platform), Speakers(material))


def perform_platforms(names: list[str], folder: Path, manner: Manner) -> None:
    """The stored results of two folders in `folder` side by side; see `platforms.load` for what is refused."""
    both = platforms.load(names, folder)
    with _stage(manner, platforms.caption(both)) as staged:
        platforms.perform(staged, both, splitter(both.runs[0].comparison["model"]["name"]))


def _show(stage: Stage, speakers: Speakers) -> None:
    """The sections one after the other; what answers or is erased live is computed when it is its turn."""
    material, is_live = speakers.material, speakers.loaded is not None
    acts.title(stage, material, is_live)
    acts.taught(stage, material)
    acts.training(stage, material)
    acts.pairs(stage, material, speakers.answers(lambda done, of: acts.report(stage, done, of)), is_live)
    if document := speakers.erased():
        erased.perform(stage, document, splitter(material.comparison["model"]["name"]))
    figures.perform(stage, material.comparison)
    acts.not_shown(stage, material)


@contextmanager
def _stage(manner: Manner, platform: str) -> Iterator[Stage]:
    """A stage on the terminal, with the cursor hidden until the end; a page of text where nothing can be drawn."""
    console = show.make_console()
    if manner.width is not None:  # no wider than the terminal
        console.width = min(manner.width, console.width) if console.is_terminal else manner.width
    drawn = console.is_terminal and (manner.speed > 0 or manner.pause)
    if drawn and (reason := too_small(console)):
        console, drawn = show.make_plain_console(console.width), False
        console.print(f"{reason}; as text:")
    wait = stage.wait if manner.pause else None
    with show.printing_on(console):
        if not drawn:
            yield Page(console, wait)
            return
        staged = Stage(console, Clock(manner.speed), platform, wait)
        with staged.performed():
            yield staged
