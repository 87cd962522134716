"""The show as text: plain where it must be, honest where nothing was shown, and never driven by a text."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from documents import edit
from packs import refusal
from screens import on_a_terminal
from small_run import Run

from engram.backends import Loaded
from engram.cli import main
from engram.dataset import rows as examples
from engram.evaluation import compare
from engram.plan import documents
from engram.show.demo import answers, demo, figures, material


def perform(run: Run, folder: Path, quick: bool = True, **others: Any) -> None:
    loaded, patterns = None if quick else Loaded("mlx", run.model), str(run.root / "pack.yaml")
    demo.perform(loaded, run.root / "adapter", run.root / "data", folder / "mlx", patterns=patterns, **others)


def test_pipe_gets_plain_text_with_numbers_and_intervals_at_once(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("nobody watches a pipe"))
    perform(run, run.root / "results")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert not set("╭╰") & set(out)
    assert max(map(len, out.splitlines())) <= 100
    recall = run.comparison["improvement"]["recall"]
    assert f"{100 * run.comparison['tuned']['recall']['exact']:.1f} %" in out
    assert f"{100 * recall['exact']:+.1f}" in out
    assert "retention" in out and out.count("Times: the run's medians") == 2


def test_a_dumb_terminal_and_one_without_colour_get_plain_text(run: Run) -> None:
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        plain, _ = on_a_terminal(run, "--quick", **environment)
        assert "\x1b" not in plain
        assert not set("╭╰") & set(plain)
        assert "recall" in plain and "Not measured" in plain


def test_a_narrow_terminal_is_told_what_is_needed_and_gets_text(run: Run) -> None:
    for columns, lines in ((40, 30), (100, 12)):
        out, _ = on_a_terminal(run, "--quick", columns=columns, lines=lines)
        told = " ".join(out.split())
        assert f"this terminal has {columns} columns and {lines} lines; the show is drawn from 60 and 24 up" in told
        assert "\x1b" not in out and "╭" not in out and "Not measured" in out


def test_the_width_asked_for_is_kept(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    perform(run, run.root / "results", manner=demo.Manner(width=70))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 70


def test_live_answers_are_the_stored_ones(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    perform(run, run.root / "results", quick=False)
    live = capsys.readouterr().out
    perform(run, run.root / "results")
    stored = capsys.readouterr().out

    def said(text: str) -> list[str]:
        lines = text.splitlines()
        starts = [at for at, line in enumerate(lines) if line.startswith("   before ")]
        return [lines[at + 1].rstrip().removesuffix(" …") for at in starts]

    assert "made now" in live and "made now" not in stored and len(said(live)) > 3
    assert said(live) == said(stored)


def test_rows_are_chosen_without_looking_at_results(run: Run) -> None:
    rows = material.choose_rows(material.asked(run.baseline), 0)
    assert rows == material.choose_rows(material.asked(run.tuned), 0)
    assert [row.split_kind for row in rows].count("recall") == 1  # one kind of pattern in this pack


def test_general_questions_are_shown_with_both_answers_and_no_mark(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    perform(run, run.root / "results")
    out = capsys.readouterr().out
    rows = [row for row in material.choose(run.tuned, 0) if row.split_kind == "general"]
    assert len(rows) == material.GENERAL_SHOWN and not any(row.answer for row in rows)
    assert out.count("Lost, and not shown") == 1
    shown = out.split("Lost, and not shown")[1]
    for document in (run.baseline, run.tuned):
        stored = {row["id"]: row for row in document["general"]}
        for row in rows:
            assert row.prompt in shown and stored[row.id]["answer"].split()[0] in shown
    assert "✓" not in shown and "✗" not in shown and "expected" not in shown and "Not measured" in shown


def test_lessons_are_lines_of_the_pattern_file(run: Run, tmp_path: Path) -> None:
    pack = run.root / "pack.yaml"
    shown = material.load(run.root / "results" / "mlx", run.root / "data", str(pack))
    lines = pack.read_text().splitlines()
    for lesson in shown.lessons:
        number = int(re.findall(r":(\d+)$", lesson.place)[0])
        assert lesson.lines == (lines[number - 1],)  # input and output stand in one line there
        assert f'"{lesson.question}"' in lesson.lines[0] and f'"{lesson.answer}"' in lesson.lines[0]
    assert shown.lessons
    other = tmp_path / "pack.yaml"
    other.write_text(pack.read_text().replace("grass", "moss"))
    for place in (other, tmp_path / "none"):
        changed = material.load(run.root / "results" / "mlx", run.root / "data", str(place))
        assert [lesson.lines for lesson in changed.lessons] == [()] * len(shown.lessons)


def test_a_table_row_is_shown_with_what_it_is_put_into() -> None:
    found = {p.place: p for p in material.load_patterns(material.find_files("patterns"))}
    place, pattern = next((where, p) for where, p in found.items() if "tables[" in where)
    example = examples.Example("x", pattern.id, pattern.kind, pattern.category, "bare", "train", pattern.input, "a")
    lesson = material._lesson(example, pattern)
    lines = Path(place.split(":")[0]).read_text().splitlines()
    assert lesson.lines[-1] == lines[int(place.split(":")[1]) - 1]
    assert [line.split()[0] for line in lesson.lines[:2]] == ["input:", "output:"]
    assert "{" in lesson.lines[0]


def test_an_unproved_difference_is_not_shown_and_a_loss_is_said(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shutil.copytree(run.root / "results", tmp_path / "results") / "mlx" / "comparison.json"
    change = {"n": 10, "exact": 0.1, "ci95": [-0.1, 0.3], "p_value": 0.6, "fixed": 2, "broken": 1}
    edit(path, "improvement", "generalization", to=change | {"verdict": "not shown"})
    worse = {"before": 10.0, "after": 20.0, "nats": 0.69, "ci95": [0.5, 0.9], "verdict": "loss"}
    edit(path, "retention", "text", to=run.comparison["retention"]["text"] | worse)
    edit(path, "retention", "chat", "verdict", to="not shown")
    perform(run, tmp_path / "results")
    out = " ".join(capsys.readouterr().out.split())
    said = "an effect on generalization (members of rules, never taught): +10.0 points [-10.0, +30.0], p = 0.6"
    assert f"Not shown: {said}" in out
    assert "Not shown: an effect on recall" not in out
    assert "Lost: general text is predicted worse: perplexity 10 → 20, +0.69 nats per token [+0.50, +0.90]" in out
    assert "Lost: general chat" not in out


def test_what_could_not_be_measured_is_named(run: Run) -> None:
    document = json.loads(json.dumps(run.comparison))
    document["improvement"]["generalization"] |= {"n": 0, "exact": None, "ci95": None, "verdict": "not measured"}
    document["tuned"]["recall"] |= {"n": 100, "exact": 0.93}
    found = figures.findings(document)
    assert any(f.head == "Not measured" and f.text.startswith("generalization") for f in found)
    assert figures.Finding("Still wrong", "7 of 100 taught patterns.") in found
    document["tuned"]["recall"] |= {"exact": 1.0}
    assert not any(f.head == "Still wrong" for f in figures.findings(document))


def spoiled(run: Run, folder: Path, text: str) -> None:
    """The run's results with this text everywhere."""
    shutil.copytree(run.root / "results", folder)
    for stage in ("baseline", "tuned"):
        path = folder / "mlx" / f"{stage}.json"
        document: dict[str, Any] = json.loads(path.read_text())
        document["device"] = text
        for answer in document["answers"]:
            answer |= {"answer": text, "expected": text, "prompt": "Continue: " + text, "kind": text}
        documents.write(path, document, "result")
    compare.compare(folder / "mlx")


