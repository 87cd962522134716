"""Why a model with a memory answered as it did: of each token the fact whose row it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engram import backends
from engram.evaluation import reading
from engram.memory.facts import Fact
from engram.models.model import Model
from engram.plan.encoding import load_encoder
from engram.support.errors import EngramError
from engram.training import teach_memory


@dataclass(frozen=True)
class Token:
    """A token of an answer as text, None for the one that ends it, and the fact whose row was read for it."""

    text: str | None
    fact: Fact | None


@dataclass(frozen=True)
class Explained:
    """An answer with the fact behind each token, and the answer without the memory."""

    prompt: str
    tokens: tuple[Token, ...]
    without: str

    @property
    def answer(self) -> str:
        """The answer's text."""
        return "".join(token.text or "" for token in self.tokens)


def explained(backend_name: str, model: Model, folder: Path, prompt: str, limit: int) -> Explained:
    """Answer a prompt with the memory of a folder and without it; raises EngramError where there is no memory."""
    backend, encoder = backends.get(backend_name), load_encoder(model)
    reader = reading.reader(folder, model, backend.WEIGHTS)
    if reader is None:
        raise EngramError("no memory here", where=str(folder), fix="make train METHOD=memory")
    asked = encoder.prompt(prompt)
    session = backend.load(model, folder)
    answer = backend.generate(session, [asked], encoder.stop_ids, limit)[0]
    del session
    with teach_memory.without_memory(folder) as place:
        base = backend.generate(backend.load(model, place), [asked], encoder.stop_ids, limit)[0]
    parts = pieces(encoder.text(answer.tokens), encoder.ends(answer.tokens))
    texts: list[str | None] = [*parts, *([None] if answer.ended else [])]
    tokens = tuple(Token(text, fact) for text, fact in zip(texts, reader.read(asked, answer), strict=True))
    return Explained(prompt, tokens, encoder.text(base.tokens))


def pieces(text: str, ends: list[int]) -> list[str]:
    """The parts of a text that end at these places."""
    return [text[start:end] for start, end in zip([0, *ends], ends)]
