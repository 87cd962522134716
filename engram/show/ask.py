"""Your own questions: the base model and the tuned one answer side by side, token by token."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from engram import backends
from engram.models.model import Model
from engram.show.demo.answers import Speaker, speaker
from engram.show.demo.panels import BESIDE
from engram.show.demo.stage import LINE, QUIET, WIDEST, too_small
from engram.support import console as show
from engram.support.errors import EngramError
from engram.support.text import visible

PROMPT = "> "
NEW, QUIT = "/new", "/quit"
HELP = f"{NEW} starts over, {QUIT} or Ctrl-D leaves, Ctrl-C stops an answer. Nothing of this is kept."
CUT, STOPPED = " …", " [stopped]"  # the answer reached the limit, or was interrupted
HEAD = 10  # columns of a name before a text
NOTHING = "(nothing)"
FRAMES = 15  # a second


@dataclass(frozen=True)
class Settings:
    """Limit of an answer in tokens, temperature (0 is greedy) with its seed, and the model's context in tokens."""

    max_new_tokens: int
    context: int
    temperature: float = 0.0
    seed: int = 0


@dataclass
class Side:
    """A model, its own conversation, and its answer to the last question as far as it has come."""

    name: str
    speaker: Speaker
    settings: Settings
    messages: list[dict[str, str]] = field(default_factory=list)
    text: str = ""
    mark: str = ""  # after an answer that the model did not end: CUT or STOPPED

    def prompt(self, question: str) -> list[int]:
        """The ids that ask this question after the messages so far."""
        return self.speaker.encoder.chat([*self.messages, {"role": "user", "content": question}])

    def answer(self, question: str) -> Generator[None, None, None]:
        """Answer token by token: `text` grows each time. Closed early, the answer is marked as stopped."""
        tokens, limit, ids = list[int](), self.settings.max_new_tokens, self.prompt(question)
        self.text, self.mark = "", STOPPED
        for token in self.speaker.stream(ids, limit, self.settings.temperature, self.settings.seed):
            tokens.append(token)
            self.text = self.speaker.encoder.text(tokens).rstrip("\ufffd")  # an unfinished character
            yield
        self.text, self.mark = self.speaker.encoder.text(tokens), CUT if len(tokens) == limit else ""

    def lines(self) -> list[str]:
        """The answer's lines, control characters made visible."""
        return [visible(line) for line in self.text.strip().split("\n")]


def open_sides(
    backend: str, model: Model, adapters: dict[str, Path | None], settings: Settings, quantize: str = "none"
) -> list[Side]:
    """Load the models that answer: a name for each, and its adapter, if any."""
    load = backends.get(backend).load
    return [Side(name, speaker(backend, model, load(model, at, quantize)), settings) for name, at in adapters.items()]


def once(sides: list[Side], question: str) -> None:
    """Print every side's answer to one question; the oldest turns are dropped, with a line, to make room for it.

    Raises EngramError for an empty question and for one that is too long for the model's context.
    """
    console, question, settings = show.make_console(), _clean(question), sides[0].settings
    if not question:
        raise EngramError("nothing was asked", where="ask", fix='engram ask "…"')
    while (over := max(len(side.prompt(question)) for side in sides) + settings.max_new_tokens - settings.context) > 0:
        context = f"the model's context of {settings.context} tokens"
        if not sides[0].messages:
            what = f"the question is {over} tokens too long for {context}"
            raise EngramError(what, where="ask", fix="ask a shorter one, or lower --max-new-tokens")
        console.print(f"the oldest turn is forgotten: it does not fit into {context}", style="dim")
        for side in sides:
            del side.messages[:2]
    try:
        _answer(console, sides, question)
    finally:
        for side in sides:
            side.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": side.text}]


def each(sides: list[Side], questions: Iterable[str]) -> None:
    """Answer unrelated questions, skipping empty ones; raises EngramError if none is left."""
    console, asked = show.make_console(), False
    for question in filter(None, map(_clean, questions)):
        start_over(sides)
        console.file.write("\n" * asked + f"{'question':<{HEAD}}{visible(question)}\n")
        once(sides, question)
        asked = True
    if not asked:
        raise EngramError("nothing was asked", where="stdin", fix='engram ask "…", or one question a line')


def talk(sides: list[Side]) -> None:
    """A conversation at the keyboard until `/quit` or Ctrl-D; raises KeyboardInterrupt for a second Ctrl-C in a row."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (input() uses it: lines can be edited and recalled, in this process alone)
    console = show.make_console()
    console.print(HELP, style="dim")
    interrupted = False
    while True:
        try:
            question = _clean(input(PROMPT if sys.stdout.isatty() else ""))
            if question == QUIT:
                return
            if question == NEW:
                start_over(sides)
                console.print("a new conversation", style="dim")
            elif question:
                once(sides, question)
            interrupted = False
        except EOFError:
            console.print()
            return
        except EngramError as error:  # the conversation goes on
            console.print(visible(str(error), newline="\n"), style="red")
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            console.print("\nCtrl-C once more leaves", style="dim")


def start_over(sides: Sequence[Side]) -> None:
    """Forget the conversation."""
    for side in sides:
        side.messages.clear()


def _clean(question: str) -> str:
    """Without blanks around it, and without bytes that no tokenizer takes."""
    return question.encode("utf-8", "replace").decode("utf-8").strip()


def _answer(console: Console, sides: Sequence[Side], question: str) -> None:
    """Show the answers in boxes that grow, where there is room, else as text; an interrupt leaves what is there."""
    with contextlib.ExitStack() as closing:
        streams = [closing.enter_context(contextlib.closing(side.answer(question))) for side in sides]
        if console.is_terminal and not too_small(console):
            for side in sides:
                side.text = ""
            boxes = _boxes(console, sides, ended=False)
            live = closing.enter_context(Live(boxes, console=console, refresh_per_second=FRAMES))
            try:
                while streams:  # a token of each in turn
                    streams = [stream for stream in streams if next(stream, streams) is not streams]
                    live.update(_boxes(console, sides, ended=False))
            finally:
                live.update(_boxes(console, sides, ended=True))
            return
        for side, stream in zip(sides, streams, strict=True):
            try:
                for _ in stream:
                    pass
            finally:  # further lines are indented, so that none looks like a name
                text = ("\n" + " " * HEAD).join(side.lines()) or NOTHING
                console.file.write(f"{side.name:<{HEAD}}{text}{side.mark}\n")


def _boxes(console: Console, sides: Sequence[Side], ended: bool) -> Columns:
    """The answers side by side where there is room, else one below the other."""
    width = min(console.width, WIDEST)
    width = (width - 1) // 2 if width >= BESIDE and len(sides) > 1 else width
    boxes = []
    for side in sides:
        text = Text.assemble("\n".join(side.lines()), (side.mark if ended else "", QUIET))
        title = Text(side.name, "bold")
        boxes.append(Panel(text, title=title, title_align="left", border_style=LINE, width=width))
    return Columns(boxes)
