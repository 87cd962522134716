"""The curve of a run as it comes: kept, passed on, put into checkpoints, and stopped where its losses go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from engram.models.safetensors_file import Tensor
from engram.plan.batches import Batch, Plan, rows_right
from engram.plan.checkpoint import Check, Keeper, State
from engram.plan.config import Config
from engram.plan.sharding import Ranks, share, step_seed
from engram.support import signals
from engram.support.errors import EngramError
from engram.support.text import first

TOO_HIGH = 10.0  # times the first loss: an explosion
LOW = 3.0  # nats; a first loss below it counts as this
BEST = "best."  # before the names of the best adapter's tensors in a checkpoint
NAMED = 40  # rows of a batch that an error names

Measure = Callable[[], tuple[float, float]]  # mean nats per answer token of the validation rows, and their recall


class Curve:
    """Losses, seconds and validation of a run, from its first step on, also where it goes on from a checkpoint.

    It decides when a run ends: after its last planned step, or before, where the recipe says so (`stop_at`,
    `patience`). Recall is the share of validation rows that are answered right, token for token. Such a run keeps its
    best adapter: the one with the highest recall on the validation rows, of equals the one with the lowest loss.
    """

    def __init__(
        self, progress: Progress, plan: Plan, config: Config, keeper: Keeper | None = None, ranks: Ranks | None = None
    ) -> None:
        self.progress, self.keeper = progress, keeper or Keeper(Path(), {}, every=0)
        self.batches, self.validated_on = plan
        self.ranks = ranks or Ranks()
        self._config = config
        self._seeks = bool(plan.validation) and bool(config.stop_at or config.patience)
        self.begun = begun = self.keeper.begun
        self.done = begun.step if begun else 0  # steps before this process
        self.losses, self.seconds = ([*begun.losses], [*begun.seconds]) if begun else ([], [])
        self.validation: list[Check] = [*begun.validation] if begun else []
        named = begun.state.tensors if begun else {}
        self._best = {name.removeprefix(BEST): named[name] for name in named if name.startswith(BEST)}
        self.reason = ""

    def finished(self, peak_memory_bytes: int, trainable: int, device: str) -> TrainingRun:
        """The run as a whole; the memory given is this process's: the most of all parts and processes counts."""
        peak = self.ranks.largest(self._peak(peak_memory_bytes))
        kept = Kept(self._best_check().step, len(self.batches), self.reason) if self._seeks else None
        return TrainingRun(self.losses, self.seconds, self.validation, peak, trainable, device, kept)

    def running(
        self, snapshot: Callable[[], State], weights: Callable[[], Mapping[str, Tensor]]
    ) -> AbstractContextManager[None]:
        """Around the steps: a signal waits for the end of one.

        `snapshot` is the backend's state between two steps, `weights` the adapter's tensors alone.
        """
        self._snapshot, self._weights = snapshot, weights
        self.progress.start(len(self.batches), self.losses)
        return signals.patient()

    def measured(self, judge: Callable[[Batch], tuple[Any, Any]]) -> tuple[float, float]:
        """Loss and recall of the validation rows, over all processes.

        `judge` gives for each target of a batch its loss, float32 [1, targets], and whether it is the most
        likely token.
        """
        nats, right = 0.0, 0
        for batch in self.validated_on:
            if (own := share(batch, self.ranks)).answer_tokens:
                losses, hits = judge(own)
                nats, right = nats + float((losses * own.weights).sum()), right + rows_right(own, hits)
        answers, rows = (sum(counts) for counts in zip(*((b.answer_tokens, len(b.tokens)) for b in self.validated_on)))
        return self.ranks.total(nats) / answers, self.ranks.total(right) / rows

    def seed_dropout(self, seed: Callable[[int], Any]) -> None:
        """Before a step of several processes: each draws different numbers, by a `seed` of its own."""
        if self.ranks.size > 1:
            seed(step_seed(self._config.seed, len(self.losses) + 1, self.ranks.rank))

    def begin(self, measure: Measure) -> None:
        """Before the first step of this process: measure an untaught model."""
        if not self.losses:
            self._validate(measure)

    def step(self, loss: float, seconds: float, measure: Measure) -> bool:
        """Note an optimizer step and its `seconds`; validate and keep a checkpoint when due; return whether to go on.

        Raises EngramError if a loss is no number, or has exploded: above ten times the first loss, where a first
        loss under 3 nats counts as 3. The highest loss of a reference run is two and a half times its first. Raises
        Stopped where a signal asked for it; at the last step it is not heeded, since the run is done.
        """
        step = len(self.losses) + 1
        if not math.isfinite(loss):
            raise self._wrong(f"the loss is {loss} at step {step}", step)
        if self.losses and loss > (limit := TOO_HIGH * max(self.losses[0], LOW)):
            raise self._wrong(f"the loss explodes: {loss:.1f} at step {step} (above {limit:.1f})", step)
        self.losses.append(loss)
        self.seconds.append(seconds)
        self.progress.step(step, loss, self.batches[step - 1].real_tokens / seconds)
        if step == len(self.batches) or step % self._config.validate_every == 0:
            self._validate(measure)
        self.reason = self._why_over()
        if not self.reason:
            self._keep(step)
        return not self.reason

    def best(self) -> Mapping[str, Tensor] | None:
        """The adapter to keep, once the run is over; None if it is the last one."""
        return self._best if self._seeks and self._best_check().step != len(self.losses) else None

    def _validate(self, measure: Measure) -> None:
        if not self.validated_on:
            return
        step, (loss, recall) = len(self.losses), measure()
        if not math.isfinite(loss):
            raise self._wrong(f"the validation loss is {loss} after step {step}", step)
        self.validation.append(Check(step, loss, recall))
        self.progress.validation(step, loss, recall)
        if self._seeks and step and self._best_check().step == step:
            self._best = dict(self._weights())

    def _best_check(self) -> Check:
        return max((c for c in self.validation if c.step), key=lambda c: (c.recall, -c.loss, -c.step))

    def _why_over(self) -> str:
        """Why the run ends here; empty if it goes on."""
        last = self.validation[-1] if self._seeks else None
        if last and last.step == len(self.losses):
            if self._config.stop_at and last.recall >= self._config.stop_at:
                return f"{100 * last.recall:.1f} % of the validation rows are right"
            since = sum(c.step > self._best_check().step for c in self.validation)
            if self._config.patience and since >= self._config.patience:
                return f"nothing better in {since} checks"
        return f"the limit of {len(self.batches)} steps" if len(self.losses) == len(self.batches) else ""

    def _keep(self, step: int) -> None:
        stop = self.ranks.largest(signals.heard())  # one that heard of it stops all, after the same step
        every = self.keeper.every
        if every and (stop or step % every == 0) and not self.ranks.rank:
            state = self._snapshot()
            tensors = {**state.tensors, **{BEST + name: tensor for name, tensor in self._best.items()}}
            state = State(tensors, state.rest, self._peak(state.peak_memory_bytes))
            self.keeper.write(step, state, self.losses, self.seconds, self.validation)
        if stop:
            self.ranks.largest(0)  # wait for the first process: a launcher ends the others when one has ended
            after = "the same command continues from there" if every else "nothing of it is kept"
            raise signals.Stopped(stop, f"stopped after step {step} of {len(self.batches)}; {after}")

    def _peak(self, now: int) -> int:
        """The most memory of all parts of the run up to now, in bytes."""
        return max(now, self.begun.state.peak_memory_bytes if self.begun else 0)

    def _wrong(self, what: str, step: int) -> EngramError:
        """The error for a loss that is wrong: its rows, and those whose step made the weights that it comes from."""
        read = [(i, first(self.batches[i - 1].ids, NAMED)) for i in (step, step - 1) if i >= 1]
        lines = [*(f"step {i} read {', '.join(names)}" for i, names in read), *self.keeper.about()]
        fix = "a lower learning rate (make train FRESH=1 SET=learning_rate=…), and a look at these rows"
        return EngramError(what, where="training", problems=lines, fix=fix)


Prompt = Sequence[int]  # token ids
Prompts = Sequence[Prompt]


@dataclass(frozen=True)
class Answer:
    """Generated token ids without the end token, and whether the model ended by itself."""

    tokens: list[int]
    ended: bool


class Kept(NamedTuple):
    """After which step the adapter was kept, how many steps were planned, and why the run ended."""

    step: int
    of: int
    reason: str


@dataclass(frozen=True)
class TrainingRun:
    """What a backend reports of a training run; losses are mean nats per answer token.

    `kept` is None where the number of steps was fixed: the last adapter was kept.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    validation: list[Check] = field(default_factory=list)
    peak_memory_bytes: int = 0
    trainable_parameters: int = 0
    device: str = ""
    kept: Kept | None = None


class Progress(Protocol):
    """Called by a backend while it trains."""

    def start(self, steps: int, losses: Sequence[float] = ()) -> None:
        """Before the first of `steps` optimizer steps; `losses` are of those done before an interruption."""

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """After optimizer step `step` (from 1); real tokens, padding not counted."""

    def validation(self, step: int, loss: float, recall: float) -> None:
        """After a validation pass that follows `step` optimizer steps; `recall` is the share of rows right."""
