"""The show as it is drawn: every screen fits, nothing scrolls or jumps, and keys and speed do what they say."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from documents import edit
from packs import refusal
from rich.cells import cell_len
from rich.console import Console
from screens import at, moments, on_a_terminal
from small_run import Run
from test_demo import spoiled

from engram.cli import main
from engram.evaluation import compare
from engram.plan import documents
from engram.show.demo import demo, figures, material, panels, platforms
from engram.show.demo import stage as sections
from engram.show.demo.answers import Shown, words
from engram.show.demo.material import Material
from engram.show.demo.stage import Clock, Stage, fold
from engram.show.video import cast
from engram.show.video.cast import Cast, record
from engram.support.console import SPARKS, interval, percent

SIZES = [(100, 30), (80, 24), (60, 24), (80, 43), (200, 60)]


def load(run: Run, folder: Path | None = None) -> Material:
    place = (folder or run.root / "results") / "mlx"
    return material.load(place, run.root / "data", str(run.root / "pack.yaml"))


def film(material: Material, width: int = 100, height: int = 30) -> Cast:
    return record(lambda console, clock: demo.play(console, clock, material), width, height)


def ends(cast: Cast) -> dict[str, list[str]]:
    """Each section's last screen."""
    times = [marker.time for marker in cast.markers[1:]] + [cast.duration + 1]
    return {m.title: at(cast, end - 0.001) for m, end in zip(cast.markers, times, strict=True)}


def fits(cast: Cast) -> None:
    """Every moment has its heading at the top: nothing scrolled; and no row is wider than the margins allow."""
    seen = False
    for rows in moments(cast):
        if rows[0]:
            assert rows[0].startswith("  engram  "), rows
            assert not rows[1] or rows[1].startswith("  ──")
            seen = True
        else:
            assert not seen, "the heading is gone"
        assert max(map(cell_len, rows)) <= cast.width - 2
    assert seen


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_screen_fits(run: Run, width: int, height: int) -> None:
    made = film(load(run), width, height)
    fits(made)
    assert [marker.title for marker in made.markers] == list(sections.SECTIONS)
    for title, rows in ends(made).items():
        assert title in rows[0]
        assert any(rows[2:]), title
        assert not rows[-1], "the last row is the hint's"


def test_the_figures_are_the_documents(run: Run) -> None:
    for width, height in SIZES[:2]:
        text = "\n".join(ends(film(load(run), width, height))[sections.FIGURES])
        for split, change in run.comparison["improvement"].items():
            for stage in ("baseline", "tuned"):
                part = run.comparison[stage][split]
                assert f"{percent(part['exact'])}  {interval(part['ci95'])}" in text
            points = f"{100 * change['exact']:+.1f} points {interval(change['ci95'], points=True)}"
            assert points in text and change["verdict"] in text and f"n = {change['n']}" in text
        assert "retention" in text and "…" not in text


def test_answers_stand_side_by_side_or_stacked_and_marked(run: Run) -> None:
    material = load(run)
    example = material.rows[0]
    tuned = next(a for a in run.tuned["answers"] if a["id"] == example.id)
    wide, narrow = (film(material, *size) for size in SIZES[:2])
    beside = [row for row in ends(wide)[sections.RECALL] if "╭─ before" in row]
    assert beside and all("╭─ after" in row for row in beside)
    stacked = ends(narrow)[sections.RECALL]
    assert any("╭─ before" in row and "after" not in row for row in stacked)
    for rows in (stacked, ends(wide)[sections.RECALL]):
        text = "\n".join(rows)
        assert f"expected  {example.answer}" in text and "✗ wrong" in text
        assert ("✓ right" in text) is bool(tuned["exact"])
        assert "first token" in text and "medians, n = 2" in text


