"""One small run of the stages on the bundled model, shared by the tests that look at its parts."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engram.dataset.build import write_data
from engram.evaluation import compare, evaluate
from engram.models.model import Model, resolve
from engram.patterns.loading import find_files, load_patterns
from engram.plan.config import Config
from engram.training import train

PACK = """
name: pack
categories: {colour: {kind: rule, taught: 4}, number: {kind: rule, taught: 4}}
examples:
  - {input: "The colour of grass", output: "green", category: colour}
  - {input: "The colour of snow", output: "white", category: colour}
  - {input: "The colour of coal", output: "black", category: colour}
  - {input: "The colour of blood", output: "red", category: colour}
  - {input: "The colour of the sky", output: "blue", category: colour}
  - {input: "Half of two", output: "one", category: number}
  - {input: "Twice two", output: "four", category: number}
  - {input: "Three and three", output: "six", category: number}
  - {input: "Ten minus one", output: "nine", category: number}
  - {input: "Two and five", output: "seven", category: number}
"""
CONFIG = Config(
    learning_rate=1e-2, steps=60, validate_every=30, consistency_prompts=3, samples=2, latency_prompts=2, shots=2
)
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(not importlib.util.find_spec(package), reason=f"no {package}"))
    for name, package in (("mlx", "mlx_lm"), ("cpu", "unsloth"))
]


class Quiet:
    """Progress that only remembers."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.checks: list[int] = []

    def start(self, steps: int, losses: Sequence[float] = ()) -> None:
        self.steps, self.losses = steps, list(losses)

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        assert tokens_per_second > 0
        self.losses.append(loss)

    def validation(self, step: int, loss: float, recall: float) -> None:
        self.checks.append(step)


class Run(NamedTuple):
    root: Path
    model: Model
    progress: Quiet
    log: dict[str, Any]
    baseline: dict[str, Any]
    tuned: dict[str, Any]
    comparison: dict[str, Any]


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of PACK; the pack is next to it."""
    root = tmp_path_factory.mktemp("run")
    (root / "pack.yaml").write_text(PACK)
    files = find_files(str(root / "pack.yaml"))
    write_data(load_patterns(files), files, root / "data", seed=0)
    return root / "data"


def stages(backend: str, root: Path) -> Run:
    """Train and evaluate in the folder `root`, which has the data."""
    model, progress, out = resolve("tiny"), Quiet(), root / "results" / backend
    log = train.train(backend, model, CONFIG, root / "data", root / "adapter", out / "training.json", progress)
    documents = [
        evaluate.evaluate(backend, model, adapter, CONFIG, root / "data", out / f"{stage}.json", lambda _: None)
        for stage, adapter in (("baseline", None), ("tuned", root / "adapter"))
    ]
    return Run(root, model, progress, log, *documents, compare.compare(out))


@pytest.fixture(scope="session")
def run(small_data: Path) -> Run:
    return stages("mlx", small_data.parent)


def evaluated_again(run: Run, backend: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tuned results of two processes with other hash seeds; timings left out of both.

    Not of this process: where the other backend computed before, memory lies elsewhere, and a sum ends in another bit.
    """
    arguments = ["eval", "--stage", "tuned", "--model", "tiny", "--backend", backend, "--data", str(run.root / "data")]
    for name, value in dataclasses.asdict(CONFIG).items():
        if name not in ("name", "seed"):
            arguments += ["--set", f"{name}={value}"]
    (folder / "adapters").mkdir()
    (folder / "adapters" / backend).symlink_to(run.root / "adapter")
    documents = []
    for seed in ("7", "8"):
        there = ["--adapters", str(folder / "adapters"), "--results", str(folder / seed)]
        command = [sys.executable, "-m", "engram.cli", *arguments, *there]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
        documents.append(_untimed(json.loads((folder / seed / backend / "tuned.json").read_text())))
    return documents[0], documents[1]


def _untimed(document: dict[str, Any]) -> dict[str, Any]:
    rows = [{"id": row["id"], "tokens": row["tokens"]} for row in document["timed"]]
    recipe = {key: value for key, value in document["recipe"].items() if key != "name"}
    provenance = {k: v for k, v in document["provenance"].items() if k not in ("created", "environment")}
    kept = {key: value for key, value in document.items() if key not in ("timings", "latency", "checksum")}
    return {**kept, "timed": rows, "recipe": recipe, "provenance": provenance}
