"""The commands of the data side: what they print, write, and exit with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from packs import pack_yaml

from engram.cli import main
from engram.dataset import build

BAD = "name: n\nexamples:\n  - input: a\n    output: no\n  - {input: b, outptu: c}\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(pack_yaml())
    Path("bad.yaml").write_text(BAD)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def refused(result: Result) -> str:
    """What a user's mistake prints: to standard error alone, without a traceback."""
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert re.fullmatch("(data: .*\\n)?", result.stdout)
    assert "Traceback" not in result.stderr
    return result.stderr


def test_validate_counts_the_bundled_patterns() -> None:
    result = run("validate")
    expected = "816 patterns in 4 files: code_idioms 44, error_fixes 44, facts 88, formats 640\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, expected, "")


def test_validate_refuses_with_every_problem_and_code_2() -> None:
    known = "rename it or take it out"
    assert refused(run("validate", "bad.yaml")) == (
        "engram: 3 problems in 1 pattern file\n"
        '  bad.yaml:4:5 $.examples[0].output: is a yes/no value for YAML, not text; write it in quotes: "no"\n'
        "  bad.yaml:5:5 $.examples[1]: 'output' is missing; add `output:`\n"
        f"  bad.yaml:5:16 $.examples[1].outptu: unknown key 'outptu', did you mean 'output'?; {known}\n"
        "  fix: correct these lines, then run `engram validate` again\n"
    )


def test_a_place_that_is_not_there_is_the_users_mistake() -> None:
    expected = (
        "engram: nowhere: no such pattern file or folder, nor a pack: those are acronyms, capitals, http, ports\n"
        "  fix: give a folder of .yaml files, or a pack's name: PATTERNS=DIR\n"
    )
    assert refused(run("validate", "nowhere")) == refused(run("data", "--patterns", "nowhere")) == expected


def test_data_writes_and_checks() -> None:
    result = run("data", "--patterns", "good.yaml")
    expected = "data: no data/manifest.json yet\n"
    expected += "7 patterns taught, 3 held out: 56 training, 14 validation rows, test 7 recall + 3 generalization\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, expected, "")
    files = ["manifest.json", "test.jsonl", "train.jsonl", "valid.jsonl"]
    assert sorted(p.name for p in Path("data").iterdir()) == files
    before = {path: path.read_bytes() for path in Path("data").iterdir()}
    result = run("data", "--check")
    assert (result.exit_code, result.stdout) == (0, "no leak: 56 train, 14 valid, 10 test rows checked\n")
    assert {path: path.read_bytes() for path in Path("data").iterdir()} == before


def test_data_is_not_written_from_bad_patterns() -> None:
    assert "3 problems in 1 pattern file" in refused(run("data", "--patterns", "bad.yaml"))
    assert not Path("data").exists()


@pytest.mark.parametrize(
    "arguments", ["data --seed -1", "data --seed x", f"data --seed {'9' * 30}", "data --chek", "validat"]
)
def test_options_that_are_none_are_the_users_mistake(arguments: str) -> None:
    assert "Error: " in refused(run(*arguments.split()))


def test_a_file_in_the_folders_place_is_the_users_mistake() -> None:
    assert "engram: good.yaml/manifest.json: cannot write this file: " in refused(
        run("data", "--patterns", "good.yaml", "--data", "good.yaml")
    )


def test_a_failure_of_ours_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(build, "check_leaks", fail)
    result = run("data", "--patterns", "good.yaml")
    assert result.exit_code == 1 and isinstance(result.exception, RuntimeError) and result.stderr == ""
