"""`engram init`: a folder that is whole or absent, validates and can be taught."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engram.cli import main
from engram.dataset.build import split
from engram.patterns.loading import find_files, load_patterns
from engram.support.files import BUNDLED, PACKAGE


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def there(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.mark.parametrize("folder", ["mine", "a/b/my team", "it's: {a} #1", "é\u202e", "x" * 80])
def test_it_writes_a_pack_that_validates_and_says_what_to_do(folder: str) -> None:
    result = run("init", "--", folder)
    assert (result.exit_code, result.stderr) == (0, "")
    place = "'a/b/my team'" if "/" in folder else folder
    if folder in ("mine", "a/b/my team"):
        assert result.stdout == (
            f"{folder}/patterns.yaml\n{folder}/README.md\nnext: put your own patterns into the .yaml file, then\n"
            f"  engram validate {place} --advise\n  make demo PATTERNS={place}\n"
        )
        assert f"make demo PATTERNS={place}" in Path(folder, "README.md").read_text()
    assert there(folder) == ["README.md", "patterns.yaml"] and len(there()) == 1
    patterns = load_patterns(find_files(f"./{folder}"))
    assert len(patterns) == 34 and [*Counter(p.category for p in patterns).values()] == [8, 10, 16]
    assert {row.split_kind for row in split(patterns, 0)["test"]} == {"recall", "rewording", "generalization"}
    assert not re.search("__[A-Z]+__", "".join(path.read_text() for path in Path(folder).iterdir()))


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["own.yaml"], "own.yaml"),
        ([".git", "b", "a"], ".git, a, b"),
        ([f"f{i:02}" for i in range(12)], ", ".join(f"f{i:02}" for i in range(10)) + " and 2 more"),
    ],
)
def test_a_folder_that_is_not_empty_is_refused_and_named(names: list[str], listed: str) -> None:
    Path("mine").mkdir()
    for name in names:
        Path("mine", name).write_text("kept")
    result = run("init", "mine")
    said = f"engram: mine: the folder is not empty: {listed}\n  fix: name a new or an empty folder\n"
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", said)
    assert there("mine") == sorted(names) and Path("mine", names[0]).read_text() == "kept"


def test_a_file_in_the_folders_place_is_refused() -> None:
    Path("mine").symlink_to("nowhere")
    said = "engram: mine: this is no folder\n  fix: name a new or an empty folder\n"
    assert run("init", "mine").stderr == said and there() == ["mine"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk_leaves_no_half_written_folder(exists: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if exists:
        Path("mine").mkdir()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    result = run("init", "mine")
    assert result.exit_code == 2 and "cannot write this file: No space left on device" in result.stderr
    assert there("mine") == []


def test_the_readme_names_what_exists() -> None:
    text = (BUNDLED / "scaffold" / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (PACKAGE.parent / "Makefile").read_text(), re.M))
    assert {"validate", "demo"} <= set(re.findall(r"make ([a-z-]+) PATTERNS", text)) & targets
    for name in re.findall(r"engram ([a-z]+)", text):
        assert name in main.commands, name
    fields = {"name", "description", "version", "examples", "input", "output", "category", "tables", "columns", "rows"}
    assert fields <= set(re.findall("`([a-z]+)`", text))