@pytest.mark.parametrize("text", ["\x1b[2J\x1b]0;owned\x07", "\x9b31m", "a\rb", "\u202egnirts", "[bold red]markup[/]"])
def test_no_text_drives_the_terminal(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    spoiled(run, tmp_path / "results", text)
    perform(run, tmp_path / "results")
    out = capsys.readouterr().out
    for character in "\x1b\x07\x9b\r\u202e":
        assert character not in out
    if text.startswith("[bold"):
        assert text in out


def test_results_of_another_model_or_adapter_are_refused(run: Run, tmp_path: Path) -> None:
    place = shutil.copytree(run.root / "results", tmp_path / "results") / "mlx"
    edit(place / "tuned.json", "adapter", "sha256", to="0" * 64)
    compare.compare(place)
    error = refusal(perform, run, tmp_path / "results", False)
    assert (error.what, error.fix) == ("the results are of another adapter", "make demo")
    edit(place / "comparison.json", "model", "weights_sha256", to="0" * 64)
    edit(place / "comparison.json", "model", "name", to="another")
    assert refusal(perform, run, tmp_path / "results", False).what == "the results are of another model (another)"


def test_missing_results_name_the_command(run: Run, tmp_path: Path) -> None:
    error = refusal(perform, run, tmp_path)
    assert (error.what, error.fix) == ("no results yet", "make demo BACKEND=mlx")
    (shutil.copytree(run.root / "results", tmp_path / "some") / "mlx" / "comparison.json").unlink()
    error = refusal(perform, run, tmp_path / "some")
    assert "no such result" in error.what and error.fix == "make compare"


def test_results_of_other_data_and_stale_ones_are_refused(run: Run, tmp_path: Path) -> None:
    path = shutil.copytree(run.root / "results", tmp_path / "results") / "mlx" / "comparison.json"
    edit(path, "data", "manifest_sha256", to="0" * 64)
    error = refusal(perform, run, tmp_path / "results")
    assert "the results are of other data" in error.what and error.fix == "make demo"
    edit(path, "sources", to={"baseline": "0" * 64, "tuned": "0" * 64})
    assert "changed since comparison.json was made" in str(refusal(perform, run, tmp_path / "results"))


@pytest.mark.parametrize("speed", ["0.4", "11", "-1", "nan", "fast"])
def test_a_speed_that_is_none_is_refused(speed: str) -> None:
    done = CliRunner().invoke(main, ["demo", "--quick", "--speed", speed])
    assert done.exit_code == 2 and "speed" in done.output


def test_answers_grow_by_tokens_and_end_whole() -> None:
    split = answers.splitter("tiny")
    text = "for x, y in zip(a, b):"
    assert len(split(text)) > 5
    stored = {"answer": text, "ended": True}
    shown = answers.stored_answer(stored, split)
    assert shown.steps == tuple(split(text)) and shown.steps[-1] == len(shown.line) == len(text)
    assert answers.stored_answer(stored).steps == ()
    assert answers.splitter("nobody/has-this-one") is answers.words
    assert answers.words("one two three") == [3, 7, 13]


def test_a_control_character_is_seen_before_its_token_ends_the_answer() -> None:
    assert answers._steps_at("a\x1b b", answers.words("a\x1b b")) == (5, 7)  # a \ x 1 b, then a blank and b
    assert answers._steps_at("abcd", [3, 2, 4]) == (3, 3, 4) and answers._steps_at("", []) == (0,)


def test_live_steps_are_beginnings_of_the_answer(run: Run) -> None:
    rows = material.choose_rows(material.asked(run.tuned), 0)
    heard: list[tuple[int, int]] = []
    loaded = Loaded("mlx", run.model)
    given = answers.live(rows, loaded, run.root / "adapter", 32, lambda done, of: heard.append((done, of)))
    assert heard == [(n, 2 * len(rows)) for n in range(1, 2 * len(rows) + 1)]
    for pair in given:
        for shown in pair:
            assert list(shown.steps) == sorted(shown.steps)
            assert shown.line[: shown.steps[-1]] == shown.line.removesuffix(" …")
