"""Train a LoRA adapter: settings and data in, adapter and training log out."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engram import __version__, backends
from engram.backends import Loaded
from engram.dataset.build import read_manifest, read_split
from engram.memory.table import is_memory
from engram.models import conversion
from engram.models.model import Model
from engram.models.tokenizer import Encoded, Encoder, load_encoder
from engram.plan import batches as batching
from engram.plan import checkpoint, documents
from engram.plan.batches import Batch, Plan, encode, make_batch, plan_batches, plan_replay, plan_validation
from engram.plan.checkpoint import Keeper, Saving
from engram.plan.config import Config, learning_rates
from engram.plan.curve import Progress, TrainingRun
from engram.support import locks, machine
from engram.support.errors import EngramError
from engram.support.files import new_folder, sha256
from engram.training import processes, replay
from engram.training.replay import Replay

# settings that do not influence training
EVALUATION = (
    *("name", "max_new_tokens", "samples", "temperature", "consistency_prompts", "latency_prompts"),
    *("general_rows", "shots"),
)
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # the order of a sum can depend on them


def train(
    backend_name: str,
    model: Model,
    config: Config,
    data: Path,
    adapter: Path,
    log: Path,
    progress: Progress,
    saving: Saving | None = None,
    loaded: Loaded | None = None,
) -> dict[str, Any]:
    """Train an adapter, write it to `adapter` and its log to `log`; return the log.

    Both are written whole or not at all, the adapter last: an adapter means that the run was finished. An interrupted
    run continues from its checkpoint, next to `adapter`, and ends with the same bytes. Raises EngramError for missing
    or changed data, rows that are too long, another run's checkpoint, and whatever the backend refuses. Of several
    processes that a launcher started, only the first writes; the others compute along and return an empty log.
    `loaded` has the untaught model if this process needs it for other stages too.
    """
    loaded = loaded or Loaded(backend_name, model, config.quantize)
    backend = backends.get(backend_name)
    ranks = backend.join()
    known = documents.data_identity(read_manifest(data), data)
    own = None
    if config.replay:
        if ranks.rank:  # the first of several processes makes the rows, and the others read them
            ranks.largest(0)
        own = replay.of(loaded, load_encoder(model))
        if not ranks.rank:
            ranks.largest(0)
    plan = planned(model, config, data, own)
    documents.refuse_changed_data(known, data)
    if backend_name != "cuda":
        batching.refuse_too_large(model, plan.batches, machine.free_memory())
    loaded.drop()  # the backend loads it as training needs it
    identity = _identity(backend_name, backend.device(), model, config, known, plan) | {"world_size": ranks.size}
    processes.refuse_unlike(ranks, identity)
    saving = saving or Saving()
    if ranks.rank:
        follower = processes.follower(ranks, identity, saving.every)
        backend.train(model, plan, config, adapter, processes.Silent(), follower)
        return {}
    with (
        locks.held(adapter, "engram train"),
        _kept(checkpoint.path_for(adapter), identity, saving) as keeper,
        new_folder(adapter) as work,
    ):
        processes.lead(ranks, keeper)
        run = backend.train(model, plan, config, work, progress, keeper)
        described = {"name": "the model's own", "sha256": own.sha256, "rows": len(own.rows)} if own else None
        document = training_document(
            *(backend_name, model, config, known, run, sha256(work / backend.WEIGHTS), described),
            tokens=[(batch.answer_tokens, batch.real_tokens) for batch in plan.batches[: len(run.losses)]],
            rates=learning_rates(config, len(plan.batches))[: len(run.losses)],
            rows=sum(len(batch.tokens) for batch in plan.batches[: len(run.losses)]),
            wall_seconds=keeper.wall_seconds,
        )
        if ranks.size > 1:
            document |= {"world_size": ranks.size, "hosts": ranks.hosts}
        if keeper.resumed_at:
            document["resumed_at"] = list(keeper.resumed_at)
        documents.write(log, document, "training")
    return document


def planned(model: Model, config: Config, data: Path, own: Replay | None = None) -> Plan:
    """The batches of a run, the same for every backend, each with its replay rows if `own` has any.

    Raises EngramError for missing data and rows too long.
    """
    encoder = load_encoder(model)
    valid = encode(encoder, read_split(data, "valid"), config.max_length)
    rows, plan = rows_and_plan(encoder, config, data)
    batches = [make_batch([rows[i] for i in batch], encoder.pad_id) for batch in plan]
    checks = [make_batch([valid[i] for i in batch], encoder.pad_id) for batch in plan_validation(valid, config)]
    return Plan(with_replay(batches, own, config, encoder.pad_id) if own else batches, checks)


def with_replay(batches: Sequence[Batch], own: Replay, config: Config, pad_id: int) -> list[Batch]:
    """The batches, each with replay rows."""
    kept = (
        make_batch([own.rows[i] for i in chosen], pad_id, [own.likely[i] for i in chosen])
        for chosen in plan_replay(own.rows, config, len(batches))
    )
    return [dataclasses.replace(one, replay=rows) for one, rows in zip(batches, kept, strict=True)]


def rows_and_plan(encoder: Encoder, config: Config, data: Path) -> tuple[list[Encoded], list[list[int]]]:
    """All training rows, and the batches as indices into them."""
    rows = encode(encoder, read_split(data, "train"), config.max_length)
    return rows, plan_batches(rows, config)


def _identity(name: str, device: str, model: Model, config: Config, data: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Everything that the numbers of a run depend on; a checkpoint of a run that differs is refused."""
    digest = hashlib.sha256()  # of every number and row name
    for batch in (*plan.batches, *(b.replay for b in plan.batches if b.replay), *plan.validation):
        for part in (batch.tokens, batch.positions, batch.targets, batch.weights, *(batch.likely or ())):
            digest.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
        digest.update("\0".join(batch.ids).encode())
    identity = {
        "backend": name,
        "device": device,
        "model": model.describe(),
        "data": data,
        "recipe": {key: value for key, value in config.as_dict().items() if key not in EVALUATION},
        "batches": {"sha256": digest.hexdigest()},
        "engram": __version__,
        "layout": checkpoint.LAYOUT,
        "packages": machine.packages(),
        "environment": {key: value for key, value in machine.environment().items() if key in THREADS},
    }
    return dict(json.loads(json.dumps(identity)))  # with the types that reading a checkpoint gives


