"""The comparison of methods, in small: what is asked, how it is answered, and the document that it ends in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engram.memory.facts import Fact
from engram.models.model import resolve
from engram.plan import documents
from tools.docs import memory_page
from tools.methods import campaign, limits, table_size

NAMES = ("baseline", "memory", "in context", "dictionary")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """A few random facts through the methods that take seconds."""
    found: dict[str, Any] = {"document": "methods", "schema_version": documents.SCHEMA_VERSION, "runs": []}
    found |= campaign.about("mlx", resolve("tiny"))
    calls: list[int] = []
    again = [lambda: calls.append(len(found["runs"]))] * 2
    for keep in again:  # the second time nothing is measured
        campaign.compare(found, "mlx", resolve("tiny"), [0], ["facts"], NAMES, lambda _: None, keep, 40)
    assert calls == [1, 2, 3, 4]
    return found


def test_each_method_answers_the_same_questions(document: dict[str, Any]) -> None:
    runs = {run["method"]: run for run in document["runs"]}
    assert tuple(runs) == NAMES and len({run["recall"]["n"] for run in runs.values()}) == 1
    assert runs["baseline"]["recall"]["exact"] == 0 and runs["baseline"]["near_misses"]["exact"] == 1
    for name in ("memory", "dictionary"):
        assert runs[name]["recall"]["exact"] == 1 and runs[name]["near_misses"]["exact"] == 1
        assert runs[name]["paraphrases"]["exact"] == 0 and runs[name]["generalization"]["exact"] == 0
    assert runs["memory"]["bytes"] > runs["dictionary"]["bytes"] > 0
    assert runs["memory"]["seconds"] > 0


def test_the_document_is_whole_and_becomes_a_page(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "methods.json"
    documents.write(path, document | {"provenance": documents.provenance()}, "methods")
    parts = memory_page.parts(path)
    assert "| memory | – | 100.0 %" in parts["methods"] and "Not run yet" in parts["memory-uses"]
    assert list(memory_page.pictures(path, tmp_path)) == [tmp_path / "methods-facts.svg"]
    assert all("Not run yet" in text or "|" in text for text in memory_page.parts(tmp_path / "none.json").values())


def test_what_a_memory_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    some = [Fact("The colour of grass", "green"), Fact("Half of two", "one")]
    monkeypatch.setattr(limits, "patterns", lambda _: some)
    found = limits.editing("mlx", resolve("tiny"), lambda _: None)
    kept = ("other_rows_identical", "answer_changed", "logits_restored", "files_restored")
    assert all(found[name] for name in kept)


def test_a_table_of_any_size_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_size, "ROUNDS", 1)
    table_size.written(tmp_path / "rows", 500)
    found = table_size._measured("mlx", tmp_path / "rows", 500)
    assert found["bytes"] > 500 * 4 * table_size.WIDTH and found["lookup_microseconds"] > 0
