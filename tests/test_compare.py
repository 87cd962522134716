"""Before and after: what may be compared, what the verdict says, and what is kept."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from packs import refusal

from engram import results, schema
from engram.compare import change, compare, stored
from engram.config import Config

HASH = {letter: letter * 64 for letter in "abcdef"}
SCORE = {"n": 20, "exact": 0.5, "ci95": [0.3, 0.7], "prefix": 0.5, "similarity": 0.6, "nll": 1.0}


def answer(number: int, split_kind: str, exact: bool) -> dict[str, Any]:
    return {
        "id": f"{number}-tell", "pattern": str(number), "kind": "k", "category": "c", "phrasing": "tell",
        "split_kind": split_kind, "prompt": f"Tell me, in short: {number}", "expected": "yes",
        "answer": "yes" if exact else "no", "ended": True, "exact": exact, "prefix": exact,
        "similarity": float(exact), "nll": 0.5,
    }  # fmt: skip


def result(stage: str, recall: list[bool], generalization: list[bool], backend: str = "mlx") -> dict[str, Any]:
    """A small valid result document."""
    kinds = ["recall"] * len(recall) + ["generalization"] * len(generalization)
    answers = [
        answer(i, kind, exact) for i, (kind, exact) in enumerate(zip(kinds, recall + generalization, strict=True))
    ]
    return {
        "schema_version": 1,
        "stage": stage,
        "backend": backend,
        "device": "cpu",
        "model": {"name": "tiny", "revision": None, "weights_sha256": HASH["a"], "parameters": 1000},
        "adapter": {"sha256": HASH["b"]} if stage == "tuned" else None,
        "data": {"manifest_sha256": HASH["c"], "seed": 0},
        "recipe": Config().as_dict(),
        "scoring": {"version": 1, "max_new_tokens": 32},
        "provenance": results.provenance(),
        "splits": {name: {**SCORE, "by_category": {"c": SCORE}} for name in ("recall", "generalization")},
        "consistency": {
            "patterns": 0, "phrasings": [], "phrasing_agreement": None, "samples": 0, "temperature": 0.7,
            "sample_agreement": None, "sample_exact": None,
        },
        "latency": {"prompts": 0, "first_token_seconds": None, "tokens_per_second": None},
        "timings": {},
        "answers": answers,
    }  # fmt: skip


def training(adapter: str) -> dict[str, Any]:
    document = result("tuned", [True], [])
    return {
        **{name: document[name] for name in ("schema_version", "backend", "device", "model", "data")},
        **{name: document[name] for name in ("recipe", "provenance")},
        "adapter": {"sha256": adapter, "parameters": 10},
        "steps": [{"step": 1, "loss": 1.0, "learning_rate": 0.1, "answer_tokens": 3, "seconds": 0.1}],
        "validation": [],
        "summary": {
            "steps": 1, "rows": 1, "tokens": 9, "train_seconds": 0.1, "wall_seconds": 1.0, "tokens_per_second": 90.0,
            "peak_memory_bytes": 1, "final_loss": 1.0, "validation_loss": None,
        },
    }  # fmt: skip


FEW, MANY = [False] * 18 + [True] * 2, [True] * 16 + [False] * 2 + [True] * 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results in which recall rises from 2 to 18 of 20, and generalization does not move."""
    for backend in ("mlx", "cuda"):
        for stage, recall in (("baseline", FEW), ("tuned", MANY)):
            document = result(stage, recall, [False, True, False, False], backend)
            results.write(tmp_path / backend / f"{stage}.json", document, "result")
    return tmp_path


def edit(path: Path, *keys: Any, to: Any) -> None:
    document = json.loads(path.read_text("utf-8"))
    part = document
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    path.write_text(json.dumps(document))


def test_a_comparison_says_what_changed_and_by_how_much(folder: Path) -> None:
    document = compare(folder, "mlx")
    recall, generalization = document["improvement"]["recall"], document["improvement"]["generalization"]
    assert (recall["n"], recall["exact"], recall["fixed"], recall["broken"]) == (20, 0.8, 16, 0)
    assert recall["p_value"] == pytest.approx(2 / 2**16) and recall["verdict"] == "gain"
    assert 0.5 < recall["ci95"][0] < 0.8 < recall["ci95"][1] <= 1.0
    assert generalization == {
        "n": 4, "exact": 0.0, "ci95": (0.0, 0.0), "p_value": 1.0, "fixed": 0, "broken": 0, "verdict": "not shown"
    }  # fmt: skip
    assert document["training"] is None


