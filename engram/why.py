"""Why a model with a memory answered as it did: of each token the fact whose row it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engram import backends
from engram.encoding import load_encoder
from engram.errors import EngramError
from engram.memory import table, taught
from engram.memory.facts import Fact
from engram.memory.index import MISS
from engram.model import Model


@dataclass(frozen=True)
class Token:
    """A token of an answer as text, and the fact whose row was read for it; the end token's text is empty."""

    text: str
    fact: Fact | None


@dataclass(frozen=True)
class Explained:
    """An answer with the fact behind each token, and the answer without the memory."""

    prompt: str
    tokens: tuple[Token, ...]
    without: str
    layer: int

    @property
    def answer(self) -> str:
        """The answer's text."""
        return "".join(token.text for token in self.tokens)


def explained(backend_name: str, model: Model, folder: Path, prompt: str, limit: int) -> Explained:
    """Answer a prompt with the memory of a folder and without it; raises EngramError where there is no memory."""
    import numpy as np

    table.intact(folder)
    backend, encoder = backends.get(backend_name), load_encoder(model)
    found = taught.memory(folder, model, backend.WEIGHTS)
    if found is None:
        raise EngramError("no memory here", where=str(folder), fix="make train METHOD=memory")
    memory, layer = found
    asked = encoder.prompt(prompt)
    session = backend.load(model, folder)
    answer = backend.generate(session, [asked], encoder.stop_ids, limit)[0]
    del session
    base = backend.generate(backend.load(model, taught.lora(folder)), [asked], encoder.stop_ids, limit)[0]
    rows = memory.rows(np.array([[*asked, *answer.tokens]]))[0, len(asked) - 1 :]
    contents = table.read(folder)
    facts = [None if row == MISS else contents.facts[_owner(contents, int(row))] for row in rows.tolist()]
    ids = [*answer.tokens, *([encoder.end_id] if answer.ended else [])]
    texts = pieces([encoder.text(answer.tokens[: i + 1]) for i in range(len(answer.tokens))])
    texts += [""] * (len(ids) - len(texts))
    tokens = tuple(Token(text, fact) for text, fact in zip(texts, facts))
    return Explained(prompt, tokens, encoder.text(base.tokens), layer)


def pieces(texts: list[str]) -> list[str]:
    """What each of these texts, each longer than the one before, adds to it."""
    return [text[len(before) :] for before, text in zip(["", *texts], texts)]


def _owner(contents: table.Contents, row: int) -> int:
    import numpy as np

    return int(np.searchsorted(contents.firsts, row, side="right")) - 1
