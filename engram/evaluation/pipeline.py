"""Every stage of one run, from patterns to comparison, in a folder of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engram.backends import Progress
from engram.dataset import build
from engram.evaluation import compare, evaluate
from engram.models.model import Model
from engram.patterns.loading import load_patterns
from engram.plan.config import Config
from engram.support import console
from engram.training import teach_memory, train

# what a run leaves behind, and the schema of each
DOCUMENTS = {"training": "training", "baseline": "result", "tuned": "result", "comparison": "comparison"}


def run(
    backend: str, model: Model, config: Config, files: Sequence[Path], folder: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """Make data, train, answer before and after, compare; everything goes into `folder`. The comparison.

    `folder` gets `data/`, `adapter/` and the documents of DOCUMENTS. Split, adapter and batches follow the
    configuration's seed.
    """
    data, adapter = folder / "data", folder / "adapter"
    build.write_data(load_patterns(files), files, data, config.seed)
    with console.TrainingBar() as progress:
        _taught(backend, model, config, data, adapter, folder / "training.json", progress)
    for stage, tuned in (("baseline", None), ("tuned", adapter)):
        evaluate.evaluate(backend, model, tuned, config, data, folder / f"{stage}.json", report)
    return compare.compare(folder)


def _taught(
    backend: str, model: Model, config: Config, data: Path, adapter: Path, log: Path, progress: Progress
) -> None:
    """What the recipe's method teaches, in the folder `adapter`; of `both` the LoRA adapter lies beside it."""
    if config.method == "lora":
        train.train(backend, model, config, data, adapter, log, progress)
        return
    under = adapter.with_name("lora") if config.method == "both" else None
    if under:
        lora = dataclasses.replace(config, method="lora")
        train.train(backend, model, lora, data, under, under.with_suffix(".json"), progress)
    teach_memory.train(backend, model, config, data, adapter, log, progress, under)