def test_a_comparison_is_written_and_is_valid(folder: Path) -> None:
    compare(folder, "mlx")
    document = json.loads((folder / "mlx/comparison.json").read_text("utf-8"))
    assert schema.problems(document, "comparison") == [] and stored(folder, "mlx") == document
    assert document["sources"] == {
        stage: results.sha256(folder / f"mlx/{stage}.json") for stage in ("baseline", "tuned")
    }


def test_every_backends_last_comparison_is_kept(folder: Path) -> None:
    compare(folder, "mlx")
    compare(folder, "cuda")
    edit(folder / "mlx/tuned.json", "answers", 0, "exact", to=False)
    compare(folder, "mlx")
    document = json.loads((folder / "comparison.json").read_text("utf-8"))
    assert schema.problems(document, "comparisons") == []
    assert sorted(document["backends"]) == sorted(document["improvement"]) == ["cuda", "mlx"]
    for backend, exact in (("mlx", 0.75), ("cuda", 0.8)):
        assert document["improvement"][backend]["recall"]["exact"] == exact
        assert document["improvement"][backend] == document["backends"][backend]["improvement"]
        assert document["backends"][backend] == json.loads((folder / backend / "comparison.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("model", "weights_sha256"), HASH["d"], f"model.weights_sha256: '{HASH['a']}' and '{HASH['d']}'"),
        (("model", "revision"), "main", "model.revision: None and 'main'"),
        (("data", "manifest_sha256"), HASH["d"], f"data.manifest_sha256: '{HASH['c']}' and '{HASH['d']}'"),
        (("data", "seed"), 1, "data.seed: 0 and 1"),
        (("scoring", "version"), 2, "scoring.version: 1 and 2"),
        (("scoring", "max_new_tokens"), 8, "scoring.max_new_tokens: 32 and 8"),
        (("backend",), "cuda", "backend: 'mlx' and 'cuda'"),
        (("stage",), "baseline", "stage: 'baseline' and 'baseline'"),
        (("adapter",), None, "adapter: a baseline has none, a tuned model has one"),
        (("answers", 0, "expected"), "no", "answers: 2 rows are not the same prompt and expected answer in both"),
        (("answers", 0, "prompt"), "x", "answers: 2 rows are not the same prompt and expected answer in both"),
        (("answers", 0, "split_kind"), "generalization",
         "answers: 2 rows are not the same prompt and expected answer in both"),
    ],
)  # fmt: skip
def test_documents_of_different_things_are_not_compared(
    keys: tuple[Any, ...], value: Any, said: str, folder: Path
) -> None:
    edit(folder / "mlx/tuned.json", *keys, to=value)
    error = refusal(compare, folder, "mlx")
    assert error.problems == (said,)
    assert (error.what, error.where) == ("baseline and tuned are not comparable", str(folder / "mlx"))
    assert not (folder / "mlx/comparison.json").exists() and not (folder / "comparison.json").exists()


def test_every_difference_is_named_at_once(folder: Path) -> None:
    for keys, value in ((("data", "seed"), 7), (("model", "name"), "x"), (("scoring", "version"), 3)):
        edit(folder / "mlx/tuned.json", *keys, to=value)
    assert refusal(compare, folder, "mlx").problems == (
        "model.name: 'tiny' and 'x'", "data.seed: 0 and 7", "scoring.version: 1 and 3"
    )  # fmt: skip


def test_a_missing_row_is_seen(folder: Path) -> None:
    document = json.loads((folder / "mlx/tuned.json").read_text("utf-8"))
    edit(folder / "mlx/tuned.json", "answers", to=document["answers"][1:])
    assert refusal(compare, folder, "mlx").problems[0].startswith("answers: 1 rows")


def test_what_may_differ_may(folder: Path) -> None:
    for keys, value in ((("device",), "gpu"), (("timings",), {"load_seconds": 1})):
        edit(folder / "mlx/tuned.json", *keys, to=value)
    assert compare(folder, "mlx")["device"] == "gpu"


