"""Recording a show: on its own clock and console, and the same each time."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from engram.cli import main
from engram.dataset.build import write_data
from engram.patterns.loading import find_files, load_patterns
from engram.plan.documents import read
from engram.show.demo import stage as sections
from engram.show.demo.stage import Clock
from engram.show.video import cast, screen, theme
from engram.show.video.cast import record
from engram.support.errors import EngramError
from tools.reference import REFERENCE


def small_show(console: Console, clock: Clock) -> None:
    clock.mark("one")
    console.print("[b]hello[/b]", style="bold red")
    clock.sleep(1000)
    clock.mark("two")
    console.print("a" * 30)
    clock.sleep(0.5)


def test_a_show_is_kept_with_its_own_time() -> None:
    started = time.perf_counter()
    made = record(small_show, 20, 5, "title")
    assert time.perf_counter() - started < 60  # nobody waited for 1,000 s
    assert (made.width, made.height, made.duration, made.title) == (20, 5, 1000.5, "title")
    assert [(event.time, event.code) for event in made.events] == [(0, "m"), (0, "o"), (1000, "m"), (1000, "o")]
    assert made.events[1].data == "\x1b[?25l\x1b[1;31m[b]hello[/b]\x1b[0m\r\n"
    assert screen.last(made).text == ["[b]hello[/b]", "a" * 20, "a" * 10, "", ""]


def test_nothing_of_the_environment_reaches_a_show(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = cast.dumps(record(small_show, 20, 5))
    for name, value in {"NO_COLOR": "1", "COLUMNS": "7", "LINES": "3", "TERM": "dumb", "JUPYTER_COLUMNS": "9"}.items():
        monkeypatch.setenv(name, value)
    assert cast.dumps(record(small_show, 20, 5)) == plain


def test_a_show_that_drives_the_terminal_is_refused() -> None:
    with pytest.raises(EngramError, match="not a recording that can be shown") as caught:
        record(lambda console, _: console.file.write("\x1b]0;title\x07") and None, 20, 5)
    assert caught.value.where == "the show"
    with pytest.raises(EngramError) as caught:
        record(small_show, 1000, 5)
    assert caught.value.problems == ("line 1: width 1000, not 10 to 300",)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed reference run as a backend's results, and its data."""
    root = tmp_path_factory.mktemp("house")
    shutil.copytree(REFERENCE / "default-0", root / "results" / "mlx")
    files = find_files("patterns")
    write_data(load_patterns(files), files, root / "data", seed=0)
    return root


def test_the_demo_of_the_same_results_is_the_same_and_takes_a_minute(house: Path) -> None:
    made = cast.of_demo(house / "results" / "mlx", house / "data")
    assert [marker.title for marker in made.markers] == list(sections.SECTIONS)
    comparison = read(house / "results" / "mlx" / "comparison.json", "comparison", "make compare")
    assert 50 < made.duration < 90  # a minute, more or less, and two general questions
    assert made.title == f"engram · mlx · {comparison['device']}"
    assert made == cast.of_demo(house / "results" / "mlx", house / "data")


def test_the_command_writes_cast_and_pictures(house: Path, tmp_path: Path) -> None:
    places = ["--data", str(house / "data"), "--results", str(house / "results"), "--out", str(tmp_path)]
    done = CliRunner().invoke(main, ["record", "--gif", "--png", "--backend", "mlx", *places])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.cast", "demo.gif", "demo.png"]
    assert cast.read(tmp_path / "demo.cast").duration > 10
    assert str(house) not in (tmp_path / "demo.cast").read_text("utf-8")


def test_two_backends_stand_side_by_side(house: Path, tmp_path: Path) -> None:
    shutil.copytree(house / "results", tmp_path / "results")
    shutil.copytree(house / "results" / "mlx", tmp_path / "results" / "cpu")
    places = ["--data", str(house / "data"), "--results", str(tmp_path / "results")]
    done = CliRunner().invoke(main, ["record", "--png", "--backend", "mlx", "--beside", "cpu", *places])
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "results" / "demo-compare.png") as picture:
        left, right = np.asarray(picture)[:, :960], np.asarray(picture)[:, 960:]
    assert picture.size == (1920, 1080)
    assert abs((left == theme.FOREGROUND).sum() - (right == theme.FOREGROUND).sum()) < 100
    assert (left == theme.FOREGROUND).sum() > 1000


def test_missing_results_of_the_other_backend_are_named(house: Path, tmp_path: Path) -> None:
    places = ["--data", str(house / "data"), "--results", str(house / "results"), "--out", str(tmp_path)]
    done = CliRunner().invoke(main, ["record", "--backend", "mlx", "--beside", "cuda", *places])
    assert done.exit_code == 2
    assert "no results yet" in done.output and "cuda" in done.output
    assert not list(tmp_path.iterdir())
