"""The answers of the show: the stored ones, or live ones token by token; and the steps in which they are typed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from engram import backends
from engram.backends import Loaded
from engram.dataset.rows import Example
from engram.evaluation import attribution, scoring
from engram.evaluation.evaluate import timed
from engram.memory import table
from engram.memory.facts import Fact
from engram.models.model import Model, on_this_disk
from engram.models.tokenizer import Encoder, load_encoder
from engram.plan import curve
from engram.support.errors import EngramError
from engram.support.text import common, normalise, visible

STAGES = ("baseline", "tuned")
MARKS, UNDER = "◆●", "─"  # under a token's first character, for the first fact and for others; and under its rest
MARKED = "bold yellow"
Splitter = Callable[[str], list[int]]  # a text -> where each of its tokens ends


@dataclass(frozen=True)
class Shown:
    """One answer on the screen; seconds to the first token and tokens/s where it was made live.

    `steps` are the lengths of `line` after each token, `read` the facts whose rows these tokens were read from.
    """

    text: str
    ended: bool
    first: float | None = None
    rate: float | None = None
    steps: tuple[int, ...] = ()
    read: tuple[Fact | None, ...] = ()

    @property
    def line(self) -> str:
        """The answer in one line that cannot drive a terminal."""
        return one_line(self.text) + ("" if self.ended else " …")

    def under(self, start: int, text: str) -> str:
        """Drawn under this part of the line, which begins at `start`: a mark and a line under each read token."""
        marks, known = "", facts([self])
        for begin, end, fact in zip((0, *self.steps), self.steps, self.read):
            token = self.line[begin:end]
            inked = cell_len(token.lstrip() or token)
            drawn = MARKS[min(known.index(fact), 1)] + UNDER * (inked - 1) if fact and inked else ""
            marks += drawn.rjust(cell_len(token))
        first, cells = cell_len(self.line[:start]), cell_len(text)
        return marks[first : first + cells].ljust(cells)


@dataclass(frozen=True)
class Speaker:
    """A model in memory, with its encoder and the backend that computes it."""

    module: backends.Backend
    encoder: Encoder
    session: Any

    def stream(self, ids: Sequence[int], limit: int, temperature: float = 0.0, seed: int = 0) -> Iterator[int]:
        """The tokens of an answer to these ids as they come, `limit` at most; greedy at temperature 0."""
        return self.module.stream(self.session, ids, self.encoder.stop_ids, limit, temperature, seed)


def one_line(text: str) -> str:
    """A text in one line that cannot drive a terminal; `(nothing)` for an empty one."""
    return visible(normalise(text)) or "(nothing)"


def facts(answers: Iterable[Shown]) -> list[Fact]:
    """The facts that were read for these answers, each once."""
    return list(dict.fromkeys(fact for answer in answers for fact in answer.read if fact))


def legend(answers: Iterable[Shown]) -> list[str]:
    """A line for each fact that was read: one for each mark at most."""
    found = facts(answers)
    shown = (f"{visible(normalise(fact.input))} → {visible(normalise(fact.output))}" for fact in found)
    lines = [f"{mark} read from: {fact}" for mark, fact in zip(MARKS, shown)]
    if len(found) > len(MARKS):
        lines[-1] += f", and {len(found) - len(MARKS)} more"
    return lines


def is_right(example: Example, answer: Shown) -> bool | None:
    """Whether an answer is the expected one, by the result documents' own exact match; None of a general question."""
    return None if example.split_kind == "general" else scoring.score(example.answer, answer.text).exact


def replayed(
    rows: Sequence[Example], stored: dict[str, dict[str, Any]], split: Splitter | None = None
) -> list[tuple[Shown, Shown]]:
    """The stored answers to these rows, before and after, with the steps of their typing where `split` makes them."""
    before, after = ({a["id"]: a for part in ("general", "answers") for a in stored[s][part]} for s in STAGES)
    return [(stored_answer(before[e.id], split), stored_answer(after[e.id], split)) for e in rows]


def stored_answer(row: dict[str, Any], split: Splitter | None = None) -> Shown:
    """An answer as a document has it: typed by its own tokens where they are known, else as `split` makes them."""
    text = row["answer"]
    if read := tuple(attribution.facts_of(row)):
        steps = _steps_at(text, row["read"]["ends"])
        return Shown(text, row["ended"], steps=steps, read=read[: len(steps)])
    return Shown(text, row["ended"], steps=_steps_at(text, split(text)) if split else ())


def live(
    rows: Sequence[Example], loaded: Loaded, adapter: Path, limit: int, report: Callable[[int, int], None]
) -> list[tuple[Shown, Shown]]:
    """Both models' answers and times, one prompt at a time; `report` hears how many of how many are made."""
    made, sides = itertools.count(1), []
    for place in (None, adapter):
        opened = table.opened(place, loaded.model, backends.WEIGHTS[loaded.backend]) if place else None
        one = speaker(loaded.backend, loaded.model, loaded.session(opened))
        reader, answers = attribution.reader(opened), list[Shown]()
        for example in rows:
            ids = one.encoder.prompt(example.prompt)
            tokens, first, rest = timed(one.stream(ids, limit))
            rate = (len(tokens) - 1) / rest if len(tokens) > 1 and rest > 0 else None
            ended, text = len(tokens) < limit, one.encoder.text(tokens)
            read = tuple(reader.read(ids, curve.Answer(tokens, ended))[: len(tokens)]) if reader else ()
            answers.append(Shown(text, ended, first, rate, _steps_at(text, one.encoder.ends(tokens)), read))
            report(next(made), 2 * len(rows))
        sides.append(answers)
    return list(zip(*sides, strict=True))


def speaker(backend: str, model: Model, session: Any) -> Speaker:
    """A model in memory that has answered once, so that no later answer is slowed by warming up."""
    encoder = load_encoder(model)
    one = Speaker(backends.get(backend), encoder, session)
    list(one.stream(encoder.prompt("Hello"), 2))
    return one


def refuse_other(model: Model, backend: str, adapter: Path, comparison: dict[str, Any], tuned: dict[str, Any]) -> None:
    """Raise an EngramError if live answers would come from another model or adapter than the stored figures."""
    if model.weights_sha256 != comparison["model"]["weights_sha256"]:
        what = f"the results are of another model ({comparison['model']['name']})"
        raise EngramError(what, where=model.name, fix="make demo")
    if table.opened(adapter, model, backends.get(backend).WEIGHTS).sha256 != tuned["adapter"]["sha256"]:
        raise EngramError("the results are of another adapter", where=str(adapter), fix="make demo")


def splitter(name: str) -> Splitter:
    """How the model of this name splits a text, where it is on this disk; else words."""
    from tokenizers import Tokenizer

    with contextlib.suppress(Exception):  # no such file, or a name that is none
        if model := on_this_disk(name):
            tokenizer = Tokenizer.from_file(str(model.path / "tokenizer.json"))
            return lambda text: [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]
    return words


def words(text: str) -> list[int]:
    """Where each word of a text ends."""
    return [at for at, character in enumerate(text) if character == " "] + [len(text)]


def _steps_at(text: str, ends: Sequence[int]) -> tuple[int, ...]:
    """How much of the answer's line is seen after each token, which ends in the text at these places; at last, all."""
    whole = visible(normalise(text))
    seen = [common(visible(normalise(text[:end])), whole) for end in ends[:-1]]
    return (*itertools.accumulate(seen, max), len(whole))
