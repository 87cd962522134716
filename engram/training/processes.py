"""Several processes in one training run: all of them the same run, from the same state; the first one writes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.plan import checkpoint, documents
from engram.plan.checkpoint import Keeper
from engram.plan.sharding import Ranks
from engram.support.errors import EngramError
from engram.support.files import write_bytes


class Silent:
    """Progress of a process that is not the first."""

    def start(self, steps: int, losses: Sequence[float] = ()) -> None:
        """Nothing is shown."""

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Nothing is shown."""

    def validation(self, step: int, loss: float) -> None:
        """Nothing is shown."""


def refuse_unlike(ranks: Ranks, identity: Mapping[str, Any]) -> None:
    """Raise an EngramError, in every process, where they are about to train something else than the first does."""
    if ranks.size == 1:
        return
    first, *others = [json.loads(content) for content in ranks.gather(json.dumps(identity).encode())]
    problems = []
    for rank, other in enumerate(others, 1):
        lines = documents.differing(first, other, sorted({*first, *other}))
        problems += [f"{line} (process 0, and process {rank})" for line in lines]
    if problems:
        what, fix = (
            "the processes would not train the same",
            "the same checkout, packages, MODEL and data on every machine",
        )
        raise EngramError(what, where="NPROC, HOSTS", problems=problems[:20], fix=fix)


def lead(ranks: Ranks, keeper: Keeper) -> None:
    """In the first process: hand the others the checkpoint that the run goes on from, if any."""
    if ranks.size > 1:
        ranks.gather(checkpoint.pack(keeper.begun, keeper.identity) if keeper.begun else b"")


def follower(ranks: Ranks, identity: Mapping[str, Any], every: int) -> Keeper:
    """In every other process: the keeper of the same run, which goes on from the first one's checkpoint.

    Only the first process writes one, so that its own place is never used.
    """
    content = ranks.gather(b"")[0]
    if not content:
        return Keeper(Path(), identity, every)
    with tempfile.TemporaryDirectory(prefix="engram-") as folder:
        file = Path(folder) / "checkpoint"
        write_bytes(file, content)
        _, tensors, run = checkpoint.read(file)
    return Keeper(Path(), identity, every, checkpoint.made(tensors, run))
