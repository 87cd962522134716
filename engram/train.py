"""The stage: configuration and data -> an adapter and its training log."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from engram import backends, results
from engram.backends import Progress, TrainingRun
from engram.config import Config
from engram.dataset import read_manifest, read_split
from engram.encoding import (
    Batch,
    Encoded,
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
    manifest = read_manifest(data)
    encoder = load_encoder(model)
    encoded = {name: encode(encoder, read_split(data, name), config.max_length) for name in ("train", "valid")}
    plan = plan_batches(encoded["train"], config)
    batches = [make_batch([encoded["train"][i] for i in rows], encoder.pad_id) for rows in plan]
    checks = [
        make_batch([encoded["valid"][i] for i in rows], encoder.pad_id)
        for rows in plan_validation(encoded["valid"], config)
    ]
    with new_folder(adapter) as work:
        run = backend.train(model, batches, checks, config, work, progress)
        weights = sha256(work / backend.WEIGHTS)
        document = {
            "document": "training",
            "schema_version": results.SCHEMA_VERSION,
            "backend": backend_name,
            "device": run.device,
            "model": model.describe(),
            "data": results.data_identity(manifest, data),
            "recipe": config.as_dict() | {"steps": len(batches)},
            "adapter": {"sha256": weights, "parameters": run.trainable_parameters},
            "provenance": results.provenance(),
            "steps": _steps(run, batches, config),
            "validation": [{"step": step, "loss": loss} for step, loss in run.validation],
            "summary": _summary(run, batches, plan, encoded["train"], time.perf_counter() - started),
        }
        results.write(log, document, "training")
    return document


def _steps(run: TrainingRun, batches: list[Batch], config: Config) -> list[dict[str, Any]]:
    rates = learning_rates(config, len(batches))
    return [
        {"step": i + 1, "loss": loss, "learning_rate": rate, "answer_tokens": batch.answer_tokens, "seconds": seconds}
        for i, (loss, rate, batch, seconds) in enumerate(zip(run.losses, rates, batches, run.seconds))
    ]


def _summary(
    run: TrainingRun, batches: list[Batch], plan: list[list[int]], encoded: list[Encoded], wall: float
) -> dict[str, Any]:
    tokens = sum(len(encoded[i].tokens) for rows in plan for i in rows)
    seconds = sum(run.seconds)
    return {
        "steps": len(batches),
        "rows": sum(len(rows) for rows in plan),
        "tokens": tokens,
        "train_seconds": seconds,
        "wall_seconds": wall,
        "tokens_per_second": tokens / seconds if seconds else 0.0,
        "peak_memory_bytes": run.peak_memory_bytes,
        "final_loss": run.losses[-1],
        "validation_loss": run.validation[-1][1] if run.validation else None,
    }
