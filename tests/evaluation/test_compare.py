"""Before and after: what may be compared, what the verdict says, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from documents import FEW, HASH, answer, edit, result, training, write_run
from packs import refusal

from engram.evaluation.compare import change, changes, compare, retention, stored
from engram.plan import documents
from engram.support import schema


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A run in which recall rises from 2 to 18 of 20, and generalization does not move."""
    write_run(tmp_path / "mlx")
    return tmp_path / "mlx"


def test_a_comparison_says_what_changed_and_by_how_much(place: Path) -> None:
    document = compare(place)
    recall, generalization = document["improvement"]["recall"], document["improvement"]["generalization"]
    assert (recall["n"], recall["exact"], recall["fixed"], recall["broken"]) == (20, 0.8, 16, 0)
    assert recall["p_value"] == pytest.approx(2 / 2**16) and recall["verdict"] == "gain"
    assert 0.5 < recall["ci95"][0] < 0.8 < recall["ci95"][1] <= 1.0
    assert generalization == {
        "n": 4, "exact": 0.0, "ci95": (0.0, 0.0), "p_value": 1.0, "fixed": 0, "broken": 0, "verdict": "not shown"
    }  # fmt: skip
    assert document["training"] is None


def test_a_comparison_is_written_and_is_valid(place: Path) -> None:
    compare(place)
    document = json.loads((place / "comparison.json").read_text("utf-8"))
    assert schema.problems(document, "comparison") == []
    assert stored(place) == {key: value for key, value in document.items() if key != documents.CHECKSUM}
    assert document["sources"] == {stage: documents.sha256(place / f"{stage}.json") for stage in ("baseline", "tuned")}


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("model", "weights_sha256"), HASH["d"], f"model.weights_sha256: '{HASH['a']}' and '{HASH['d']}'"),
        (("model", "revision"), "main", "model.revision: None and 'main'"),
        (("data", "manifest_sha256"), HASH["d"], f"data.manifest_sha256: '{HASH['c']}' and '{HASH['d']}'"),
        (("data", "seed"), 1, "data.seed: 0 and 1"),
        (("scoring", "version"), 3, "scoring.version: 2 and 3"),
        (("general", 0, "prompt"), "Bye", "general: not the same question and expected answer in chat-0"),
        (("scoring", "max_new_tokens"), 8, "scoring.max_new_tokens: 32 and 8"),
        (("backend",), "cuda", "backend: 'mlx' and 'cuda'"),
        (("stage",), "baseline", "stage: 'baseline' and 'baseline'"),
        (("adapter",), None, "adapter: a baseline has none, a tuned model has one"),
        (("answers", 0, "expected"), "no", "answers: not the same question and expected answer in 0-tell"),
        (("answers", 0, "split_kind"), "generalization",
         "answers: not the same question and expected answer in 0-tell"),
    ],
)  # fmt: skip
def test_documents_of_different_things_are_not_compared(
    keys: tuple[Any, ...], value: Any, said: str, place: Path
) -> None:
    edit(place / "tuned.json", *keys, to=value)
    error = refusal(compare, place)
    assert error.problems == (said,)
    assert (error.what, error.where) == ("baseline and tuned are not comparable", str(place))
    assert not (place / "comparison.json").exists()


def test_every_difference_is_named_at_once(place: Path) -> None:
    for keys, value in ((("data", "seed"), 7), (("model", "name"), "x"), (("scoring", "version"), 3)):
        edit(place / "tuned.json", *keys, to=value)
    assert refusal(compare, place).problems == (
        "model.name: 'tiny' and 'x'", "data.seed: 0 and 7", "scoring.version: 2 and 3"
    )  # fmt: skip


def test_a_missing_row_is_seen(place: Path) -> None:
    document = json.loads((place / "tuned.json").read_text("utf-8"))
    edit(place / "tuned.json", "answers", to=document["answers"][1:])
    assert refusal(compare, place).problems == ("answers: not the same question and expected answer in 0-tell",)


def test_what_may_differ_may(place: Path) -> None:
    for keys, value in ((("device",), "gpu"), (("timings",), {"load_seconds": 1})):
        edit(place / "tuned.json", *keys, to=value)
    assert compare(place)["device"] == "gpu"


def test_another_recipe_is_refused_by_the_setting(place: Path) -> None:
    edit(place / "tuned.json", "recipe", "learning_rate", to=0.5)
    assert any(line.startswith("recipe.learning_rate: ") for line in refusal(compare, place).problems)


