"""Several processes that train as one: which of them this is, and its share of each planned batch.

The plan knows nothing of it. Of every planned batch each process takes some rows, computes the sum of their losses, and
the gradients of all are averaged so that each answer token counts once: what one process would have computed alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engram.plan.batches import Batch
from engram.support.errors import EngramError
from engram.support.files import sha256_text


@dataclass(frozen=True)
class Ranks:
    """The processes that train together and what they say to each other; without a launcher this one alone.

    `gather` gives every process the bytes of all, in the order of their ranks. All of them must call the same method at
    the same point.
    """

    rank: int = 0
    size: int = 1
    hosts: int = 1
    gather: Callable[[bytes], list[bytes]] = lambda content: [content]

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers."""
        return int(max(self._numbers(number)))

    def total(self, number: float) -> float:
        """The sum of all processes' numbers."""
        return float(sum(self._numbers(number)))

    def _numbers(self, number: float) -> list[Any]:
        return [json.loads(one) for one in self.gather(json.dumps(number).encode())] if self.size > 1 else [number]


def place(backend: str) -> tuple[int, int, int]:
    """Rank, world size and number of hosts, as the backend's launcher tells its processes; (0, 1, 1) without it."""
    if backend == "mlx":
        rank, file = os.environ.get("MLX_RANK", ""), Path(os.environ.get("MLX_HOSTFILE", ""))
        if not rank.isdigit() or not file.is_file():
            return 0, 1, 1
        nodes = json.loads(file.read_text("utf-8").strip() or "[[]]")
        return int(rank), len(nodes), max(1, len({name.rpartition(":")[0] for node in nodes for name in node}))
    rank, size, hosts = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "GROUP_WORLD_SIZE"))
    return (int(rank), int(size), int(hosts or 1)) if rank.isdigit() and size.isdigit() else (0, 1, 1)


def joined(backend: str, connect: Callable[[], Any], gather: Callable[[bytes], list[bytes]]) -> Ranks:
    """The processes, after a call of `connect`; this one alone without a launcher. Raises EngramError if they do not
    reach each other."""
    rank, size, hosts = place(backend)
    if size == 1:
        return Ranks()
    try:
        connect()
    except (RuntimeError, ValueError) as error:
        what = f"the {size} processes do not reach each other: {str(error).splitlines()[0]}"
        raise EngramError(what, where="NPROC", fix="open the ports that docs/distributed.md names") from error
    return Ranks(rank, size, hosts, gather)


@contextlib.contextmanager
def connected(is_lost: Callable[[RuntimeError], bool]) -> Iterator[None]:
    """Around training: an error that says that another process is gone becomes an EngramError."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost(error):
            raise
        fix = "the same command continues from the last checkpoint, if there is one"
        raise EngramError("another process of this run has ended", where="training", fix=fix) from error


def share(batch: Batch, ranks: Ranks) -> Batch:
    """This process's rows of a planned batch, which is left as it is where there is only one process.

    Where there are fewer rows than processes some get none: a row with no learned token, so that they compute along.
    """
    if ranks.size == 1:
        return batch
    if rows := dealt(batch.lengths.tolist(), ranks.size)[ranks.rank]:
        return batch.of(rows)
    shortest = batch.of([int(batch.lengths.argmin())])
    return dataclasses.replace(shortest, weights=np.zeros_like(shortest.weights), answer_tokens=0)


def dealt(lengths: Sequence[int], size: int) -> list[list[int]]:
    """The rows of each process, in their order: the longest first, each to the one with the fewest tokens so far."""
    rows: list[list[int]] = [[] for _ in range(size)]
    loads = [0] * size
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        least = loads.index(min(loads))
        rows[least].append(row)
        loads[least] += lengths[row]
    return [sorted(own) for own in rows]


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of a process's dropout in one step, 31 bits: a run that goes on needs no process's random state."""
    return int(sha256_text(f"{seed}:dropout:{step}:{rank}")[:8], 16) >> 1