@contextlib.contextmanager
def _kept(place: Path, identity: dict[str, Any], saving: Saving) -> Iterator[Keeper]:
    """The keeper of a run, which continues from its checkpoint; that is deleted when the block ends without an error.

    Raises EngramError if the checkpoint is damaged, or of a run that differs, naming each field with both values.
    """
    begun = None
    if place.is_file() and not saving.fresh:
        known, begun = checkpoint.read(place)
        if lines := documents.differing(known, identity, sorted({*known, *identity})):
            what, fix = "this checkpoint is of another run (there, and now)", checkpoint.fix(place)
            raise EngramError(what, where=str(place), problems=lines, fix=f"put it back, or {fix}")
    if not begun:
        checkpoint.drop(place)
    yield Keeper(place, identity, saving.every, begun)
    checkpoint.drop(place)


def unlike(log: Mapping[str, Any], adapter: Path, weights: str, found: str) -> list[str]:
    """How what was taught in this folder, of SHA-256 `found`, differs from its training log.

    Damage can leave readable numbers: an adapter's files carry no checksum.
    """
    recipe = log["recipe"]
    sides: dict[str, tuple[Any, Any]] = {"weights": (found[:12], log["adapter"]["sha256"][:12])}
    if recipe.get("method", "lora") == "lora" and not is_memory(adapter):
        lora = conversion.read(adapter, weights)
        sides["rank"] = lora.rank, recipe["rank"]
        sides["scale"] = documents.rounded(lora.scale), documents.rounded(recipe["alpha"] / recipe["rank"])
    return [f"{name}: {here}, trained: {there}" for name, (here, there) in sides.items() if here != there]


def training_document(
    backend: str,
    model: Model,
    config: Config,
    data: Mapping[str, Any],
    run: TrainingRun,
    weights_sha256: str,
    own: Mapping[str, Any] | None = None,
    *,
    tokens: Sequence[tuple[int, int]],
    rates: Sequence[float],
    rows: int,
    wall_seconds: float,
) -> dict[str, Any]:
    """The training log of any method.

    `tokens` are the answer tokens and all tokens of each step, `rates` its learning rate; `rows` is the number of rows
    or facts that were trained on.
    """
    kept = run.kept.step if run.kept else len(tokens)
    seconds, total = sum(run.seconds), sum(real for _, real in tokens)
    steps = zip(run.losses, rates, tokens, run.seconds, strict=True)
    return {
        "document": "training",
        "schema_version": documents.SCHEMA_VERSION,
        "backend": backend,
        "device": run.device,
        "model": model.describe(),
        "data": data,
        "replay": own,
        "recipe": config.as_dict(),
        "adapter": {"sha256": weights_sha256, "parameters": run.trainable_parameters},
        "provenance": documents.provenance(),
        "steps": [
            {"step": i, "loss": loss, "learning_rate": rate, "answer_tokens": answer, "seconds": spent}
            for i, (loss, rate, (answer, _), spent) in enumerate(steps, 1)
        ],
        "validation": [check._asdict() for check in run.validation],
        **({"kept": run.kept._asdict()} if run.kept else {}),
        "summary": {
            "steps": len(tokens),
            "rows": rows,
            "tokens": total,
            "train_seconds": seconds,
            "wall_seconds": wall_seconds,
            "tokens_per_second": total / seconds if seconds else 0.0,
            "peak_memory_bytes": run.peak_memory_bytes,
            "final_loss": run.losses[-1],
            "validation_loss": next((c.loss for c in reversed(run.validation) if c.step == kept), None),
        },
    }
