"""How many taught patterns an adapter answers, whoever trained it: engram's own test prompts and scoring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from engram import backends
from engram.dataset.build import read_split
from engram.evaluation import scoring
from engram.models.model import Model
from engram.models.tokenizer import load_encoder
from engram.plan.config import Config

ENOUGH = 0.95


def recall(model: Model, adapter: Path, data: Path) -> float:
    """The share of taught patterns answered exactly, under phrasings that no training row has; greedy, on MLX."""
    backend, encoder = backends.get("mlx"), load_encoder(model)
    rows = [row for row in read_split(data, "test") if row.split_kind == "recall"]
    session = backend.load(model, adapter)
    prompts = encoder.prompts([row.prompt for row in rows])
    answers = backend.generate(session, prompts, encoder.stop_ids, Config().max_new_tokens)
    exact = [scoring.score(row.answer, encoder.text(a.tokens)).exact for row, a in zip(rows, answers)]
    return sum(exact) / len(exact)


def first_enough(saved: Sequence[tuple[int, float, Path]], ask: Callable[[Path], float]) -> tuple[int, float] | None:
    """Step and seconds of the first saved adapter with at least 95 % recall, None where the last has less.

    Looked for by halves, since recall rises while a run goes on: a dozen of adapters need four looks.
    """
    if not saved or ask(saved[-1][2]) < ENOUGH:
        return None
    low, high = 0, len(saved) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if ask(saved[middle][2]) >= ENOUGH else (middle + 1, high)
    return saved[low][0], saved[low][1]
