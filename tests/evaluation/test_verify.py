"""Deliberate breaks of results, data, model and adapter: each is caught by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from documents import HASH, edit, training, write_run
from packs import refusal
from small_run import Run

from engram.cli import main
from engram.evaluation import compare_runs, seeds, verify
from engram.evaluation.compare import compare
from engram.plan import documents


@pytest.fixture
def copied(run: Run, tmp_path: Path) -> Path:
    """The whole small run, to be spoiled."""
    shutil.copytree(run.root, tmp_path / "run")
    adapters = tmp_path / "run" / "adapters"
    adapters.mkdir()
    shutil.move(tmp_path / "run" / "adapter", adapters / "mlx")
    return tmp_path / "run"


def problems(root: Path, name: str) -> list[str]:
    places = verify.Places(root / "data", root / "adapters")
    return [line for finding in verify.verify(root / "results" / name, places) for line in finding.problems]


@pytest.mark.parametrize("name", ["baseline", "tuned", "training", "comparison"])
def test_what_the_stages_wrote_is_in_order(name: str, copied: Path) -> None:
    places = verify.Places(copied / "data", copied / "adapters")
    found = verify.verify(copied / f"results/mlx/{name}.json", places)
    assert [finding for finding in found if finding.problems or finding.skipped] == [] and len(found) >= 3


EDITS: dict[str, tuple[str, tuple[Any, ...], Any, str]] = {
    "a score": ("tuned", ("answers", 0, "exact"), False, ".exact: False"),
    "an answer": ("tuned", ("answers", 0, "answer"), "x", ".similarity"),
    "a share": ("tuned", ("splits", "recall", "exact"), 0.123, "splits.recall.exact: 0.123"),
    "an interval": ("tuned", ("splits", "recall", "ci95"), [0.5, 0.6], "splits.recall.ci95"),
    "consistency": ("tuned", ("repeats", 0, "greedy", 0), "?", "consistency.phrasing_agreement"),
    "latency": ("tuned", ("latency", "tokens_per_second"), 1e6, "latency.tokens_per_second"),
    "retention": ("tuned", ("retention", "chat", "perplexity"), 1.0, "retention.chat.perplexity: 1.0"),
    "a question": ("baseline", ("answers", 0, "prompt"), "What?", "'What?'"),
    "another model": ("tuned", ("model", "weights_sha256"), HASH["d"], "model.weights_sha256"),
    "a learning rate": ("training", ("steps", 3, "learning_rate"), 0.5, "steps[3].learning_rate: 0.5"),
    "the final loss": ("training", ("summary", "final_loss"), 0.0, "summary.final_loss: 0.0"),
    "the speed": ("training", ("summary", "tokens_per_second"), 1.0, "summary.tokens_per_second"),
    "an answer after examples": ("baseline", ("few_shot", 0, "answer"), "x", ".similarity"),
    "the examples' gain": ("comparison", ("few_shot", "recall", "change", "fixed"), 99, "few_shot.recall.change.fixed"),
    "a gain": ("comparison", ("improvement", "recall", "p_value"), 1e-9, "improvement.recall.p_value"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_number_is_caught_by_name(name: str, copied: Path) -> None:
    document, keys, value, said = EDITS[name]
    edit(copied / f"results/mlx/{document}.json", *keys, to=value)
    assert any(said in line for line in problems(copied, f"mlx/{document}.json"))


def test_a_changed_test_row_is_caught(copied: Path) -> None:
    path = copied / "data/test.jsonl"
    path.write_text(path.read_text("utf-8").replace("green", "purple"), "utf-8")
    found = problems(copied, "mlx/tuned.json")
    assert "changed or gone since the manifest was written: test.jsonl" in found


@pytest.mark.parametrize("document", ["tuned", "training"])
def test_another_adapter_is_caught(document: str, copied: Path) -> None:
    path = copied / "adapters/mlx/adapters.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert any("adapter.sha256" in line for line in problems(copied, f"mlx/{document}.json"))


def test_a_comparison_of_changed_documents_is_caught(copied: Path) -> None:
    edit(copied / "results/mlx/baseline.json", "scoring", "max_new_tokens", to=8)
    found = problems(copied, "mlx/comparison.json")
    assert "sources.baseline: baseline.json is another file now" in found
    assert "scoring.max_new_tokens: 8 and 32" in found


def test_what_is_not_here_is_said_and_is_no_failure(copied: Path, tmp_path: Path) -> None:
    edit(copied / "results/mlx/tuned.json", "model", "name", to="somebody/else")
    found = verify.verify(copied / "results/mlx/tuned.json", verify.Places(tmp_path / "no", tmp_path / "none"))
    assert not any(finding.problems for finding in found)
    assert sum(bool(finding.skipped) for finding in found) == 3  # data, model, adapter


def test_the_command_checks_every_document_and_fails_by_name(copied: Path) -> None:
    compare_runs.collect(copied / "results")
    arguments = ["results", "verify", *(f"--{n}={copied / n}" for n in ("data", "adapters", "results"))]
    good = CliRunner().invoke(main, arguments)
    assert good.exit_code == 0 and good.output.count("✓") >= 15 and "✗" not in good.output
    edit(copied / "results/mlx/tuned.json", "splits", "recall", "exact", to=0.5)
    bad = CliRunner().invoke(main, arguments)
    assert bad.exit_code == 2 and "splits.recall.exact: 0.5, recomputed" in bad.output


def test_what_is_no_result_of_this_version_is_refused(copied: Path, tmp_path: Path) -> None:
    path, places = tmp_path / "x.json", verify.Places(tmp_path, tmp_path)
    for content, said in (("{", "not JSON"), ("[]", "not a result"), ('{"document": "x"}', "not a")):
        path.write_text(content)
        assert said in refusal(verify.verify, path, places).what
    edit(copied / "results/mlx/tuned.json", "schema_version", to=1)
    assert "schema_version" in str(refusal(verify.verify, copied / "results/mlx/tuned.json", places))


def test_runs_beside_each_other_are_verified_from_their_answers(tmp_path: Path) -> None:
    for backend in ("cpu", "mlx"):
        write_run(tmp_path / "results" / backend, backend)
        compare(tmp_path / "results" / backend)
    compare_runs.collect(tmp_path / "results")
    assert problems(tmp_path, "comparison.json") == []
    edit(tmp_path / "results/comparison.json", "pairs", 0, "splits", "recall", "exact", to=0.25)
    edit(tmp_path / "results/comparison.json", "pairs", 0, "same_answers", "tuned_test", "share", to=0.5)
    found = problems(tmp_path, "comparison.json")
    edited = ["pairs[0].splits.recall.exact", "pairs[0].same_answers.tuned_test.share"]
    assert [line.split(":")[0] for line in found] == edited


def test_a_summary_of_seeds_is_verified_from_its_runs(tmp_path: Path) -> None:
    place = tmp_path / "results/seeds/mlx/0"
    write_run(place)
    documents.write(place / "training.json", training(HASH["b"]), "training")
    compare(place)
    documents.write(tmp_path / "results/seeds/mlx.json", seeds.summarise([place]), "seeds")
    assert problems(tmp_path, "seeds/mlx.json") == []
    edit(tmp_path / "results/seeds/mlx.json", "splits", "recall", "after", "mean", to=1.0)
    assert problems(tmp_path, "seeds/mlx.json")[0].startswith("splits.recall.after.mean: 1.0")
    shutil.rmtree(place)
    (finding,) = verify.verify(tmp_path / "results/seeds/mlx.json", verify.Places(tmp_path, tmp_path))
    assert finding.skipped == "no run of seed 0 next to it"


def test_only_one_unit_of_the_last_digit_is_left_to_another_machine() -> None:
    for right, same, other in ((7.30205, 7.30206, 7.30207), (0.0859999, 0.086, 0.0860001), (0.999999, 1.0, 1.00001)):
        assert verify._differences(right, same) == ()
        assert len(verify._differences(right, other)) == 1
