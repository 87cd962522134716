"""Facts, the inputs and outputs that a memory is taught, and the addresses of their answers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engram.dataset import phrasing
from engram.dataset.rows import Example
from engram.memory import addresses
from engram.memory.addresses import MOST_ANSWERED, MOST_ASKED, Frame
from engram.models.tokenizer import Encoded, Encoder
from engram.support.errors import EngramError
from engram.support.text import shorten, visible

# the input at the start of a message, after a blank and on its own line: tokenizers may split it differently
PLACES = ("bare", "complete", "only")


@dataclass(frozen=True)
class Fact:
    """An input and the output that answers it."""

    input: str
    output: str


@dataclass(frozen=True)
class Placed:
    """A fact as ids: the `tokens` of the answer and its end; `asked` has, for each way to split the input, the number
    of tokens and the input's part of the addresses."""

    fact: Fact
    tokens: tuple[int, ...]
    asked: tuple[tuple[int, int], ...]

    @property
    def addresses(self) -> NDArray[np.uint64]:
        """The addresses of the answer's tokens, uint64 [ways, tokens]."""
        parts = np.array([part for _, part in self.asked], np.uint64)
        return addresses.address(parts[:, None], addresses.answered(self.tokens[:-1])[None, :])


def taught(rows: Sequence[Example]) -> list[Fact]:
    """The facts in training rows, each taught pattern once, in the order of the rows."""
    return [Fact(row.prompt, row.answer) for row in rows if row.phrasing == "bare"]


def place(encoder: Encoder, frame: Frame, facts: Sequence[Fact]) -> list[Placed]:
    """The facts with their addresses, without duplicates.

    Raises EngramError naming every fact that cannot be kept: no word or special tokens in it, too long, or in
    contradiction to another one.
    """
    known: dict[int, Fact] = {}
    placed, problems = [], []
    for fact in dict.fromkeys(facts):
        try:
            one = _placed(encoder, frame, fact)
        except ValueError as error:
            problems.append(f"{named(fact)}: {error}")
            continue
        other = next((known[part] for _, part in one.asked if part in known), None)
        if other is None:
            known |= {part: fact for _, part in one.asked}
            placed.append(one)
        elif other.output != fact.output:
            problems.append(f"{named(fact)}: {named(other)} contradicts it")
    if problems:
        what = f"{len(problems)} facts cannot be kept in a memory"
        raise EngramError(what, where="memory", problems=problems[:20], fix="leave these out, or change them")
    return placed


def named(fact: Fact) -> str:
    """The fact on one line, for people."""
    return f"{visible(shorten(fact.input, 60))!r} → {visible(shorten(fact.output, 60))!r}"


def examples(encoder: Encoder, placed: Sequence[Placed], name: str) -> list[Encoded]:
    """The facts as rows in a phrasing, named by their numbers."""
    prompts = (encoder.prompt(phrasing.phrase(name, one.fact.input)) for one in placed)
    return [Encoded(str(i), (*p, *one.tokens), len(p)) for i, (p, one) in enumerate(zip(prompts, placed))]


def _placed(encoder: Encoder, frame: Frame, fact: Fact) -> Placed:
    answer = encoder.plain(fact.output)
    if not fact.input.strip():
        raise ValueError("no word in the input")
    if not answer:
        raise ValueError("no text in the output")
    if len(answer) + 1 > MOST_ANSWERED:
        raise ValueError(f"the output has {len(answer)} tokens, at most {MOST_ANSWERED - 1} can be kept")
    parts = dict.fromkeys(part for name in PLACES for part in _asked(encoder, frame, fact, name))
    if not parts:
        raise ValueError("the tokenizer joins the input with what stands around it")
    return Placed(fact, (*answer, encoder.end_id), tuple(parts))


def _asked(encoder: Encoder, frame: Frame, fact: Fact, name: str) -> Iterator[tuple[int, int]]:
    """The input's number of tokens in a phrasing and its part of the addresses; nothing if it shares a token."""
    prompt = encoder.prompt(phrasing.phrase(name, fact.input))
    size = len(frame.header)
    if tuple(prompt[len(prompt) - size :]) != frame.header:
        return
    tail = prompt[len(prompt) - size - 1 :: -1]
    near = len(encoder.plain(fact.input))
    if near > MOST_ASKED:
        raise ValueError(f"the input has {near} tokens, at most {MOST_ASKED} can be kept")
    for count in range(max(1, near - 2), min(len(tail), near + 2, MOST_ASKED) + 1):
        ids = tail[count - 1 :: -1]
        if encoder.text(ids).lstrip() == unicodedata.normalize("NFC", fact.input).lstrip():
            yield count, int(addresses.asked(np.array([tail[:count]], np.int64), frame)[0, count - 1])
            return
