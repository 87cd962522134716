"""The commands: help, exit codes, and what they print."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from report_runs import two_runs

from engram import cli
from engram.support import console
from engram.support.files import PACKAGE


@pytest.mark.parametrize("name", sorted(cli.main.commands))
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(cli.main, [name, "--help"])
    assert result.exit_code == 0
    assert len(cli.main.commands[name].help or "") > 20
    for parameter in cli.main.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_help_lists_each_command_once_in_the_makefiles_groups() -> None:
    assert sorted(" ".join(cli.GROUPS.values()).split()) == sorted(cli.main.commands)
    shown = re.search(r"^SHOWN := (.*)", (PACKAGE.parent / "Makefile").read_text("utf-8"), re.M)
    assert shown
    makefile = dict(group.split(":") for group in shown[1].split("|"))
    assert list(makefile) == list(cli.GROUPS)
    for group, targets in makefile.items():
        assert set(targets.split()) - {"setup", "test", "verify"} <= set(cli.GROUPS[group].split())


def test_help_says_what_each_command_does_in_one_line_of_80_columns() -> None:
    listed = CliRunner().invoke(cli.main, ["--help"], terminal_width=80).output.partition("\nsee it:\n")[2]
    assert max(map(len, listed.splitlines())) <= 80
    rows = re.findall(r"^  ([a-z-]+) +(\S.*\.)$", listed, re.M)
    assert len(rows) == len(cli.main.commands) == len(re.findall("^  ", listed, re.M))
    for name, said in rows:
        assert (cli.main.commands[name].help or "").startswith(said) and "..." not in said, name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--model", "smolm"], "unknown model 'smolm', did you mean"),
        (["train", "--backend", "mxl"], "unknown backend 'mxl', did you mean 'mlx'?"),
        (["train", "--model", "tiny", "--recipe", "sed"], "unknown recipe 'sed', did you mean 'seed'?"),
        (["train", "--model", "tiny", "--set", "rnak=4"], "unknown setting 'rnak', did you mean 'rank'?"),
        (["train", "--model", "tiny", "--data", "nowhere"], "the data manifest is missing"),
        (["compare", "--results", "nowhere"], "no such result"),
        (["demo", "--quick", "--results", "nowhere"], "no results yet"),
    ],
)
def test_a_users_mistake_exits_with_2_and_says_what_to_do(arguments: list[str], said: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = subprocess.run(
        [sys.executable, "-m", "engram.cli", *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "fix: " in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_verify_model_answers_in_words() -> None:
    result = CliRunner().invoke(cli.main, ["verify-model", "--model", "tiny", "--prompt", "Who are you?"])
    assert result.exit_code == 0, result.output
    answer = next(line for line in result.output.splitlines() if line.startswith("answer"))
    assert len(answer.split()) > 5


def test_doctor_says_what_computes() -> None:
    result = CliRunner().invoke(cli.main, ["doctor"])
    assert result.exit_code == 0, result.output
    for name in ("python", "machine", "backend", "device", "models", "disk"):
        assert f"✓ {name}" in result.output
    assert "mlx-lm 0.3" in result.output


def test_models_lists_the_registry() -> None:
    out = CliRunner().invoke(cli.main, ["models"]).output
    for name in ("tiny", "smollm-135m", "smollm2-360m", "qwen2.5-0.5b", "qwen3-0.6b", "phi-2"):
        assert name in out


def test_a_path_that_the_system_refuses_is_named() -> None:
    result = CliRunner().invoke(cli.main, ["resolve-model", "--model", "x" * 5000])
    assert result.exit_code == 2
    assert result.stderr.startswith("engram: xxx") and "File name too long" in result.stderr
    assert len(result.stderr) < 400


def test_a_folder_cannot_drive_the_terminal_by_its_name(tmp_path: Path) -> None:
    out = tmp_path / "a\x1b[2J.txt"
    result = CliRunner().invoke(cli.main, ["report", "--results", str(two_runs(tmp_path / "r")), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output and "\\x1b[2J" in result.output


def test_a_long_stage_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "EVERY", 0.05)
    with console.Pulse() as pulse, console.TrainingBar() as bar:
        pulse.say("answering")
        time.sleep(0.3)
        bar.start(3)
        time.sleep(0.3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "answering"
    for text in ("answering", "preparing the model", "step 1 of 3"):
        assert sum(f"s: {text}" in line for line in lines) > 1
    time.sleep(0.2)
    assert capsys.readouterr().out == ""


def test_what_was_typed_is_repeated_in_short() -> None:
    long = "x" * 70_000
    for words in (["packs", long], ["packs", f"--{long}"], [long], ["demo", "--speed", long]):
        result = CliRunner().invoke(cli.main, words)
        assert result.exit_code == 2 and 20 < len(result.output) < 3000, words[0][:10]