def test_another_recipe_is_refused_by_the_setting(folder: Path) -> None:
    edit(folder / "mlx/tuned.json", "recipe", "learning_rate", to=0.5)
    assert any(line.startswith("recipe.learning_rate: ") for line in refusal(compare, folder, "mlx").problems)


@pytest.mark.parametrize("stage", ["baseline", "tuned"])
def test_a_missing_result_names_its_command(stage: str, folder: Path) -> None:
    (folder / f"mlx/{stage}.json").unlink()
    assert str(refusal(compare, folder, "mlx")) == f"{folder}/mlx/{stage}.json: no such result\n  fix: make eval"
    assert refusal(stored, folder, "mlx").fix == "make compare"


@pytest.mark.parametrize("content", ["{", '{"schema_version": 1}', "[]"])
def test_a_broken_collection_says_which_file_to_take_away(content: str, folder: Path) -> None:
    (folder / "comparison.json").write_text(content)
    assert refusal(compare, folder, "mlx").fix == f"rm {folder}/comparison.json; make compare"


@pytest.mark.parametrize(("adapter", "kept"), [(HASH["b"], True), (HASH["e"], False)])
def test_only_the_log_of_the_same_adapter_is_taken_in(adapter: str, kept: bool, folder: Path) -> None:
    log = training(adapter)
    results.write(folder / "mlx/training.json", log, "training")
    assert compare(folder, "mlx")["training"] == (log["summary"] if kept else None)


def test_the_order_of_the_answers_does_not_matter(folder: Path) -> None:
    before = compare(folder, "mlx")["improvement"]
    document = json.loads((folder / "mlx/tuned.json").read_text("utf-8"))
    edit(folder / "mlx/tuned.json", "answers", to=document["answers"][::-1])
    assert compare(folder, "mlx")["improvement"] == before


def pairs(same: int, fixed: int, broken: int) -> tuple[list[bool], list[bool]]:
    before = [True] * same + [False] * fixed + [True] * broken
    return before, [True] * same + [True] * fixed + [False] * broken


@pytest.mark.parametrize(
    ("same", "fixed", "broken", "verdict"),
    [
        (20, 0, 0, "not shown"),
        (20, 20, 0, "gain"),
        (20, 0, 20, "loss"),
        (0, 10, 10, "not shown"),
        (0, 6, 0, "gain"),
        (0, 5, 0, "not shown"),  # the interval is [1, 1], but five pairs are too few: p = 0.0625
        (30, 9, 2, "not shown"),  # the interval is above 0, but p = 0.065
        (30, 2, 9, "not shown"),
        (0, 0, 0, "not measured"),
    ],
)
def test_the_verdict_needs_the_interval_and_the_test(same: int, fixed: int, broken: int, verdict: str) -> None:
    found = change(*pairs(same, fixed, broken))
    assert found["verdict"] == verdict
    assert (found["n"], found["fixed"], found["broken"]) == (same + fixed + broken, fixed, broken)


def test_a_verdict_is_never_given_where_the_interval_covers_zero() -> None:
    for fixed in range(0, 30, 3):
        for broken in range(0, 30, 3):
            found = change(*pairs(10, fixed, broken))
            low, high = found["ci95"]
            if low <= 0 <= high or found["p_value"] >= 0.05:
                assert found["verdict"] == "not shown"
            else:
                assert found["verdict"] == ("gain" if fixed > broken else "loss")


def test_without_test_rows_nothing_is_measured(tmp_path: Path) -> None:
    for stage in ("baseline", "tuned"):
        results.write(tmp_path / "mlx" / f"{stage}.json", result(stage, FEW, []), "result")
    document = compare(tmp_path, "mlx")
    assert document["improvement"]["generalization"] == {
        "n": 0, "exact": None, "ci95": None, "p_value": None, "fixed": 0, "broken": 0, "verdict": "not measured"
    }  # fmt: skip


def test_comparing_changes_no_result(folder: Path) -> None:
    before = copy.deepcopy({path.name: path.read_bytes() for path in (folder / "mlx").iterdir()})
    compare(folder, "mlx")
    assert {name: (folder / "mlx" / name).read_bytes() for name in before} == before
