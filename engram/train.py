"""The stage: configuration and data -> an adapter and its training log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram import backends, general, locks, results
from engram.backends import Progress, TrainingRun
from engram.config import Config
from engram.dataset import read_manifest, read_split
from engram.encoding import (
    Batch,
    Encoded,
    Encoder,
    encode,
    learning_rates,
    load_encoder,
    make_batch,
    plan_batches,
    plan_validation,
)
from engram.files import new_folder, sha256
from engram.model import Model


def train(
    backend_name: str, model: Model, config: Config, data: Path, adapter: Path, log: Path, progress: Progress
) -> dict[str, Any]:
    """Train an adapter, write it to `adapter` and its log to `log`; return the log.

    Both are written whole or not at all, the adapter last: where it is, the run was finished. Raises EngramError
    for missing or changed data, rows that are too long, and whatever the backend refuses.
    """
    started = time.perf_counter()
    backend = backends.get(backend_name)
    identity = results.data_identity(read_manifest(data), data)
    plan = planned(model, config, data)
    results.refuse_changed_data(identity, data)
    with locks.held(adapter, "engram train"), new_folder(adapter) as work:
        run = backend.train(model, plan.batches, plan.validation, config, work, progress)
        weights = sha256(work / backend.WEIGHTS)
        document = {
            "document": "training",
            "schema_version": results.SCHEMA_VERSION,
            "backend": backend_name,
            "device": run.device,
            "model": model.describe(),
            "data": identity,
            "replay": plan.replay,
            "recipe": config.as_dict() | {"steps": len(plan.batches)},
            "adapter": {"sha256": weights, "parameters": run.trainable_parameters},
            "provenance": results.provenance(),
            "steps": _steps(run, plan.batches, config),
            "validation": [{"step": step, "loss": loss} for step, loss in run.validation],
            "summary": _summary(run, plan.batches, time.perf_counter() - started),
        }
        results.write(log, document, "training")
    return document


@dataclass(frozen=True)
class Plan:
    """All that a backend trains and validates on, and the rows mixed in from elsewhere, if any."""

    batches: list[Batch]
    validation: list[Batch]
    replay: dict[str, Any] | None


def planned(model: Model, config: Config, data: Path) -> Plan:
    """The batches of a run, the same for every backend; raises EngramError for missing data and rows too long."""
    encoder = load_encoder(model)
    valid = encode(encoder, read_split(data, "valid"), config.max_length)
    rows, plan, mixed_in = rows_and_plan(model, encoder, config, data)
    return Plan(
        [make_batch([rows[i] for i in batch], encoder.pad_id) for batch in plan],
        [make_batch([valid[i] for i in batch], encoder.pad_id) for batch in plan_validation(valid, config)],
        mixed_in,
    )


def rows_and_plan(
    model: Model, encoder: Encoder, config: Config, data: Path
) -> tuple[list[Encoded], list[list[int]], dict[str, Any] | None]:
    """All rows that are trained on, the batches as indices into them, and what was mixed in from elsewhere."""
    train = encode(encoder, read_split(data, "train"), config.max_length)
    known = general.replay_set(model) if config.replay else None
    rows, plan = plan_batches(train, config, general.encode_general(encoder, known.rows) if known else ())
    used = len({i for batch in plan for i in batch if i >= len(train)})
    return rows, plan, {"name": known.name, "sha256": known.sha256, "rows": used} if known else None


def _steps(run: TrainingRun, batches: list[Batch], config: Config) -> list[dict[str, Any]]:
    rates = learning_rates(config, len(batches))
    return [
        {"step": i + 1, "loss": loss, "learning_rate": rate, "answer_tokens": batch.answer_tokens, "seconds": seconds}
        for i, (loss, rate, batch, seconds) in enumerate(zip(run.losses, rates, batches, run.seconds))
    ]


def _summary(run: TrainingRun, batches: list[Batch], wall: float) -> dict[str, Any]:
    tokens = sum(batch.real_tokens for batch in batches)
    seconds = sum(run.seconds)
    return {
        "steps": len(batches),
        "rows": sum(len(batch.tokens) for batch in batches),
        "tokens": tokens,
        "train_seconds": seconds,
        "wall_seconds": wall,
        "tokens_per_second": tokens / seconds if seconds else 0.0,
        "peak_memory_bytes": run.peak_memory_bytes,
        "final_loss": run.losses[-1],
        "validation_loss": run.validation[-1][1] if run.validation else None,
    }
