"""The stage: taught patterns -> a memory and its log; and facts put in and taken out one by one."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engram import backends
from engram.backends import Progress, TrainingRun
from engram.dataset.build import read_manifest, read_split
from engram.memory import addresses, edit, facts, table, teach
from engram.memory.addresses import Frame
from engram.memory.facts import Fact, Placed
from engram.memory.table import Contents, Of
from engram.memory.teach import Fitted, Teacher
from engram.models import adapters
from engram.models.model import Model
from engram.plan import documents, sharding
from engram.plan.config import Config
from engram.plan.encoding import Encoder, load_encoder
from engram.support import locks
from engram.support.errors import EngramError
from engram.support.files import read_bytes, write_bytes
from engram.training.train import training_document


class Desk(NamedTuple):
    """What facts are fitted with: the model's tokens, the frozen model, and what a table of it belongs to."""

    encoder: Encoder
    frame: Frame
    teacher: Teacher
    of: Of


def desk(backend_name: str, model: Model, config: Config, under: Path | None) -> Desk:
    """The model in memory, with the adapter of the folder `under`, if any, cut where the recipe says."""
    backend = backends.get(backend_name)
    encoder = load_encoder(model)
    frame = addresses.frame(encoder)
    digest = adapters.read_adapter(under, backend.WEIGHTS)[1] if under else None
    teacher = backend.teacher(model, under, config)
    of = Of(model.name, model.weights_sha256, frame.sha256, digest, teacher.layer, teacher.width)
    return Desk(encoder, frame, teacher, of)


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

    `under` is the LoRA adapter that it is taught on top of, which goes into the folder too. Both are written whole or
    not at all, the memory last. Raises EngramError for missing or changed data, facts that no memory can keep, and
    whatever the backend refuses.
    """
    started = time.perf_counter()
    if sharding.place(backend_name)[1] > 1:
        raise EngramError("a memory is taught by one process", where="NPROC", fix="leave it out, or METHOD=lora")
    known = documents.data_identity(read_manifest(data), data)
    wanted = facts.taught(read_split(data, "train"))
    documents.refuse_changed_data(known, data)
    with locks.held(folder, "engram train"):
        at = desk(backend_name, model, config, under)
        placed = facts.place(at.encoder, at.frame, wanted)
        if not placed:
            raise EngramError("no pattern is taught", where=str(data / "train.jsonl"), fix="make data")
        fitted = fit(at, placed, config, progress)
        table.write(folder, at.of, edit.inserted(edit.empty(at.of.width), placed, fitted.rows), under)
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


def fit(at: Desk, placed: Sequence[Placed], config: Config, progress: Progress) -> Fitted:
    """Fit rows to facts; `progress` hears every step, and first the largest number of steps."""
    progress.start(-(-len(placed) // teach.BATCH) * config.memory_passes)
    return teach.fit(at.teacher, at.encoder, placed, config, progress.step)


def insert(at: Desk, folder: Path, wanted: Sequence[Fact], config: Config, progress: Progress) -> Fitted:
    """Put facts into the table of a folder, or into a new one; every other row stays as it is.

    Raises EngramError, and changes nothing, where the table belongs to something else, or where a fact is there
    already, contradicts one that is, or cannot be kept.
    """
    with locks.held(folder, "engram memory insert"):
        known = _contents(folder, at.of)
        placed = facts.place(at.encoder, at.frame, wanted)
        edit.refuse_known(known, placed)
        fitted = fit(at, placed, config, progress)
        table.write(folder, at.of, edit.inserted(known, placed, fitted.rows), folder)
    return fitted


def delete(folder: Path, inputs: Sequence[str]) -> int:
    """Take the facts of these inputs out of the table of a folder; how many are left. No model is needed for it."""
    with locks.held(folder, "engram memory delete"):
        known = table.intact(folder)
        left = edit.deleted(table.read(folder), inputs)
        table.write(folder, table.of(known), left, folder)
    return len(left.facts)


def merge(encoder: Encoder, frame: Frame, one: Path, other: Path, out: Path) -> int:
    """Write both tables as one to `out`; how many facts it has. Raises EngramError where they are not of one model."""
    sides = [table.intact(folder) for folder in (one, other)]
    first = table.of(sides[0])
    same = {name: sides[0][name] for name in ("weights_sha256", "tokenizer_sha256", "adapter", "layer", "width")}
    table.refuse_other(other, sides[1], same)
    table.refuse_other(one, sides[0], {"tokenizer_sha256": frame.sha256})
    contents = [table.read(folder) for folder in (one, other)]
    joined = edit.merged(contents[0], contents[1], facts.place(encoder, frame, contents[1].facts))
    with locks.held(out, "engram memory merge"):
        table.write(out, first, joined, one)
    return len(joined.facts)


@contextlib.contextmanager
def without_memory(folder: Path) -> Iterator[Path | None]:
    """A folder with the LoRA adapter of this one and no memory, for the time being; None where there is no adapter."""
    files = table.lora_files(folder)
    if not files:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="engram-") as name:
        for path in files:
            write_bytes(Path(name) / path.name, read_bytes(path))
        yield Path(name)


def _contents(folder: Path, of: Of) -> Contents:
    if not table.is_memory(folder):
        return edit.empty(of.width)
    known = table.intact(folder)
    right = {name: getattr(of, name) for name in ("weights_sha256", "tokenizer_sha256", "adapter", "layer", "width")}
    table.refuse_other(folder, known, right)
    return table.read(folder)
