"""Questions of one's own: the base model and the tuned one answer side by side, token by token."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from engram.models.model import Model
from engram.show import ask_view
from engram.show.ask_side import Settings, Side, make_room, remember, start_over
from engram.show.demo.answers import speaker
from engram.support import console as show
from engram.support.errors import EngramError
from engram.support.text import visible

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Settings", "Side", "each", "once", "open_sides", "talk"]

PROMPT = "> "
NEW, QUIT = "/new", "/quit"
HELP = f"{NEW} starts over, {QUIT} or Ctrl-D leaves, Ctrl-C stops an answer. Nothing of this is kept."


def open_sides(
    backend: str, model: Model, adapters: dict[str, Path | None], settings: Settings, quantize: str = "none"
) -> list[Side]:
    """The models that answer, in memory: a name for each, and its adapter, if any."""
    return [Side(name, speaker(backend, model, one, quantize), settings) for name, one in adapters.items()]


def once(sides: list[Side], question: str) -> None:
    """One question: every side's answer, and what had to be forgotten for it, if anything.

    Raises EngramError for an empty question, and for one that is too long for the model's context.
    """
    console, question = show.make_console(), _clean(question)
    if not question:
        raise EngramError("nothing was asked", where="ask", fix='engram ask "…"')
    if dropped := make_room(sides, question):
        turns = "the oldest turn" if dropped == 1 else f"the {dropped} oldest turns"
        console.print(f"forgotten: {turns}; the model's context is {sides[0].settings.context} tokens", style="dim")
    try:
        ask_view.answer(console, sides, question)
    finally:
        remember(sides, question)


def each(sides: list[Side], questions: Iterable[str]) -> None:
    """Questions that have nothing to do with each other, empty ones left out; raises EngramError where none is left."""
    console, asked = show.make_console(), False
    for question in filter(None, map(_clean, questions)):
        if asked:
            console.print()
        start_over(sides)
        ask_view.line(console, "question", visible(question))
        once(sides, question)
        asked = True
    if not asked:
        raise EngramError("nothing was asked", where="stdin", fix='engram ask "…", or one question a line')


def talk(sides: list[Side]) -> None:
    """A conversation at the keyboard until `/quit` or Ctrl-D; raises KeyboardInterrupt for a second Ctrl-C in a row."""
    console = show.make_console()
    console.print(HELP, style="dim")
    interrupted = False
    while True:
        try:
            question = _read(console)
            if question in (None, QUIT):
                return
            if question == NEW:
                start_over(sides)
                console.print("a new conversation", style="dim")
            elif question:
                _try(console, sides, question)
            interrupted = False
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            console.print("\nCtrl-C once more leaves", style="dim")


def _try(console: Console, sides: list[Side], question: str) -> None:
    """Ask; a question that cannot be asked ends no conversation."""
    try:
        once(sides, question)
    except EngramError as error:
        console.print(visible(str(error), newline="\n"), style="red")


def _read(console: Console) -> str | None:
    """A line from the keyboard, with the arrow keys where the system has them; None at its end."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (input() uses it: lines can be edited and recalled, in this process alone)
    try:
        return _clean(input(PROMPT if sys.stdout.isatty() else ""))
    except EOFError:
        console.print()
        return None


def _clean(question: str) -> str:
    """Without blanks around it, and without bytes that are no text, which no tokenizer takes."""
    return question.encode("utf-8", "replace").decode("utf-8").strip()
