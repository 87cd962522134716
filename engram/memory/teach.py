"""Fit rows to facts. The model is frozen, and its blocks below the rows are computed once.

Each row answers at its own address, so facts are independent and are fitted in portions. A backend computes losses and
the gradients of rows; the optimizer here is the same for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engram.memory import facts
from engram.memory.facts import Placed
from engram.models.tokenizer import Encoder
from engram.plan.batches import Batch, Floats, make_batch
from engram.plan.config import MemorySettings

PORTION = 512  # facts whose hidden states are kept at once
BATCH = 64  # rows
SETTLED = 0.05  # nats: a fact is learned, and no longer trained, once every token is below it
BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-8
PHRASINGS = ("bare", "complete", "briefly", "only")  # a recipe takes the first ones

Steps = list[tuple[float, int, int, float]]  # loss, answer tokens, tokens and seconds of each
Report = Callable[[int, float, float], None]


class Teacher(Protocol):
    """A backend's part: a frozen model, cut before a block."""

    width: int
    layer: int

    def below(self, batch: Batch) -> Any:
        """The hidden state that the block reads, without rows; for `root_mean_square` and `above`."""

    def peak_memory(self) -> int:
        """The peak memory in bytes; 0 if unknown."""

    def root_mean_square(self, batch: Batch, hidden: Any) -> float:
        """The root mean square of the hidden state at the positions where rows are added."""

    def toward(self, tokens: NDArray[np.int32]) -> Floats:
        """The direction that makes each token likelier, float32 [tokens, width], of root mean square 1."""

    def above(self, batch: Batch, hidden: Any, rows: Floats) -> tuple[Floats, Floats]:
        """Losses in nats, float32 [targets], and the gradients of their weighted sum to the rows, float32 [targets,
        width]. `rows` [targets, width] are added to `hidden` at the positions before each target."""


@dataclass
class Fitted:
    """The rows of facts, float32 [rows, width]; the steps; and the numbers of the facts that were not learned."""

    rows: Floats
    steps: Steps = field(default_factory=list)
    unsettled: list[int] = field(default_factory=list)


@dataclass
class _Group:
    """A batch in one phrasing: its facts, and for each target its row in the portion and its fact."""

    batch: Batch
    facts: NDArray[np.int64]
    rows: NDArray[np.int64]
    owners: NDArray[np.int64]
    hidden: Any = None


def fit(
    teacher: Teacher,
    encoder: Encoder,
    placed: Sequence[Placed],
    config: MemorySettings,
    report: Report = lambda _step, _loss, _rate: None,
) -> Fitted:
    """Fit a row to every answer token of every fact; after each step `report` gets its number, loss and tokens/s."""
    fitted = Fitted(np.zeros((0, teacher.width), np.float32))
    parts = []
    for start in range(0, len(placed), PORTION):
        rows, settled = _portion(teacher, encoder, placed[start : start + PORTION], config, fitted.steps, report)
        parts.append(rows)
        fitted.unsettled += (start + np.nonzero(~settled)[0]).tolist()
    fitted.rows = np.concatenate([fitted.rows, *parts])
    return fitted


def _portion(
    teacher: Teacher, encoder: Encoder, placed: Sequence[Placed], config: MemorySettings, steps: Steps, report: Report
) -> tuple[Floats, NDArray[np.bool_]]:
    """The rows of some facts, and which facts were learned; the steps taken are added to `steps`."""
    names = PHRASINGS[: config.memory_phrasings]
    groups = [_groups(encoder, placed, name) for name in names]
    tokens = np.array([token for one in placed for token in one.tokens], np.int32)
    rows = np.zeros((len(tokens), teacher.width), np.float32)
    first, second, visits = np.zeros_like(rows), np.zeros_like(rows), np.zeros((len(rows), 1), np.float32)
    settled = np.zeros(len(placed), bool)
    scale = 0.0
    for number in range(config.memory_passes):
        for group in groups[number % len(names)]:
            if settled[group.facts].all():
                continue
            begun = time.perf_counter()
            group.hidden = teacher.below(group.batch) if group.hidden is None else group.hidden
            if not scale:
                scale = teacher.root_mean_square(group.batch, group.hidden)
                rows = config.memory_start * scale * teacher.toward(tokens)
            count, mine = group.batch.answer_tokens, group.rows
            losses, gradients = teacher.above(group.batch, group.hidden, rows[mine])
            losses = losses[:count]
            worst = np.zeros(len(placed), np.float32)
            np.maximum.at(worst, group.owners, losses)
            settled[group.facts] |= worst[group.facts] < SETTLED  # in a phrasing that the last visit had not
            unsure = ~settled[group.owners]
            gradients, mine = gradients[:count][unsure], mine[:count][unsure]
            visits[mine] += 1
            first[mine] = BETA1 * first[mine] + (1 - BETA1) * gradients
            second[mine] = BETA2 * second[mine] + (1 - BETA2) * gradients**2
            move = first[mine] / (1 - BETA1 ** visits[mine])
            move /= np.sqrt(second[mine] / (1 - BETA2 ** visits[mine])) + EPSILON
            rows[mine] -= config.memory_rate * scale * move
            spent = time.perf_counter() - begun
            steps.append((float(losses.mean()), count, group.batch.real_tokens, spent))
            report(len(steps), steps[-1][0], count / spent)
        if settled.all():
            break
    return rows, settled


def _groups(encoder: Encoder, placed: Sequence[Placed], name: str) -> list[_Group]:
    """The facts in a phrasing, in batches of similar length."""
    encoded = facts.examples(encoder, placed, name)
    firsts = np.cumsum([0, *(len(one.tokens) for one in placed)])
    order = sorted(range(len(placed)), key=lambda i: len(encoded[i].tokens))
    groups = []
    for start in range(0, len(order), BATCH):
        chosen = np.array(order[start : start + BATCH])
        batch = make_batch([encoded[i] for i in chosen], encoder.pad_id)
        owners = chosen[batch.owners[: batch.answer_tokens]]
        own = np.concatenate([np.arange(firsts[i], firsts[i + 1]) for i in chosen])
        padding = np.zeros(len(batch.targets) - len(own), np.int64)
        groups.append(_Group(batch, chosen, np.concatenate([own, padding]), owners))
    return groups