def test_answers_are_typed_and_never_jump(run: Run) -> None:
    """What stands in a row stays there while more is typed: each row is a beginning of the next moment's."""
    blocks = [panels.pair(e, Shown("word " * 25 + "end", False, steps=tuple(range(5, 130, 5))), Shown("x", True))
              for e in load(run).rows[:1]]  # fmt: skip

    def show(console: Console, clock: Clock) -> None:
        stage = Stage(console, clock, "here")
        stage.section("one")
        panels.perform(stage, [], blocks[0])

    before: list[str] = []
    grown = 0
    for rows in moments(record(show, 80, 24)):
        inner = [row.strip(" │") for row in rows if row.startswith("  │")]
        for old, new in zip(before, inner):
            assert new.startswith(old), (old, new)
        grown += inner != before
        before = inner
    assert grown > 20 and before[0].startswith("word word") and before[1].endswith("end …")


@pytest.mark.parametrize("text", ["\x1b[2J\x1b]0;owned\x07", "\u202egnirts", "漢字" * 150, "x" * 390, "e\u0301 " * 90])
@pytest.mark.parametrize(("width", "height"), [(100, 30), (60, 24)])
def test_texts_of_all_kinds_fit_and_drive_nothing(run: Run, tmp_path: Path, text: str, width: int, height: int) -> None:
    spoiled(run, tmp_path / "results", text)
    made = film(load(run, tmp_path / "results"), width, height)
    fits(made)
    for event in made.events:
        assert cast._ALLOWED.fullmatch(event.data) and "\u202e" not in event.data


def test_a_run_without_log_or_held_out_patterns_says_so(run: Run) -> None:
    material = load(run)
    rows = [e for e in material.rows if e.split_kind == "recall"]
    made = film(dataclasses.replace(material, log=None, rows=rows), 80, 24)
    fits(made)
    shown = {title: "\n".join(rows) for title, rows in ends(made).items()}
    assert "No training log" in shown[sections.TRAINING] and "make train" in shown[sections.TRAINING]
    assert "No question of this kind" in shown[sections.GENERALIZATION]


