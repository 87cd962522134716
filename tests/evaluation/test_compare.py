"""Before and after: what may be compared, what the verdict says, and what is kept."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import pytest
from documents import HASH, answer, edit, training, write_run
from packs import refusal
from small_run import CONFIG, Run

from engram.dataset.build import read_split
from engram.evaluation import evaluate
from engram.evaluation.compare import change, changes, compare, retention, stored
from engram.plan import documents
from engram.plan.curve import Answer
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
    written = json.loads((place / "comparison.json").read_text("utf-8"))
    assert schema.problems(written, "comparison") == []
    assert stored(place) == {key: value for key, value in written.items() if key != documents.CHECKSUM}
    assert written["sources"] == {stage: documents.sha256(place / f"{stage}.json") for stage in ("baseline", "tuned")}


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
        (("recipe", "learning_rate"), 0.5, "recipe.learning_rate: 0.001 and 0.5"),
        (("backend",), "cuda", "backend: 'mlx' and 'cuda'"),
        (("stage",), "baseline", "stage: 'baseline' and 'baseline'"),
        (("adapter",), None, "adapter: a baseline has none, a tuned model has one"),
        (("answers", 0, "expected"), "no", "answers: not the same question and expected answer in 0-tell"),
        (("answers", 0, "split_kind"), "generalization",
         "answers: not the same question and expected answer in 0-tell"),
    ],
)  # fmt: skip
def test_documents_of_different_things_are_refused(keys: tuple[Any, ...], value: Any, said: str, place: Path) -> None:
    edit(place / "tuned.json", *keys, to=value)
    error = refusal(compare, place)
    assert error.problems == (said,)
    assert (error.what, error.where) == ("baseline and tuned are not comparable", str(place))
    assert not (place / "comparison.json").exists()


def test_every_difference_is_named_at_once(place: Path) -> None:
    answers = json.loads((place / "tuned.json").read_text("utf-8"))["answers"][1:]
    edits = ((("answers",), answers), (("data", "seed"), 7), (("model", "name"), "x"), (("scoring", "version"), 3))
    for keys, value in edits:
        edit(place / "tuned.json", *keys, to=value)
    assert refusal(compare, place).problems == (
        *("model.name: 'tiny' and 'x'", "data.seed: 0 and 7", "scoring.version: 2 and 3"),
        "answers: not the same question and expected answer in 0-tell",
    )


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


def test_the_order_of_the_answers_the_device_and_the_time_do_not_matter(place: Path) -> None:
    before = compare(place)["improvement"]
    document = json.loads((place / "tuned.json").read_text("utf-8"))
    for key, value in {"answers": document["answers"][::-1], "device": "gpu", "timings": {"load_seconds": 1}}.items():
        edit(place / "tuned.json", key, to=value)
    after = compare(place)
    assert after["improvement"] == before and after["device"] == "gpu"


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
    assert found["n"] or found["exact"] is found["ci95"] is found["p_value"] is None
    assert found["verdict"] == verdict
    assert (found["n"], found["fixed"], found["broken"]) == (same + fixed + broken, fixed, broken)


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


def test_the_examples_in_a_prompt_are_taught_and_of_the_same_category_but_not_the_question(run: Run) -> None:
    asked: list[list[dict[str, str]]] = []
    encoder = types.SimpleNamespace(chats=lambda given: asked.extend(given) or given, text=str, stop_ids=set())
    backend = types.SimpleNamespace(generate=lambda _, prompts, *__: [Answer([7], True) for _ in prompts])
    examples = read_split(run.root / "data", "test")
    at = evaluate.Asked(backend, None, encoder, CONFIG)  # type: ignore[arg-type]
    found = evaluate._few_shot(at, examples, run.root / "data")
    taught = {row.prompt: row for row in read_split(run.root / "data", "train") if row.phrasing == "bare"}
    for example, messages in zip(examples, asked, strict=True):
        assert [m["role"] for m in messages] == ["user", "assistant"] * CONFIG.shots + ["user"]
        assert messages[-1]["content"] == example.prompt
        for question, reply in zip(messages[:-1:2], messages[1::2], strict=True):
            row = taught[question["content"]]
            assert row.answer == reply["content"]
            assert row.category == example.category and row.pattern != example.pattern
    assert [row["id"] for row in found] == [e.id for e in examples]


def test_the_taught_model_is_held_against_the_base_with_examples(run: Run) -> None:
    recall = run.comparison["few_shot"]["recall"]
    shown = {row["id"]: row["exact"] for row in run.baseline["few_shot"]}
    mine = [row for row in run.tuned["answers"] if row["split_kind"] == "recall"]
    assert recall["change"]["n"] == len(mine) == 8 and "few_shot" not in run.tuned
    assert recall["change"]["fixed"] == sum(row["exact"] and not shown[row["id"]] for row in mine)
    assert recall["before"]["exact"] == sum(shown[row["id"]] for row in mine) / 8
