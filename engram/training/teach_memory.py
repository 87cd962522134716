"""Teach a memory: data in, a memory and its training log out; and insert, delete and merge single facts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engram import backends
from engram.dataset.build import read_manifest, read_split
from engram.memory import addresses, facts, table, teach
from engram.memory.addresses import Frame
from engram.memory.facts import Fact, Placed
from engram.memory.table import Of
from engram.memory.teach import Fitted, Teacher
from engram.models import adapters
from engram.models.model import Model
from engram.models.tokenizer import Encoder, load_encoder
from engram.plan import documents, sharding
from engram.plan.config import Config
from engram.plan.curve import Progress, TrainingRun
from engram.support import locks
from engram.support.errors import EngramError
from engram.training.train import training_document

SAME = ("weights_sha256", "tokenizer_sha256", "adapter", "layer", "width")  # of tables that can be joined


class Setup(NamedTuple):
    """What facts are fitted with: tokenizer, addresses, the frozen model, and the properties that a table records."""

    encoder: Encoder
    frame: Frame
    teacher: Teacher
    of: Of


def set_up(backend_name: str, model: Model, config: Config, under: Path | None) -> Setup:
    """Load the model with the LoRA adapter in the folder `under`, if any, cut before the recipe's block."""
    backend = backends.get(backend_name)
    encoder = load_encoder(model)
    frame = addresses.frame(encoder)
    digest = adapters.read_adapter(under, backend.WEIGHTS)[1] if under else None
    teacher = backend.teacher(model, under, config)
    of = Of(model.name, model.weights_sha256, frame.sha256, digest, teacher.layer, teacher.width)
    return Setup(encoder, frame, teacher, of)


def train(
    backend_name: str,
    model: Model,
    config: Config,
    data: Path,
    folder: Path,
    log: Path,
    progress: Progress,
    under: Path | None = None,
) -> dict[str, Any]:
    """Teach a memory the taught patterns of `data`, write it to `folder` and its log to `log`; return the log.

    `under` is the folder of the LoRA adapter to build on, which is copied into `folder`. Both are written whole or not
    at all. Raises EngramError for missing or changed data, facts that a memory cannot keep, several processes, and
    whatever the backend refuses.
    """
    started = time.perf_counter()
    if sharding.place(backend_name)[1] > 1:
        raise EngramError("a memory is taught by one process", where="NPROC", fix="leave it out, or METHOD=lora")
    known = documents.data_identity(read_manifest(data), data)
    wanted = facts.taught(read_split(data, "train"))
    documents.refuse_changed_data(known, data)
    with locks.held(folder, "engram train"):
        at = set_up(backend_name, model, config, under)
        placed = facts.place(at.encoder, at.frame, wanted)
        if not placed:
            raise EngramError("no pattern is taught", where=str(data / "train.jsonl"), fix="make data")
        fitted = fit(at, placed, config, progress)
        table.write(folder, at.of, table.inserted(table.empty(at.of.width), placed, fitted.rows), under)
        losses, answers, reals, seconds = (list(part) for part in zip(*fitted.steps, strict=True))
        peak, device = at.teacher.peak_memory(), backends.get(backend_name).device()
        run = TrainingRun(losses, seconds, [], peak, int(fitted.rows.size), device)
        document = training_document(
            *(backend_name, model, config, known, run, table.settings(folder)["files"][table.WEIGHTS]),
            tokens=list(zip(answers, reals)),
            rates=[config.memory_rate] * len(losses),
            rows=len(placed),
            wall_seconds=time.perf_counter() - started,
        )
        documents.write(log, document, "training")
    return document


def fit(at: Setup, placed: Sequence[Placed], config: Config, progress: Progress) -> Fitted:
    """Fit rows to facts; `progress` hears every step, and first the largest number of steps."""
    progress.start(-(-len(placed) // teach.BATCH) * config.memory_passes)
    return teach.fit(at.teacher, at.encoder, placed, config, progress.step)


def insert(at: Setup, folder: Path, wanted: Sequence[Fact], config: Config, progress: Progress) -> Fitted:
    """Insert facts into the table of a folder, or into a new one; every other row keeps its bits.

    Raises EngramError, and changes nothing, if the table belongs to another model, or a fact is there already,
    contradicts one that is, or cannot be kept.
    """
    with locks.held(folder, "engram memory insert"):
        known = table.empty(at.of.width)
        if table.is_memory(folder):
            right = {name: getattr(at.of, name) for name in SAME}
            table.refuse_other(folder, table.intact(folder), right)
            known = table.read(folder)
        placed = facts.place(at.encoder, at.frame, wanted)
        table.refuse_known(known, placed)
        fitted = fit(at, placed, config, progress)
        table.write(folder, at.of, table.inserted(known, placed, fitted.rows), folder)
    return fitted


def delete(folder: Path, inputs: Sequence[str]) -> int:
    """Delete the facts of these inputs from the table of a folder; return how many are left. Needs no model."""
    with locks.held(folder, "engram memory delete"):
        known = table.intact(folder)
        left = table.deleted(table.read(folder), inputs)
        table.write(folder, table.of(known), left, folder)
    return len(left.facts)


def merge(encoder: Encoder, frame: Frame, one: Path, other: Path, out: Path) -> int:
    """Write both tables as one to `out`; return its number of facts. Raises EngramError if their models differ."""
    sides = [table.intact(folder) for folder in (one, other)]
    first = table.of(sides[0])
    same = {name: sides[0][name] for name in SAME}
    table.refuse_other(other, sides[1], same)
    table.refuse_other(one, sides[0], {"tokenizer_sha256": frame.sha256})
    contents = [table.read(folder) for folder in (one, other)]
    joined = table.merged(contents[0], contents[1], facts.place(encoder, frame, contents[1].facts))
    with locks.held(out, "engram memory merge"):
        table.write(out, first, joined, one)
    return len(joined.facts)
