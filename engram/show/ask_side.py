"""One of the models that answer, with its own conversation."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from engram.show.demo.answers import Speaker
from engram.support.errors import EngramError
from engram.support.text import visible

CUT, STOPPED = " …", " [stopped]"  # after an answer that reached the limit, or that nobody wanted to the end


@dataclass(frozen=True)
class Settings:
    """How answers are made: tokens at most, temperature (0 is greedy) with its seed, and the context in tokens."""

    max_new_tokens: int
    context: int
    temperature: float = 0.0
    seed: int = 0


@dataclass
class Side:
    """A model under its name: what was said so far, and its answer to the last question as far as it has come.

    `mark` stands after the answer: nothing while it grows and where the model ended it, else CUT or STOPPED.
    """

    name: str
    speaker: Speaker
    settings: Settings
    turns: list[tuple[str, str]] = field(default_factory=list)
    text: str = ""
    mark: str = ""

    def prompt(self, question: str) -> list[int]:
        """The ids that ask this question after the turns so far."""
        messages = [
            {"role": role, "content": content}
            for turn in self.turns
            for role, content in zip(("user", "assistant"), turn)
        ]
        return self.speaker.encoder.chat([*messages, {"role": "user", "content": question}])

    def room(self, question: str) -> int:
        """Tokens of the context that are left beside question, turns and the longest answer; below 0 it is too long."""
        return self.settings.context - self.settings.max_new_tokens - len(self.prompt(question))

    def answer(self, question: str) -> Generator[None, None, None]:
        """Answer a question token by token: `text` grows each time. Closed early, the answer is marked as stopped."""
        settings, tokens = self.settings, list[int]()
        self.text, self.mark = "", STOPPED
        ids = self.prompt(question)
        for token in self.speaker.stream(ids, settings.max_new_tokens, settings.temperature, settings.seed):
            tokens.append(token)
            self.text = self.speaker.encoder.text(tokens).rstrip("\ufffd")  # half a character is none yet
            yield
        self.text = self.speaker.encoder.text(tokens)
        self.mark = CUT if len(tokens) == settings.max_new_tokens else ""

    def lines(self) -> list[str]:
        """The answer's lines, none of which can drive a terminal."""
        return [visible(line) for line in self.text.strip().split("\n")]


def make_room(sides: Sequence[Side], question: str) -> int:
    """Forget the oldest turns, on all sides, until this question and its answer fit; how many were forgotten.

    Raises EngramError where the question alone does not fit.
    """
    dropped = 0
    while min(side.room(question) for side in sides) < 0:
        if not sides[0].turns:
            too_long = max(-side.room(question) for side in sides)
            what = f"the question is {too_long} tokens too long for the model's context of {sides[0].settings.context}"
            raise EngramError(what, where="ask", fix="ask a shorter one, or lower --max-new-tokens")
        for side in sides:
            del side.turns[0]
        dropped += 1
    return dropped


def remember(sides: Sequence[Side], question: str) -> None:
    """Add the question and each side's own answer to its conversation."""
    for side in sides:
        side.turns.append((question, side.text))


def start_over(sides: Sequence[Side]) -> None:
    """Forget all that was said."""
    for side in sides:
        side.turns.clear()
