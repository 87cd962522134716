"""The before/after show: drawn and paced on a terminal, plain text through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engram.evaluation import erase
from engram.memory.table import is_memory
from engram.models.model import Model
from engram.plan.config import Config
from engram.show.clock import Clock, PacedClock, RealClock
from engram.show.demo import acts, erased, plain, platforms
from engram.show.demo import stage as keys
from engram.show.demo.answers import Shown, Splitter, live, refuse_other, replayed, splitter
from engram.show.demo.material import Material, asked, choose_rows, load
from engram.show.demo.plain import show_pair, show_summary
from engram.show.demo.stage import Stage, too_small
from engram.support import console as show

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Manner",
    "asked",
    "choose_rows",
    "load",
    "perform",
    "perform_platforms",
    "play",
    "replayed",
    "show_pair",
    "show_summary",
]  # fmt: skip


@dataclass(frozen=True)
class Manner:
    """How a show is given: its speed (0 waits for nothing), columns (None: the terminal's), a key after each part."""

    speed: float = 1.0
    width: int | None = None
    pause: bool = False


def perform(
    backend: str,
    model: Model | None,
    adapter: Path,
    data: Path,
    place: Path,
    manner: Manner | None = None,
    patterns: str | None = None,
) -> None:
    """The whole show of the results in `place`. `model` None replays the stored answers, else both answer live.

    Raises EngramError where results, data or adapter are missing, or of another model, adapter or data.
    """
    manner = manner or Manner()
    material = load(place, data, patterns)
    if model:
        refuse_other(model, backend, adapter, material.comparison, material.stages["tuned"])
    with _curtain(manner) as (console, staged):
        if staged is None:
            _as_text(console, material, backend, model, adapter, manner)
        else:
            staged.platform = acts.platform(material.comparison)
            given = _answers(material, backend, model, adapter), _erased(material, backend, model, adapter)
            acts.perform(staged, material, *given, model is not None, _split(material))


def play(console: Console, clock: Clock, material: Material) -> None:
    """The show of the stored answers on this console and clock; as text where there is no room to draw."""
    if too_small(console):
        with show.printing_on(console):
            _as_text(console, material, "", None, Path(), Manner())
        return
    stage = Stage(console, clock, acts.platform(material.comparison))
    given = _answers(material, "", None, Path()), _erased(material, "", None, Path())
    acts.perform(stage, material, *given, live=False, split=_split(material))


def perform_platforms(names: list[str], folder: Path, manner: Manner) -> None:
    """The stored results of two folders in `folder` side by side; see `platforms.load` for what is refused."""
    both = platforms.load(names, folder)
    with _curtain(manner) as (console, staged):
        if staged is None:
            platforms.print_plain(console, both)
        else:
            staged.platform = platforms.caption(both)
            platforms.perform(staged, both, splitter(both.runs[0].comparison["model"]["name"]))


def _answers(material: Material, backend: str, model: Model | None, adapter: Path) -> acts.Answers:
    if model is None:
        return lambda _: replayed(material.rows, material.stages, _split(material))
    return lambda report: live(material.rows, backend, model, adapter, _config(material), report)


def _erased(material: Material, backend: str, model: Model | None, adapter: Path) -> acts.Erased:
    """What erasing a fact does, stored or measured now; None where there is no memory, or it cannot be measured."""
    if model is None or not is_memory(adapter):
        return lambda: material.erased
    example = erase.choose(asked(material.stages["tuned"]), material.comparison["recipe"]["seed"])
    if example is None or erase.missing(adapter, example):
        return lambda: None
    return lambda: erase.measure(backend, model, adapter, example, _config(material))


def _config(material: Material) -> Config:
    comparison = material.comparison
    limit, quantize = comparison["scoring"]["max_new_tokens"], comparison["recipe"].get("quantize", "none")
    return Config(max_new_tokens=limit, quantize=quantize)


def _split(material: Material) -> Splitter:
    return splitter(material.comparison["model"]["name"])


def _as_text(
    console: Console, material: Material, backend: str, model: Model | None, adapter: Path, manner: Manner
) -> None:
    plain.introduce(console, material)
    _turn(manner)
    given: list[tuple[Shown, Shown]] = _answers(material, backend, model, adapter)(lambda _done, _of: None)
    for example, (before, after) in zip(material.rows, given, strict=True):
        show_pair(console, example, before, after)
        _turn(manner)
    if document := _erased(material, backend, model, adapter)():
        erased.show(console, document)
        _turn(manner)
    console.print()
    show_summary(material.comparison)


def _turn(manner: Manner) -> None:
    if manner.pause and sys.stdin.isatty():
        keys.wait()


def _console(manner: Manner) -> Console:
    """The usual console, as wide as asked for; no wider than a terminal is."""
    console = show.make_console()
    if manner.width is not None:
        console.width = min(manner.width, console.width) if console.is_terminal else manner.width
    return console


@contextmanager
def _curtain(manner: Manner) -> Iterator[tuple[Console, Stage | None]]:
    """The console, and a stage on it with the cursor hidden until the end; None where the show is text."""
    console = _console(manner)
    drawn = console.is_terminal and (manner.speed > 0 or manner.pause)
    reason = too_small(console) if drawn else ""
    if reason:
        console = show.make_plain_console(console.width)
        console.print(f"{reason}; as text:")
    with show.printing_on(console):
        if not drawn or reason:
            yield console, None
            return
        stage = Stage(console, PacedClock(RealClock(), manner.speed), "", keys.wait if manner.pause else None)
        console.show_cursor(False)
        try:
            yield console, stage
        except BaseException:
            stage.close()
            raise
        finally:
            console.show_cursor(True)
