"""General text and chat outside all patterns: what the model could do before, and still should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from engram.models.model import Model
from engram.models.tokenizer import Encoded, Encoder
from engram.support import strict_json
from engram.support.errors import EngramError
from engram.support.files import BUNDLED, read_bytes, sha256

HELD_OUT, REPLAY = "heldout.jsonl", "replay.jsonl"  # in a model's folder
BUNDLED_SET = "general.jsonl"  # for a model whose folder has none
MAX_TOKENS = 512  # what is longer is cut: the set is to measure, not to fill the context


class General(NamedTuple):
    """One row: a `text`, or a `chat` whose last message is the answer. Its id is its kind and number in the file."""

    id: str
    kind: str
    text: str = ""
    messages: tuple[dict[str, str], ...] = ()

    @property
    def prompt(self) -> str:
        """The last user message of a chat, for people to read."""
        return self.messages[-2]["content"] if self.messages else ""


class GeneralSet(NamedTuple):
    """The rows that stand for what a model could do before, and the SHA-256 of their file."""

    name: str
    sha256: str
    rows: tuple[General, ...]

    def first(self, count: int) -> GeneralSet:
        """The first `count` rows of each kind, named so; all of them for 0."""
        if not count:
            return self
        rows = tuple(row for kind in dict.fromkeys(one.kind for one in self.rows) for row in self.of_kind(kind)[:count])
        return GeneralSet(f"{self.name}, {count} of each kind", self.sha256, rows)

    def of_kind(self, kind: str) -> list[General]:
        """The rows of one kind, in the file's order."""
        return [row for row in self.rows if row.kind == kind]


def general_set(model: Model) -> GeneralSet:
    """The rows that measure retention: a model's own held-out pretraining rows, else the bundled public-domain set.

    Raises EngramError, naming each line, if the file is not what `engram base-model` writes.
    """
    own = model.path / HELD_OUT
    path = own if own.is_file() else BUNDLED / BUNDLED_SET
    name = f"{model.name}/{HELD_OUT}" if own.is_file() else path.name
    return GeneralSet(name, sha256(path), _read(path, ("chat", "text")))


def replay_rows(model: Model) -> tuple[General, ...]:
    """Rows of its own training that a model brings, none of them in `general_set`; raises EngramError as that does."""
    own = model.path / REPLAY
    return _read(own, ("chat",)) if own.is_file() else ()


def encode_general(encoder: Encoder, rows: Sequence[General]) -> list[Encoded]:
    """The rows as ids: of a chat the last answer is scored, of a text every token but the first."""
    whole = [
        encoder.conversation(row.messages, row.id) if row.messages else Encoded(row.id, encoder.plain(row.text), 1)
        for row in rows
    ]
    return [replace(one, tokens=one.tokens[:MAX_TOKENS]) for one in whole]


def _read(path: Path, kinds: Sequence[str]) -> tuple[General, ...]:
    rows, problems, seen = [], [], {"chat": 0, "text": 0}
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        try:
            if line.strip():
                rows.append(_row(strict_json.parse(line), seen))
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{path.name}:{number} {type(error).__name__}: {error}")
    problems += [f"no row of the kind {kind!r}" for kind in kinds if not problems and not seen[kind]]
    if problems:
        what = "the general text and chat rows cannot be read"
        raise EngramError(what, where=str(path), problems=problems[:20], fix="make base-model")
    return tuple(rows)


def _row(document: Any, seen: dict[str, int]) -> General:
    kind = document["kind"]
    seen[kind] += 1
    name = f"{kind}-{seen[kind]}"
    if kind == "text":
        if not isinstance(document["text"], str) or not document["text"].strip():
            raise ValueError("text is empty")
        return General(name, kind, text=document["text"])
    messages = tuple({"role": str(m["role"]), "content": str(m["content"])} for m in document["messages"])
    if [m["role"] for m in messages[-2:]] != ["user", "assistant"]:
        raise ValueError("the last two messages are not a question and its answer")
    return General(name, kind, messages=messages)
