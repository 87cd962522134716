"""Several backends' runs side by side: what is refused, what is tested, what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from documents import FEW, HASH, MANY, edit, training, write_run
from packs import refusal

from engram.cli import main
from engram.evaluation import compare_runs
from engram.evaluation.compare import STAGES, compare
from engram.plan import documents
from engram.show.demo import platforms
from engram.support import schema

ONE_LESS = [False, *MANY[1:]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs; the second gives another answer to one taught pattern."""
    for backend, after, loss in (("cpu", MANY, 1.0), ("mlx", ONE_LESS, 1.25)):
        write_run(tmp_path / backend, backend, after=after)
        documents.write(tmp_path / backend / "training.json", training(HASH["b"], backend, (2.0, loss)), "training")
        compare(tmp_path / backend)
    return tmp_path


def test_two_runs_are_paired_and_tested(folder: Path) -> None:
    document = compare_runs.collect(folder)
    assert schema.problems(json.loads((folder / "comparison.json").read_text()), "comparisons") == []
    assert sorted(document["runs"]) == sorted(document["improvement"]) == ["cpu", "mlx"]
    (pair,) = document["pairs"]
    recall = pair["splits"]["recall"]
    assert (pair["runs"], pair["refused"]) == (["cpu", "mlx"], [])
    assert (recall["n"], recall["fixed"], recall["broken"], recall["verdict"]) == (20, 0, 1, "not shown")
    assert pair["same_answers"]["tuned_test"]["share"] == pytest.approx(23 / 24)
    assert pair["same_answers"]["baseline_test"]["share"] == pair["same_answers"]["tuned_general"]["share"] == 1.0
    assert pair["losses"] == {"steps": 2, "max": 0.25, "mean": 0.125}


def test_two_methods_are_compared_by_their_answers_not_by_their_losses(folder: Path) -> None:
    for stage in STAGES:
        for key, value in (("method", "memory"), ("memory_rate", 0.3)):
            edit(folder / "mlx" / f"{stage}.json", "recipe", key, to=value)
    edit(folder / "mlx" / "training.json", "recipe", "method", to="memory")
    compare(folder / "mlx")
    (pair,) = compare_runs.collect(folder)["pairs"]
    assert (pair["refused"], pair["settings"], pair["losses"]) == ([], [], None)
    assert (pair["splits"]["recall"]["fixed"], pair["splits"]["recall"]["broken"]) == (0, 1)


def test_two_recipes_are_compared_by_their_answers_and_their_settings_named(folder: Path) -> None:
    for stage in STAGES:
        edit(folder / "mlx" / f"{stage}.json", "recipe", "learning_rate", to=0.5)
    compare(folder / "mlx")
    (pair,) = compare_runs.collect(folder)["pairs"]
    assert (pair["refused"], pair["losses"]) == ([], None)
    assert pair["settings"] == ["recipe.learning_rate: 0.001 and 0.5"]
    assert (pair["splits"]["recall"]["fixed"], pair["splits"]["recall"]["broken"]) == (0, 1)
    shown = CliRunner().invoke(main, ["compare", "--across", "--results", str(folder)])
    assert "settings that differ: recipe.learning_rate: 0.001 and 0.5 same answers" in " ".join(shown.output.split())
    error = refusal(platforms.load, ["cpu", "mlx"], folder)  # a difference there would be taken for the backends'
    assert error.problems == ("recipe.learning_rate: 0.001 and 0.5",)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("data", "manifest_sha256"), HASH["d"], f"data.manifest_sha256: '{HASH['c']}' and '{HASH['d']}'"),
        (("model", "weights_sha256"), HASH["d"], f"model.weights_sha256: '{HASH['a']}' and '{HASH['d']}'"),
        (("recipe", "quantize"), "4bit", "recipe.quantize: 'none' and '4bit'"),
        (("scoring", "max_new_tokens"), 64, "scoring.max_new_tokens: 32 and 64"),
        (("answers", 3, "prompt"), "x", "answers: not the same question and expected answer in 3-tell"),
        (("general", 5, "tokens"), 11, "general: not the same question and expected answer in text-1"),
    ],
)
def test_runs_of_different_things_are_refused(keys: tuple[Any, ...], value: Any, said: str, folder: Path) -> None:
    for stage in STAGES:
        edit(folder / "mlx" / f"{stage}.json", *keys, to=value)
    compare(folder / "mlx")
    document = compare_runs.collect(folder)
    assert document["pairs"][0] == {
        "runs": ["cpu", "mlx"], "refused": [said], "settings": [], "splits": None, "same_answers": None, "losses": None
    }  # fmt: skip
    shown = CliRunner().invoke(main, ["compare", "--across", "--results", str(folder)])
    assert shown.exit_code == 0 and said in " ".join(shown.output.split())


def test_another_name_of_the_same_weights_is_no_difference(folder: Path) -> None:
    for stage in STAGES:
        edit(folder / "mlx" / f"{stage}.json", "model", "name", to="copied")
    compare(folder / "mlx")
    assert compare_runs.collect(folder)["pairs"][0]["refused"] == []


def test_a_stale_or_broken_run_is_named_and_stops_no_other(folder: Path) -> None:
    write_run(folder / "mlx", "mlx", after=FEW)
    document = compare_runs.collect(folder)
    assert list(document["runs"]) == ["cpu"]
    assert document["unreadable"]["mlx"].endswith("tuned changed since comparison.json was made")
    (folder / "mlx/comparison.json").write_text("{")
    assert compare_runs.collect(folder)["unreadable"]["mlx"].startswith("not JSON")


def test_without_results_the_command_is_named(tmp_path: Path) -> None:
    assert refusal(compare_runs.collect, tmp_path).fix == "make eval compare"


def test_the_table_stands_runs_beside_each_other(folder: Path) -> None:
    shown = CliRunner().invoke(main, ["compare", "--across", "--results", str(folder)])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    assert "90.0 % [69.9, 97.2] 85.0 % [64.0, 94.8]" in text
    assert "recall 20 1 0 -5.0 [-15.0, +0.0] 1 no difference shown" in text
    assert "tuned on test prompts: 95.8 % [79.8, 99.3] of 24" in text
    assert "differ by 0.25 nats at most over 2 steps" in text
