"""Several torch processes that `torchrun` started: connected by gloo on a CPU, by nccl on GPUs."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
from collections.abc import Iterator
from typing import Any

from engram.plan.config import Config
from engram.plan.sharding import Ranks, lost_process, place, step_seed
from engram.support.errors import EngramError

PATIENCE = datetime.timedelta(minutes=10)  # the longest that a process waits for the others


@functools.cache
def join(name: str) -> Ranks:
    """The processes, connected; this one alone without a launcher. Raises EngramError where they are not."""
    rank, size, hosts = place(name)
    if size == 1:
        return Ranks()
    import torch

    if name == "cuda":
        local, cards = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= cards:
            what = f"each process needs a GPU of its own; {cards} can be used here"
            raise EngramError(what, where="NPROC", fix=f"NPROC={max(1, cards)}, and look at CUDA_VISIBLE_DEVICES")
        torch.cuda.set_device(local)
    try:
        torch.distributed.init_process_group("nccl" if name == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        what = f"the {size} processes do not reach each other: {str(error).splitlines()[0]}"
        raise EngramError(what, where="NPROC", fix="open the ports that docs/distributed.md names") from error
    device = "cuda" if name == "cuda" else "cpu"
    reduced = functools.partial(_reduced, device)
    return Ranks(rank, size, hosts, lambda n: int(reduced("MAX", n)), lambda n: float(reduced("SUM", n)), _gather)


@contextlib.contextmanager
def connected(ranks: Ranks) -> Iterator[None]:
    """Around training: another process that is gone is an EngramError.

    Gloo says so in a RuntimeError like any other; nothing else of a training step names its connections.
    """
    import torch

    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error) or "NCCL" in str(error)
        if ranks.size == 1 or not lost:
            raise
        raise lost_process() from error


def seed_dropout(config: Config, step: int, ranks: Ranks) -> None:
    """Where there are several processes, each draws numbers of its own in each step."""
    if ranks.size > 1:
        import torch

        torch.manual_seed(step_seed(config.seed, step, ranks.rank))


def _reduced(device: str, operation: str, number: float) -> Any:
    """The largest or the sum of all processes' numbers; a whole number stays one."""
    import torch

    dtype = torch.int64 if isinstance(number, int) else torch.float64
    value = torch.tensor([number], dtype=dtype, device=device)
    torch.distributed.all_reduce(value, getattr(torch.distributed.ReduceOp, operation))
    return value.item()


def _gather(content: bytes) -> list[bytes]:
    import torch

    found: list[bytes] = [b""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, content)
    return found
