"""Several processes that train as one: which of them this is, and its share of each planned batch.

The plan knows nothing of it. Of every planned batch each process takes some rows, computes the sum of their losses, and
the gradients of all are averaged so that each answer token counts once: what one process would have computed alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engram.plan.batches import Batch, row_lengths, with_rows
from engram.support.errors import EngramError
from engram.support.files import sha256_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranks:
    """The processes that train together and what they say to each other; without a launcher this one alone.

    `largest` and `total` give every process the same number, of all of theirs; `gather` every process's bytes, in the
    order of their ranks. All of them must call the same one at the same point.
    """

    rank: int = 0
    size: int = 1
    hosts: int = 1
    largest: Callable[[int], int] = lambda number: number
    total: Callable[[float], float] = lambda number: number
    gather: Callable[[bytes], list[bytes]] = lambda content: [content]


def place(backend: str) -> tuple[int, int, int]:
    """Rank, world size and number of hosts, as the backend's launcher tells its processes; (0, 1, 1) without it."""
    if backend == "mlx":
        return _place_of_mlx_launch()
    names = ("RANK", "WORLD_SIZE", "GROUP_WORLD_SIZE")
    rank, size, hosts = (os.environ.get(name, "") for name in names)
    return (int(rank), int(size), int(hosts or 1)) if rank.isdigit() and size.isdigit() else (0, 1, 1)


def _place_of_mlx_launch() -> tuple[int, int, int]:
    rank, file = os.environ.get("MLX_RANK", ""), os.environ.get("MLX_HOSTFILE", "")
    if not rank.isdigit() or not file or not Path(file).is_file():
        return 0, 1, 1
    nodes = json.loads(Path(file).read_text("utf-8").strip() or "[[]]")
    addresses = {name.rpartition(":")[0] for node in nodes for name in node}
    return int(rank), len(nodes), max(1, len(addresses))


def lost_process() -> EngramError:
    """The error of a process whose partner has ended."""
    fix = "the same command continues from the last checkpoint, if there is one"
    return EngramError("another process of this run has ended", where="training", fix=fix)


def share(batch: Batch, ranks: Ranks) -> Batch:
    """This process's rows of a planned batch, which is left as it is where there is only one process.

    Where there are fewer rows than processes some get none: a row with no learned token, so that they compute along.
    """
    if ranks.size == 1:
        return batch
    lengths = row_lengths(batch)
    rows = dealt([int(length) for length in lengths], ranks.size)[ranks.rank]
    return with_rows(batch, rows, lengths) if rows else _nothing(batch, lengths)


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


def _nothing(batch: Batch, lengths: NDArray[np.int64]) -> Batch:
    """The shortest row, of which nothing is learned."""
    import numpy as np

    shortest = with_rows(batch, [int(lengths.argmin())], lengths)
    return dataclasses.replace(
        shortest, weights=np.zeros_like(shortest.weights), real_tokens=0, answer_tokens=0, ids=()
    )
