"""What was read of a memory for an answer: of each token the fact whose row it came from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.memory import adapter_folder, table
from engram.memory.facts import Fact
from engram.memory.index import MISS
from engram.memory.lookup import Memory
from engram.models.model import Model
from engram.plan.encoding import Encoder
from engram.support.errors import EngramError

if TYPE_CHECKING:
    from engram.backends import Answer


@dataclass(frozen=True)
class Reader:
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


def reader(folder: Path | None, model: Model, preferred: str = "") -> Reader | None:
    """The reader of a folder's memory, None where there is none; raises EngramError as `taught.memory` does."""
    found = adapter_folder.memory(folder, model, preferred)
    if folder is None or found is None:
        return None
    facts, counts = table.facts(folder)
    return Reader(found[0], facts, [0, *itertools.accumulate(counts[:-1])])


def noted(reader: Reader | None, encoder: Encoder, prompt: Sequence[int], answer: Answer) -> dict[str, Any]:
    """What a result document says of it under `read`; nothing where nothing was read.

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
    """The fact of each token, from what `noted` wrote into a row of a document; nothing where nothing was read.

    Raises EngramError where it does not fit the row's answer.
    """
    read = row.get("read")
    if not read:
        return []
    facts = [Fact(**fact) for fact in read["facts"]]
    if wrong := problem(row):
        raise EngramError(f"what was read for an answer is not of this answer: {wrong}", fix="make eval METHOD=memory")
    return [None if number is None else facts[number] for number in read["of"]]


def problem(row: dict[str, Any]) -> str:
    """What is wrong with what a document's row says was read; nothing where all is well."""
    ends, of, count = row["read"]["ends"], row["read"]["of"], len(row["read"]["facts"])
    if len(of) != len(ends) + row["ended"]:
        return f"{len(of)} tokens were read, the answer has {len(ends) + row['ended']}"
    if ends != sorted(ends) or ends[-1:] not in ([], [len(row["answer"])]):
        return "its tokens do not end where the answer does"
    if {number for number in of if number is not None} != set(range(count)):
        return f"not each of its {count} facts was read, or others"
    return ""
