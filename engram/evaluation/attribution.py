"""The fact behind each token of an answer: the one whose row the model read there, as the model finds it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import backends
from engram.memory import table
from engram.memory.facts import Fact
from engram.memory.lookup import MISS, Memory
from engram.memory.table import Opened
from engram.models.model import Model
from engram.models.tokenizer import Encoder, load_encoder
from engram.support.errors import EngramError

if TYPE_CHECKING:
    from engram.plan.curve import Answer


class Reader(NamedTuple):
    """A memory, its facts, and the number of each fact's first row."""

    memory: Memory
    facts: Sequence[Fact]
    firsts: Sequence[int]

    def read(self, prompt: Sequence[int], answer: Answer) -> list[Fact | None]:
        """The fact that each token of an answer was read from, its end token's last; None is no fact.

        Found as the model finds it, by the ids of prompt and answer.
        """
        import numpy as np

        rows = self.memory.rows(np.array([[*prompt, *answer.tokens]]))[0, len(prompt) - 1 :]
        owners = np.searchsorted(self.firsts, rows, side="right") - 1
        found = [None if row == MISS else self.facts[owner] for row, owner in zip(rows.tolist(), owners.tolist())]
        return found if answer.ended else found[:-1]


def reader(opened: Opened | None) -> Reader | None:
    """The reader of a memory that was opened, None if there is none; raises EngramError if its facts are unreadable."""
    if opened is None or opened.memory is None:
        return None
    entries = list(table.facts(opened.folder))
    firsts = [0, *itertools.accumulate(one.rows for one in entries[:-1])]
    return Reader(opened.memory, [one.fact for one in entries], firsts)


def noted(reader: Reader | None, encoder: Encoder, prompt: Sequence[int], answer: Answer) -> dict[str, Any]:
    """The field `read` of an answer in a result document; empty if no row of the memory was read.

    `ends` is where each token ends in the answer's text, `of` the number of its fact in `facts`, or null.
    """
    found = reader.read(prompt, answer) if reader else []
    facts = list(dict.fromkeys(fact for fact in found if fact))
    if not facts:
        return {}
    of = [facts.index(fact) if fact else None for fact in found]
    named = [{"input": fact.input, "output": fact.output} for fact in facts]
    return {"read": {"ends": encoder.ends(answer.tokens), "of": of, "facts": named}}


def facts_of(row: dict[str, Any]) -> list[Fact | None]:
    """The fact of each token, from what `noted` wrote into a row of a document; empty if no row was read.

    Raises EngramError if it does not fit the row's answer.
    """
    read = row.get("read")
    if not read:
        return []
    facts = [Fact(**fact) for fact in read["facts"]]
    if wrong := problem(row):
        raise EngramError(f"what was read for an answer is not of this answer: {wrong}", fix="make eval METHOD=memory")
    return [None if number is None else facts[number] for number in read["of"]]


def problem(row: dict[str, Any]) -> str:
    """The fault in the field `read` of a document's row; empty if there is none."""
    ends, of, count = row["read"]["ends"], row["read"]["of"], len(row["read"]["facts"])
    if len(of) != len(ends) + row["ended"]:
        return f"{len(of)} tokens were read, the answer has {len(ends) + row['ended']}"
    if ends != sorted(ends) or ends[-1:] not in ([], [len(row["answer"])]):
        return "its tokens do not end where the answer does"
    if {number for number in of if number is not None} != set(range(count)):
        return f"not each of its {count} facts was read, or others"
    return ""


class Token(NamedTuple):
    """A token of an answer as text, None for the one that ends it, and the fact whose row was read for it."""

    text: str | None
    fact: Fact | None


class Explained(NamedTuple):
    """An answer, its tokens with the fact behind each, and the answer without the memory."""

    prompt: str
    answer: str
    tokens: tuple[Token, ...]
    without: str


def explained(backend_name: str, model: Model, folder: Path, prompt: str, limit: int) -> Explained:
    """Answer a prompt with the memory of a folder and without it; raises EngramError if there is no memory."""
    backend, encoder = backends.get(backend_name), load_encoder(model)
    opened = table.opened(folder, model, backend.WEIGHTS) if table.is_memory(folder) else None
    known = reader(opened)
    if opened is None or known is None:
        raise EngramError("no memory here", where=str(folder), fix="make train METHOD=memory")
    asked = encoder.prompt(prompt)
    sessions = (backend.load(model, one) for one in (opened, opened.without_memory()))
    answer, base = (backend.generate(one, [asked], encoder.stop_ids, limit)[0] for one in sessions)
    whole = encoder.text(answer.tokens)
    texts = [*pieces(whole, encoder.ends(answer.tokens)), *([None] if answer.ended else [])]
    tokens = tuple(Token(text, fact) for text, fact in zip(texts, known.read(asked, answer), strict=True))
    return Explained(prompt, whole, tokens, encoder.text(base.tokens))


def pieces(text: str, ends: list[int]) -> list[str]:
    """The parts of a text that end at these places."""
    return [text[start:end] for start, end in zip([0, *ends], ends)]
