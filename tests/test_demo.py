"""The show: plain where it must be, honest where nothing was shown, and never driven by a text."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_run import Run

from engram import demo, results
from engram.errors import EngramError


def perform(run: Run, folder: Path, quick: bool = True) -> None:
    demo.perform("mlx", None if quick else run.model, run.root / "adapter", run.root / "data", folder / "mlx")


def test_pipe_gets_plain_text_with_numbers_and_intervals(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    perform(run, run.root / "results")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert not set("╭│╰─") & set(out)
    assert max(map(len, out.splitlines())) <= 100
    recall = run.comparison["improvement"]["recall"]
    assert f"{100 * run.comparison['tuned']['recall']['exact']:.1f} %" in out
    assert f"{100 * recall['exact']:+.1f}" in out
    assert "retention" in out


def on_a_terminal(run: Run, **environment: str) -> str:
    """What `engram demo --quick` prints on a terminal of its own."""
    leader, follower = os.openpty()
    command = [sys.executable, "-m", "engram.cli", "demo", "--quick", "--results", str(run.root / "results")]
    clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm-256color"}
    process = subprocess.Popen(
        [*command, "--data", str(run.root / "data")], stdout=follower, stderr=follower, env=clean | environment
    )
    os.close(follower)
    printed = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not piece:
            break
        printed += piece
    os.close(leader)
    assert process.wait() == 0, printed
    return printed.decode()


def test_terminal_gets_boxes_and_colour_and_no_color_neither(run: Run) -> None:
    drawn, plain = on_a_terminal(run), on_a_terminal(run, NO_COLOR="1")
    assert "\x1b[" in drawn and "╭" in drawn
    assert "\x1b" not in plain
    assert not set("╭│╰─") & set(plain)
    assert "Exact match" in plain


def test_live_answers_are_the_stored_ones(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    perform(run, run.root / "results", quick=False)
    live = capsys.readouterr().out
    perform(run, run.root / "results")
    stored = capsys.readouterr().out

    def answers(text: str) -> list[str]:
        lines = [line for line in text.splitlines() if line.startswith(("before", "after"))]
        return [line.partition("  [")[0].removesuffix(" …").rstrip() for line in lines]

    assert "ms to first token" in live
    assert answers(live) == answers(stored)


def test_rows_are_chosen_without_looking_at_results(run: Run) -> None:
    rows = demo.choose_rows(demo.asked(run.baseline), 0)
    assert rows == demo.choose_rows(demo.asked(run.tuned), 0)
    assert [row.split_kind for row in rows].count("recall") == 1  # one kind of pattern in this pack


def test_an_unproved_difference_is_not_shown(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run.root / "results", tmp_path / "results")
    path = tmp_path / "results" / "mlx" / "comparison.json"
    document = json.loads(path.read_text())
    change = {
        "n": 10,
        "exact": 0.1,
        "ci95": [-0.1, 0.3],
        "p_value": 0.6,
        "fixed": 2,
        "broken": 1,
        "verdict": "not shown",
    }
    document["improvement"]["generalization"] = change
    results.write(path, document, "comparison")
    perform(run, tmp_path / "results")
    out = capsys.readouterr().out
    assert "Not shown: an effect on generalization." in out
    assert "Not shown: an effect on recall." not in out


def spoiled(run: Run, folder: Path, text: str) -> None:
    shutil.copytree(run.root / "results", folder)
    for stage in ("baseline", "tuned"):
        path = folder / "mlx" / f"{stage}.json"
        document: dict[str, Any] = json.loads(path.read_text())
        for answer in document["answers"]:
            answer |= {"answer": text, "expected": text, "prompt": "Continue: " + text, "kind": text}
        results.write(path, document, "result")


@pytest.mark.parametrize("text", ["\x1b[2J\x1b]0;owned\x07", "\x9b31m", "a\rb", "\u202egnirts", "[bold red]markup[/]"])
def test_no_text_drives_the_terminal(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    spoiled(run, tmp_path / "results", text)
    perform(run, tmp_path / "results")
    out = capsys.readouterr().out
    for character in "\x1b\x07\x9b\r\u202e":
        assert character not in out
    if text.startswith("[bold"):
        assert text in out


def test_results_of_another_model_are_refused(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.root / "results", tmp_path / "results")
    path = tmp_path / "results" / "mlx" / "comparison.json"
    document = json.loads(path.read_text())
    document["model"] |= {"weights_sha256": "0" * 64, "name": "another"}
    results.write(path, document, "comparison")
    with pytest.raises(EngramError, match=r"the results are of another model \(another\)"):
        perform(run, tmp_path / "results", quick=False)


def test_missing_results_name_the_command(run: Run, tmp_path: Path) -> None:
    with pytest.raises(EngramError, match="no such result") as caught:
        perform(run, tmp_path)
    assert caught.value.fix == "make compare"


def test_ones_own_prompt_is_answered_before_and_after(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    row = next(a for a in run.tuned["answers"] if a["exact"] and a["split_kind"] == "recall")
    demo.ask(row["prompt"], "mlx", run.model, run.root / "adapter")
    out = capsys.readouterr().out
    after = next(line for line in out.splitlines() if line.startswith("after"))
    assert row["expected"] in after
