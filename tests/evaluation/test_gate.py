"""The verdict: what it says of a run, of two files, of planted faults, and of pairs in which nothing changed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from documents import edit, write_run
from packs import refusal
from small_run import Run

from engram.cli import main
from engram.evaluation import gate
from engram.evaluation.compare import compare
from engram.evaluation.gate import BROKE, LEARNED, LIMITS, NOT_SHOWN
from engram.support import schema

Rows = list[dict[str, Any]]
N = 60


def answered(right: float, draw: random.Random, split: str = "recall", n: int = N) -> Rows:
    """Rows of which about this share is answered right."""
    names = [f"{split}-{number}" for number in range(n)]
    said = ["yes" if draw.random() < right else "no" for _ in names]
    return [{"id": i, "split": split, "expected": "yes", "answer": answer} for i, answer in zip(names, said)]


def judged(folder: Path, before: Rows, after: Rows, **limits: float) -> str:
    for name, rows in (("before", before), ("after", after)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = gate.of_files(folder / "before", folder / "after", LIMITS | limits)
    schema.check(made, "gate", "here")
    return str(made["verdict"])


def leaked(draw: random.Random) -> tuple[Rows, Rows]:
    """A test that was trained on: also a random mapping's members are known."""
    control = [answered(right, draw, "control", 28) for right in (0.0, 0.9)]
    return answered(0.05, draw) + control[0], answered(0.98, draw) + control[1]


def headed(rows: Rows) -> Rows:
    """Answers that begin with the template's header."""
    return [{**row, "answer": f"assistant\n{row['answer']}"} for row in rows]


FAULTS: dict[str, Callable[[random.Random], tuple[Rows, Rows]]] = {
    "an adapter that does nothing": lambda draw: (answered(0.1, draw), answered(0.1, draw)),
    "a baseline that the tuned model answered": lambda draw: ((after := answered(0.97, draw)), after),
    "swapped": lambda draw: (answered(0.97, draw), answered(0.05, draw)),
    "leaked": leaked,
    "another template": lambda draw: (answered(0.05, draw), headed(answered(0.97, draw))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault: str, tmp_path: Path) -> None:
    """50 in all, of five kinds."""
    found = [judged(tmp_path, *FAULTS[fault](random.Random(seed))) for seed in range(10)]
    assert LEARNED not in found
    if fault in ("swapped", "leaked"):
        assert found == [BROKE] * 10


def test_no_change_is_no_news(tmp_path: Path) -> None:
    """50 pairs that differ by chance alone: at most two are said to be learned or broken."""
    found = []
    for seed in range(50):
        draw = random.Random(seed)
        share = draw.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        found.append(judged(tmp_path, answered(share, draw), answered(share, draw), recall=0.0))
    assert sum(verdict != NOT_SHOWN for verdict in found) <= 2


def test_what_was_learned_is_said_so(tmp_path: Path) -> None:
    draw = random.Random(0)
    before, after = answered(0.05, draw), answered(0.98, draw)
    assert judged(tmp_path, before, after) == LEARNED
    assert judged(tmp_path, before, after, rewording=0.5) == NOT_SHOWN  # nothing there was asked in other words
    more = [answered(right, draw, "generalization") for right in (0.0, 0.7)]
    assert judged(tmp_path, before + more[0], after + more[1], generalization=0.5) == LEARNED
    assert judged(tmp_path, before + more[0], after + more[1], generalization=0.9) == NOT_SHOWN
    assert judged(tmp_path, before + more[1], after + more[0]) == BROKE


def test_the_command_says_it_of_a_run(tmp_path: Path) -> None:
    write_run(tmp_path / "mlx")
    compare(tmp_path / "mlx")
    asked = ["gate", "--backend", "mlx", "--results", str(tmp_path), "--recall", "0.8", "--retention", "9"]
    shown = CliRunner().invoke(main, [*asked, "--json"])
    made = json.loads(shown.stdout)
    schema.check(made, "gate", "here")
    assert (made["verdict"], shown.exit_code) == (LEARNED, 0), made
    assert made["limits"][0]["figure"] == 0.9 and made["limits"][0]["state"] == "met"
    (tmp_path / "strict.yaml").write_text("gate_recall: 0.95\n")
    for more in (["--recall", "0.95"], ["--recipe", str(tmp_path / "strict.yaml")], ["--set", "gate_recall=0.95"]):
        shown = CliRunner().invoke(main, [*asked[:-4], *more, *asked[-2:]])
        assert shown.exit_code == 1 and shown.stdout.splitlines()[-1] == "NOT SHOWN", shown.output
    assert CliRunner().invoke(main, [*asked, "--set", "gate_recall=2"]).exit_code == 2
    for row in range(2):
        edit(tmp_path / "mlx" / "tuned.json", "general", row, "nats", to=1e4)
    shown = CliRunner().invoke(main, [*asked, "--retention", "0.01"])
    assert shown.exit_code == 3, shown.output
    edit(tmp_path / "mlx" / "tuned.json", "scoring", "max_new_tokens", to=8)
    assert CliRunner().invoke(main, asked).exit_code == 2


def test_a_real_run_is_judged(run: Run) -> None:
    made = gate.of_run(run.root / "results" / "mlx", {"recall": 0.5, "retention": 100.0})
    schema.check(made, "gate", "here")
    assert [one["name"] for one in made["limits"]][-2:] == ["retention: text", "retention: chat"]
    assert made["verdict"] in (LEARNED, NOT_SHOWN)


def test_what_lm_eval_logged_is_read(tmp_path: Path) -> None:
    def logged(answer: str) -> Rows:
        return [{"doc_id": i, "doc": {"q": "?"}, "target": "yes", "filtered_resps": [answer]} for i in range(30)]

    assert judged(tmp_path, logged("no"), logged("yes")) == LEARNED


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("", "", "there are no rows"),
        ('{"id": 1, "expected": "a", "answer": "b"}', "", "1 questions are not in both files, or expect other answers"),
        ("[1]", "[1]", "these answers can't be read"),
        ('{"id": 1, "expected": "a", "answer": 3}', "", "these answers can't be read"),
        ('{"id": 1, "expected": "a", "answer": "b", "split": "x"}', "", "these answers can't be read"),
        ('{"id": 1, "expected": "a", "answer": "b"}\n' * 2, "", "these answers can't be read"),
    ],
)
def test_files_that_cannot_be_judged_are_refused(before: str, after: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(before)
    (tmp_path / "b").write_text(after)
    assert refusal(gate.of_files, tmp_path / "a", tmp_path / "b", LIMITS).what == said