@pytest.mark.parametrize("stage", ["baseline", "tuned"])
def test_a_missing_result_names_its_command(stage: str, place: Path) -> None:
    (place / f"{stage}.json").unlink()
    assert str(refusal(compare, place)) == f"{place}/{stage}.json: no such result\n  fix: make eval"
    assert refusal(stored, place).fix == "make compare"


@pytest.mark.parametrize(("adapter", "kept"), [(HASH["b"], True), (HASH["e"], False)])
def test_only_the_log_of_the_same_adapter_is_taken_in(adapter: str, kept: bool, place: Path) -> None:
    log = training(adapter)
    documents.write(place / "training.json", log, "training")
    assert compare(place)["training"] == (log["summary"] if kept else None)


def test_the_order_of_the_answers_does_not_matter(place: Path) -> None:
    before = compare(place)["improvement"]
    document = json.loads((place / "tuned.json").read_text("utf-8"))
    edit(place / "tuned.json", "answers", to=document["answers"][::-1])
    assert compare(place)["improvement"] == before


def pairs(same: int, fixed: int, broken: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    outcomes = [(True, True)] * same + [(False, True)] * fixed + [(True, False)] * broken
    return [(answer(i, "recall", b), answer(i, "recall", a)) for i, (b, a) in enumerate(outcomes)]


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
    found = change(pairs(same, fixed, broken))
    assert found["verdict"] == verdict
    assert (found["n"], found["fixed"], found["broken"]) == (same + fixed + broken, fixed, broken)


def test_without_test_rows_nothing_is_measured(tmp_path: Path) -> None:
    for stage in ("baseline", "tuned"):
        documents.write(tmp_path / f"{stage}.json", result(stage, FEW, []), "result")
    document = compare(tmp_path)
    assert document["improvement"]["generalization"] == {
        "n": 0, "exact": None, "ci95": None, "p_value": None, "fixed": 0, "broken": 0, "verdict": "not measured"
    }  # fmt: skip


def test_answers_to_one_pattern_count_as_one_cluster() -> None:
    """Ten rows of ten patterns say more than ten rows of two patterns: the interval must show it."""
    rows = pairs(6, 4, 0)
    many = change(rows)["ci95"]
    for i, (before, after) in enumerate(rows):
        before["pattern"] = after["pattern"] = str(i // 5)
    few = change(rows)["ci95"]
    assert few[1] - few[0] > many[1] - many[0]


def test_categories_are_corrected_for_their_number_and_small_ones_get_no_verdict() -> None:
    before, after = ([], [])
    for name, size, fixed in (("large", 20, 6), ("other", 20, 6), ("third", 20, 0), ("small", 4, 4)):
        for i in range(size):
            before.append(answer(len(before), "recall", False, name))
            after.append(answer(len(after), "recall", i < fixed, name))
    rows = changes({"answers": before, "general": []}, {"answers": after, "general": []})["categories"]["recall"]
    assert rows["k/large"]["p_value"] == pytest.approx(2 / 2**6)
    assert rows["k/large"]["p_holm"] == pytest.approx(3 * 2 / 2**6)
    assert [rows[f"k/{name}"]["verdict"] for name in ("large", "other", "third", "small")] == [
        "not shown", "not shown", "not shown", "too few"
    ]  # fmt: skip
    assert rows["k/small"]["change"] == 1.0 and rows["k/small"]["p_value"] is rows["k/small"]["ci95"] is None


def test_retention_is_the_change_in_nats_and_the_share_of_changed_answers(place: Path) -> None:
    kept = compare(place)["retention"]
    assert kept["chat"]["nats"] == pytest.approx(1.0)  # ten nats more over each ten tokens
    assert kept["chat"]["after"] / kept["chat"]["before"] == pytest.approx(2.718281828)
    assert kept["chat"]["ci95"] == pytest.approx((1.0, 1.0)) and kept["text"]["verdict"] == "loss"
    assert kept["changed"]["share"] == 1.0 and kept["changed"]["n"] == 4


def test_retention_that_moves_both_ways_is_not_shown_as_a_loss() -> None:
    before = [{"id": f"text-{i}", "kind": "text", "tokens": 10, "nats": 10.0} for i in range(8)]
    after = [{**row, "nats": 10.0 + (-1) ** i} for i, row in enumerate(before)]
    found = retention(before, after)
    assert found["text"]["verdict"] == "not shown" and found["chat"]["verdict"] == "not measured"
    assert found["changed"] == {"n": 0, "share": None, "ci95": None}