@pytest.mark.parametrize("speed", [2.0, 0.0])
def test_speed_divides_every_wait(run: Run, speed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[float] = []
    monkeypatch.setattr("time.sleep", spent.append)
    material = load(run)
    whole = film(material).duration
    record(lambda console, _: demo.play(console, Clock(speed), material))
    assert sum(spent) == pytest.approx(whole / 2 if speed else 0, abs=0.01)


def test_a_small_window_is_recorded_as_text(run: Run) -> None:
    made = film(load(run), 50, 20)
    assert made.duration == 0.0 and not made.markers


def test_a_terminal_is_drawn_on_and_left_clean(run: Run) -> None:
    out, _ = on_a_terminal(run, "--quick", "--speed", "10")
    assert "╭─" in out and "\x1b[2J" in out
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")  # the cursor is back
    assert cast._ALLOWED.fullmatch(out)
    drawn, seconds = on_a_terminal(run, "--quick", "--speed", "0")
    assert "\x1b[2J" not in drawn and "✗ wrong" in drawn and seconds < 30


def test_keys_go_on_and_ctrl_c_leaves(run: Run) -> None:
    arrow = ("press a key", b"\x1b[C")  # three bytes, one key
    out, _ = on_a_terminal(
        run, "--quick", "--pause", "--speed", "10", keys=[arrow, arrow, ("press a key", b"\x03")], code=130
    )
    assert "What is taught" in out and "Training" in out and "The figures" not in out
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")
    assert "Traceback" not in out


def test_live_answers_have_their_own_times(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.root / "adapter", tmp_path / "mlx")
    out, _ = on_a_terminal(run, "--model", "tiny", "--speed", "10", "--adapters", str(tmp_path))
    assert "both models answer now: 1 of" in out and "Answered now, one prompt at a time" in out


def other_run(run: Run, folder: Path, **changed: Any) -> None:
    """A second run of the same questions beside the first, some of its answers others."""
    shutil.copytree(run.root / "results" / "mlx", folder / "mlx")
    shutil.copytree(run.root / "results" / "mlx", folder / "cpu")
    for stage in ("baseline", "tuned", "training"):
        path = folder / "cpu" / f"{stage}.json"
        document = json.loads(path.read_text()) | {"backend": "cpu", "device": "CPU (torch)"} | changed
        if stage == "tuned":
            for answer in document["answers"]:
                answer |= {"answer": answer["answer"] + "!", "exact": False}
        documents.write(path, document, "training" if stage == "training" else "result")
    compare.compare(folder / "cpu")


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_two_platforms_answer_side_by_side(run: Run, tmp_path: Path, width: int, height: int) -> None:
    other_run(run, tmp_path)
    both = platforms.load(["mlx", "cpu"], tmp_path)
    made = record(lambda c, k: platforms.perform(Stage(c, k, "mlx | cpu"), both, words), width, height)
    fits(made)
    shown = {title: "\n".join(rows) for title, rows in ends(made).items()}
    answered = shown[sections.PLATFORMS_ANSWERS]
    assert "mlx · " in answered and "cpu · CPU (torch)" in answered
    assert "before: the same · after: different" in answered
    compared = shown[sections.PLATFORMS_FIGURES]
    assert "recall, cpu against mlx: " in compared and "CPU (torch)" in compared
    assert "tuned on test prompts: 0.0 %" in compared


def test_platforms_through_a_pipe_and_what_is_refused(run: Run, tmp_path: Path) -> None:
    other_run(run, tmp_path)

    def shown(names: str) -> Any:
        return CliRunner().invoke(main, ["demo", "--platforms", names, "--results", str(tmp_path)])

    done = shown("mlx,cpu")
    assert done.exit_code == 0, done.output
    assert "cpu · CPU (torch)" in done.output and "≠ before: the same · after: different" in done.output
    assert "recall, cpu against mlx: " in done.output and "\x1b" not in done.output
    missing = shown("mlx,cuda")
    assert missing.exit_code == 2 and "no results yet" in missing.output and "BACKEND=cuda" in missing.output
    for names in ("mlx", "mlx,mlx", "mlx,cpu,cuda", ""):
        assert shown(names).exit_code == 2
    for stage in ("baseline", "tuned"):
        edit(tmp_path / "cpu" / f"{stage}.json", "recipe", "learning_rate", to=0.5)
    compare.compare(tmp_path / "cpu")
    error = refusal(platforms.load, ["mlx", "cpu"], tmp_path)
    assert error.what == "these runs are not comparable" and "recipe.learning_rate" in str(error.problems)


def test_the_curve_has_its_losses() -> None:
    assert figures.bins([4.0, 2.0], 4) == [4.0, 4.0, 2.0, 2.0]
    assert figures.bins([4.0, 2.0, 3.0, 1.0], 2) == [3.0, 2.0]
    tops = [figures.ceiling(value) for value in (0, 0.011, 0.5, 1, 5.1, 8, 12, 4000)]
    assert tops == [1, 0.02, 0.5, 1, 10, 10, 20, 5000]
    columns = [figures.blocks(share, 4, " " + SPARKS, 1) for share in (0.0, 0.4, 1.0, 7.0)]
    assert columns == ["▁", "█▅", "████", "████"] and figures.blocks(0.0, 4, " " + SPARKS) == ""


def test_folding_keeps_every_letter_and_fits() -> None:
    generator = random.Random(0)
    for _ in range(300):
        text = "".join(generator.choice("ab  漢é") for _ in range(generator.randrange(60)))
        width = generator.randrange(4, 20)
        lines = fold(text, width)
        assert all(cell_len(line) <= width for _, line in lines)
        assert "".join(line for _, line in lines).replace(" ", "") == text.replace(" ", "")
        assert all(text[start : start + len(line)] == line for start, line in lines)
