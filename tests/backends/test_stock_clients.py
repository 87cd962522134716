"""The stock tools read what engram writes: mlx_lm.lora, mlx_lm.generate, datasets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import Run

from engram.dataset.build import write_data
from engram.patterns.loading import find_files, load_patterns
from engram.support.files import BUNDLED


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock") / "data"
    files = find_files()
    write_data(load_patterns(files), files, folder, seed=0)
    return folder


def stock(*arguments: str) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_stock_mlx_lm_trains_on_the_data_and_answers_with_the_adapter(data: Path, tmp_path: Path) -> None:
    options = ["--iters", "2", "--batch-size", "2", "--val-batches", "1", "--num-layers", "1"]
    places = ["--data", str(data), "--adapter-path", str(tmp_path / "adapter")]
    stock("mlx_lm", "lora", "--model", str(BUNDLED / "tiny"), "--train", *places, *options)
    assert (tmp_path / "adapter" / "adapters.safetensors").is_file()


def test_stock_generate_answers_with_engrams_adapter(run: Run) -> None:
    row = next(a for a in run.tuned["answers"] if a["exact"] and a["split_kind"] == "recall")
    options = ["--max-tokens", "16", "--temp", "0", "--verbose", "False"]
    places = ["--model", str(run.model.path), "--adapter-path", str(run.root / "adapter")]
    out = stock("mlx_lm", "generate", *places, "--prompt", row["prompt"], *options)
    assert row["expected"] in out


def test_stock_datasets_reads_the_data(data: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = {name: str(data / f"{name}.jsonl") for name in ("train", "valid", "test")}
    read = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path))
    for name in files:
        assert read[name].num_rows == sum(1 for _ in (data / f"{name}.jsonl").open())
    first = read["train"][0]
    assert [message["role"] for message in first["messages"]] == ["user", "assistant"]
