"""The benchmark suite's own arithmetic: what is judged, what is looked for, and what the page says of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from engram.plan import documents
from engram.support import schema
from engram.support.files import PACKAGE
from tools.docs import performance_page

sys.path.insert(0, str(PACKAGE.parent / "benchmarks"))
import targets

PROVENANCE = {
    **{"engram": "0", "git_commit": None, "created": "2026-01-01T00:00:00Z", "python": "3", "packages": {}},
    **{"hardware": {"system": "x", "processor": "x", "cores": 2, "memory_gib": 1.0}, "environment": {}},
}


def part(result: dict) -> dict:
    return {"seconds": 1.0, "load": 0.0, "provenance": PROVENANCE, "result": result}


def race(seconds: float, stock: float, reached: bool = True) -> dict:
    run = {"seconds": seconds, "reached": reached, "steps": 1, "recall": 1.0}
    run |= {"whole_steps": 1, "whole_seconds": seconds}
    runs = {"engram, default recipe": run, "engram, taught rows alone": run}
    return {"race": part({"settings": "s", "runs": runs | {"stock mlx_lm.lora": {**run, "seconds": stock}}})}


def judged(parts: dict, quick: bool = False) -> dict[str, tuple[float, bool]]:
    return {one["name"]: (one["measured"], one["met"]) for one in targets.judge(parts, quick)}


def test_a_missed_target_is_missed_and_a_run_that_did_not_arrive_counts_nothing() -> None:
    name = "time to 95 % recall, the same rows, against stock mlx_lm.lora at its best"
    assert judged(race(10, 31))[name] == (pytest.approx(3.1), True)
    assert judged(race(10, 29))[name] == (pytest.approx(2.9), False)
    assert judged(race(10, 90, reached=False))[name] == (0.0, False)


def test_the_page_says_what_was_not_measured(tmp_path: Path) -> None:
    assert set(performance_page.parts(tmp_path / "none.json").values()) == {"Not run yet: `make bench`.\n"}
    parts = race(10, 29)
    tried = {"name": "t", "steps": 4, "seconds": 8.0, "enough_step": None, "enough_seconds": None}
    parts["race"]["result"]["candidates"] = [tried | {"name": "s"}, tried]  # "s" was run again
    document = {"document": "bench", "schema_version": 1, "parts": parts, "targets": targets.judge(parts, quick=False)}
    documents.write(tmp_path / "bench.json", document, "bench")
    made = performance_page.parts(tmp_path / "bench.json")
    assert "| 2.9 × | **no** |" in made["targets"]
    assert made["profile"] == "Not run yet: `make bench`.\n"
    assert "| stock mlx_lm.lora, t | – | – | 2000 |" in made["race"] and "lora, s | – |" not in made["race"]
    assert "| 29 |" in made["race"] and "loads: `race` 0.0" in made["measured"]


def test_the_committed_document_is_judged_as_today() -> None:
    """No target may be changed, or its figure computed otherwise, without the table saying so."""
    document = documents.read(performance_page.BENCH, "bench", "make bench")
    assert documents.rounded(targets.judge(document["parts"], quick=False)) == document["targets"]
    schema.check(json.loads(json.dumps(document)), "bench", "bench")
