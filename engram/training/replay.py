"""Replay rows: questions and answers that the model writes itself, trained on with the patterns to limit forgetting.

The model continues its chat template's user turn to write a question (Magpie, Xu et al. 2024), and answers it greedily.
Most questions begin with a given word or two and are short, like patterns. The loss on these rows is the KL divergence
from the base's next-token distributions, which are computed once and stored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram import backends
from engram.backends import Backend, Loaded
from engram.models import retention
from engram.models.model import Model
from engram.models.tokenizer import Encoded, Encoder
from engram.plan.batches import Likely
from engram.support import console
from engram.support.errors import EngramError
from engram.support.files import cache_folder, sha256_text, writing
from engram.support.text import common, normalise

VERSION = 3  # raise it whenever the same model gives other rows
SEED = 0  # of the questions: the rows are the model's, not the run's
ROWS = 160
FREE = 4  # one of so many questions begins with nothing
QUESTION, ANSWER = 24, 24  # tokens, at most
LONGEST, TEXT = 64, 48  # tokens of a chat and of a text that a model brings
TEMPERATURE = 0.8
BEGINNINGS = (
    *("What is", "Who", "Where", "When did", "Why", "How many", "How do I", "Which", "Is", "Can you", "Does"),
    *("Name", "List", "Give me", "Write", "Explain", "Describe", "Define", "Translate", "Complete:", "Tell me"),
    *("Convert", "Fix", "Python", "Hello", "Thanks", "I", "The", "Answer briefly:", "Please"),
)


@dataclass(frozen=True)
class Replay:
    """Rows, the base's distributions at the answer tokens of each, and the SHA-256 of all these numbers."""

    rows: list[Encoded]
    likely: list[Likely]
    sha256: str


def of(loaded: Loaded, encoder: Encoder) -> Replay:
    """The model's replay rows, the same everywhere. Raises EngramError if it writes no question with an answer."""
    return _kept(loaded, encoder, "replay", lambda: _brought(loaded.model, encoder) or _written(loaded, encoder))


def likely(loaded: Loaded, encoder: Encoder, rows: list[Encoded], name: str) -> list[Likely]:
    """The untaught model's next-token distributions at the answer tokens of rows that are known as `name`."""
    where = f"{loaded.backend} {backends.get(loaded.backend).device()} {name}"
    return _kept(loaded, encoder, where, lambda: rows).likely


def _kept(loaded: Loaded, encoder: Encoder, name: str, made: Callable[[], list[Encoded]]) -> Replay:
    """What `made` gives, and the distributions: computed once, and cached by all files of the model; again where the
    cached file is damaged."""
    model = loaded.model
    whole = sha256_text(" ".join((name, model.weights_sha256, model.files_sha256, loaded.quantize, str(VERSION))))
    path = cache_folder() / "replay" / f"{whole[:16]}.npz"
    damaged = (EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile)
    with contextlib.suppress(OSError, *damaged), np.load(path, allow_pickle=False) as kept:
        return _replay(*(kept[name] for name in ("ids", "lengths", "likely", "chances")))
    rows = made()
    tokens, chances = Likely.joined(backends.get(loaded.backend).likely(loaded.session(), rows, encoder))
    ids = np.concatenate([np.array(row.tokens, np.int32) for row in rows])
    lengths = np.array([(len(row.tokens), row.prompt_length) for row in rows], np.int32)
    try:
        with writing(path) as work, work.open("wb") as file:
            np.savez(file, ids=ids, lengths=lengths, likely=tokens, chances=chances)
    except (EngramError, OSError) as error:  # a cache that can't be written is no reason to stop
        console.note(f"the model's own rows and distributions are not cached: {error}")
    return _replay(ids, lengths, tokens, chances)


def _replay(ids: NDArray[Any], lengths: NDArray[Any], *likely: NDArray[Any]) -> Replay:
    """The rows that these arrays hold one after the other; `lengths` are of each row and its prompt, [rows, 2]."""
    digest = hashlib.sha256(b"".join(array.tobytes() for array in (ids, lengths, *likely))).hexdigest()
    ends, learned = np.cumsum(lengths[:, 0]), np.cumsum(lengths[:, 0] - lengths[:, 1])
    rows = [
        Encoded(f"own-{number}", tuple(part.tolist()), int(asked))
        for number, (part, (_, asked)) in enumerate(zip(np.split(ids, ends[:-1]), lengths), 1)
    ]
    return Replay(rows, [Likely(*pair) for pair in zip(*(np.split(one, learned[:-1]) for one in likely))], digest)


def _brought(model: Model, encoder: Encoder) -> list[Encoded]:
    """Rows of `replay.jsonl` in the model's folder, if any: the shorter chats, and the beginnings of texts."""
    known = retention.replay_rows(model)
    rows = [*zip(known, retention.encode_general(encoder, known))]
    texts = [dataclasses.replace(row, tokens=row.tokens[:TEXT]) for one, row in rows if one.kind == "text"]
    chats = [row for one, row in rows if one.kind == "chat" and len(row.tokens) <= LONGEST]
    return [*texts[: ROWS // 4], *chats][:ROWS]


def _written(loaded: Loaded, encoder: Encoder) -> list[Encoded]:
    """Questions that the model writes, except those that retention is measured on, with its answers; not none."""
    model, backend, session = loaded.model, backends.get(loaded.backend), loaded.session()
    console.note(f"{model.name} writes its replay rows: once, some minutes on a CPU")
    known = {normalise(row.prompt).casefold() for row in retention.general_set(model).rows}
    asked = [text for text in _questions(backend, session, encoder) if text.casefold() not in known]
    prompts = encoder.prompts(asked[:ROWS])
    answers = backend.generate(session, prompts, encoder.stop_ids, ANSWER)
    rows = [
        Encoded("", (*prompt, *answer.tokens, *[encoder.end_id] * answer.ended), len(prompt))
        for prompt, answer in zip(prompts, answers)
        if answer.tokens
    ]
    if not rows:
        what, fix = "the model writes no questions that it can answer", "train without replay: SET=replay=0"
        raise EngramError(what, where=model.name, fix=fix)
    return rows


def _questions(backend: Backend, session: Any, encoder: Encoder) -> list[str]:
    """Different user messages that the model ended by itself."""
    one, other = encoder.prompts(["A", "B"])
    opening = one[: common(one, other)]  # what the template writes before a message
    closing = one[len(one) - common(one[::-1], other[::-1]) :][:1]  # and the token that follows one
    begun = ["" if i % FREE == 0 else BEGINNINGS[i % len(BEGINNINGS)] for i in range(ROWS * 8 // 5)]
    prompts = [[*opening, *encoder.plain(text)] for text in begun]
    found = backend.generate(session, prompts, encoder.stop_ids.union(closing), QUESTION, TEMPERATURE, SEED)
    texts = [normalise(text + encoder.text(answer.tokens)) for text, answer in zip(begun, found) if answer.ended]
    return list(dict.fromkeys(text for text in texts if text))
