"""Every stage of one run, from patterns to comparison, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engram import compare, dataset, evaluate, show, train
from engram.config import Config
from engram.model import Model
from engram.patterns import stored_patterns

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
    dataset.write_data(stored_patterns(files), files, data, config.seed)
    with show.TrainingBar() as progress:
        train.train(backend, model, config, data, adapter, folder / "training.json", progress)
    for stage, tuned in (("baseline", None), ("tuned", adapter)):
        evaluate.evaluate(backend, model, tuned, config, data, folder / f"{stage}.json", report)
    return compare.compare(folder)
