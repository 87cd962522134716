"""Your own questions: the base model and the tuned one answer side by side, token by token."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from engram import backends
from engram.models.model import Model
from engram.show.demo import stage
from engram.show.demo.answers import Speaker, speaker
from engram.show.demo.panels import BESIDE
from engram.show.demo.stage import LINE, QUIET, WIDEST, too_small
from engram.support import console as show
from engram.support.errors import EngramError
from engram.support.text import visible

PROMPT = "> "
NEW, QUIT = "/new", "/quit"
HELP = f"{NEW} starts over, {QUIT} or Ctrl-D leaves, Ctrl-C stops an answer. Nothing of this is kept."
CUT, STOPPED = " …", " [stopped]"  # after an answer that reached the limit, or was interrupted
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
    """A model, its own conversation, and its answer to the last question as far as it has come.

    `mark` follows the answer when it ends: empty where the model ended it, else CUT or STOPPED.
    """

    name: str
    speaker: Speaker
    settings: Settings
    messages: list[dict[str, str]] = field(default_factory=list)
    text: str = ""
    mark: str = ""

    def prompt(self, question: str) -> list[int]:
        """The ids that ask this question after the messages so far."""
        return self.speaker.encoder.chat([*self.messages, {"role": "user", "content": question}])

    def room(self, question: str) -> int:
        """Tokens of the context left over after messages, question and the longest answer; negative: too long."""
        return self.settings.context - self.settings.max_new_tokens - len(self.prompt(question))

    def answer(self, question: str) -> Generator[None, None, None]:
        """Answer token by token: `text` grows each time. Closed early, the answer is marked as stopped."""
        settings, tokens = self.settings, list[int]()
        self.text, self.mark = "", STOPPED
        ids = self.prompt(question)
        for token in self.speaker.stream(ids, settings.max_new_tokens, settings.temperature, settings.seed):
            tokens.append(token)
            self.text = self.speaker.encoder.text(tokens).rstrip("\ufffd")  # an unfinished character
            yield
        self.text = self.speaker.encoder.text(tokens)
        self.mark = CUT if len(tokens) == settings.max_new_tokens else ""

    def lines(self) -> list[str]:
        """The answer's lines, control characters made visible."""
        return [visible(line) for line in self.text.strip().split("\n")]


def open_sides(
    backend: str, model: Model, adapters: dict[str, Path | None], settings: Settings, quantize: str = "none"
) -> list[Side]:
    """Load the models that answer: a name for each, and its adapter, if any."""
    load = backends.get(backend).load
    sessions = {name: load(model, one, quantize) for name, one in adapters.items()}
    return [Side(name, speaker(backend, model, session), settings) for name, session in sessions.items()]


def once(sides: list[Side], question: str) -> None:
    """Print every side's answer to one question; the oldest turns are dropped, with a line, to make room for it.

    Raises EngramError for an empty question and for one that is too long for the model's context.
    """
    console, question = show.make_console(), _clean(question)
    if not question:
        raise EngramError("nothing was asked", where="ask", fix='engram ask "…"')
    while (room := min(side.room(question) for side in sides)) < 0:
        context = f"the model's context of {sides[0].settings.context} tokens"
        if not sides[0].messages:
            what = f"the question is {-room} tokens too long for {context}"
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
    """Show the answers: in boxes that grow on a terminal that is large enough, else as text, one after the other.

    An interrupt leaves the text so far on the screen, marked as stopped.
    """
    with stage.unseen(), contextlib.ExitStack() as closing:
        streams = [closing.enter_context(contextlib.closing(side.answer(question))) for side in sides]
        if console.is_terminal and not too_small(console):
            _grow(console, sides, streams)
            return
        for side, stream in zip(sides, streams, strict=True):
            try:
                for _ in stream:
                    pass
            finally:  # further lines are indented, so that none looks like a name
                text = ("\n" + " " * HEAD).join(side.lines()) or NOTHING
                console.file.write(f"{side.name:<{HEAD}}{text}{side.mark}\n")


def _grow(console: Console, sides: Sequence[Side], streams: Sequence[Iterator[None]]) -> None:
    """A token of each side in turn, in boxes."""
    for side in sides:
        side.text = ""
    with Live(_boxes(console, sides, ended=False), console=console, refresh_per_second=FRAMES) as live:
        try:
            waiting = list(streams)
            while waiting:
                waiting = [stream for stream in waiting if next(stream, waiting) is not waiting]
                live.update(_boxes(console, sides, ended=False))
        finally:
            live.update(_boxes(console, sides, ended=True))


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
