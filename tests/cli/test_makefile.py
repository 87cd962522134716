"""The Makefile: what it calls, and nothing that macOS's make 3.81 misreads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from engram.support.files import PACKAGE

ROOT = PACKAGE.parent
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")

REQUIREMENTS = tuple(path.name for path in ROOT.glob("requirements*.txt"))

# stands in for `engram`: a line for each call, its words between bars
STUB = """#!/bin/bash
printf '%s|' "$@" >> calls; echo >> calls
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A checkout with a stub in place of the installed `engram`."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "help.awk", tmp_path / "tools")
    for name in (*REQUIREMENTS, "pyproject.toml"):
        (tmp_path / name).touch()
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "engram").write_text(STUB)
    (binaries / "engram").chmod(0o755)
    (binaries / "python").symlink_to(shutil.which("python3") or "python3")
    time.sleep(0.01)
    for name in (".ready", ".ready-dev", ".ready-cpu", ".ready-video", ".ready-gguf"):
        (tmp_path / ".venv" / name).touch()
    return tmp_path


def alone(**more: str) -> dict[str, str]:
    """The environment without the variables of a make that runs these tests."""
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ENGRAM_VENV", "SEED", "ARGS", "BACKEND")
    return {k: v for k, v in os.environ.items() if k not in outer and not k.startswith("V_")} | more


def make(house: Path, *arguments: str, **environment: str) -> list[list[str]]:
    """Run make; the words of each call of `engram`."""
    (house / "calls").unlink(missing_ok=True)
    env = alone(**environment)
    done = subprocess.run(["make", *arguments], cwd=house, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    calls = (house / "calls").read_text().splitlines() if (house / "calls").exists() else []
    return [call.split("|")[:-1] for call in calls]


def options(call: list[str]) -> dict[str, str]:
    """The values of a call's options, by name; the last one of each."""
    return {word[2:]: value for word, value in zip(call, [*call[1:], ""]) if word.startswith("--") and word != "--"}


STANDARD = {
    **{"model": "auto", "backend": "auto", "method": "lora", "recipe": "default", "set": "", "patterns": "patterns"},
    **{"seed": "0", "checkpoint-every": "25"},
}


@pytest.mark.parametrize("target", ["data", "train", "eval", "compare", "demo", "report", "record", "ask", "verify"])
def test_a_target_is_one_call_that_decides_by_itself(house: Path, target: str) -> None:
    (call,) = make(house, target)
    assert call[0] == "run" and target in call
    assert options(call).items() >= STANDARD.items() and options(call)["nproc"] == "1"
    assert not {"--fresh", "--report-to", "--adapter"} & {*call}


NAMES = ["my pat", "grün", "it's", 'a "b"', "c$d", "e$(f)", "$HOME", "x; touch hacked", "`touch hacked`", "a#b", "a\\b"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_names_arrive_as_they_were_typed(house: Path, name: str, how: str) -> None:
    values = dict.fromkeys(("MODEL", "RECIPE", "PATTERNS", "ADAPTER", "SET", "DIR", "BESIDE", "FORMAT", "Q"), name)
    typed = [f"{key}={value}" for key, value in values.items()] if how == "argument" else []
    given = values if how == "environment" else {}
    (call,) = make(house, "ask", *typed, **given)
    wanted = dict.fromkeys(("model", "recipe", "patterns", "adapter", "set"), name)
    assert options(call[: call.index("ask")]).items() >= wanted.items() and call[-2:] == ["--", name]
    for target, last in (("export-eval", 1), ("record-compare", 1), ("export", 1)):
        assert make(house, target, *typed, **given)[0][-last] == name
    assert not (house / "hacked").exists()


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (("train", "FRESH=1", "CHECKPOINT=5"), {"fresh", "checkpoint-every=5"}),
        (("train", "REPORT_TO=wandb", "NPROC=2"), {"report-to=wandb", "nproc=2"}),
        (("demo", "BACKEND=cpu", "METHOD=both", "SEED=3"), {"backend=cpu", "method=both", "seed=3"}),
        (("eval", "QUANTIZE=4bit", "SET=rank=4 epochs=3"), {"set=quantize=4bit", "set=rank=4 epochs=3"}),
        (("eval", "ARGS=--force"), {"force"}),
        (("seeds", "SEEDS=1,2", "SET=steps=3"), {"seeds=1,2", "set=steps=3"}),
    ],
)
def test_each_variable_is_an_option(house: Path, typed: tuple[str, ...], found: set[str]) -> None:
    (call,) = make(house, *typed)
    words = " ".join(call) + " "
    assert call[0] == ("seeds" if typed[0] == "seeds" else "run")
    assert all(f"--{one.replace('=', ' ', 1)} " in words for one in found)


def test_several_stages_are_one_call(house: Path) -> None:
    (call,) = make(house, "eval", "data", "train")
    assert call[-1] == "eval"


def test_arguments_go_to_the_command_that_shows(house: Path) -> None:
    assert make(house, "demo", "ARGS=--speed 2 --width 80")[0][-6:] == ["demo", "--", "--speed", "2", "--width", "80"]
    call = make(house, "ask", "ARGS=--only tuned", "Q=Which port?")[0]
    assert call[call.index("ask") :] == ["ask", "--", "--only", "tuned", "--", "Which port?"]
    assert make(house, "export", "FORMAT=ollama", "ARGS=--quantize q8_0")[0][-4:] == [
        "--format", "ollama", "--quantize", "q8_0"
    ]  # fmt: skip


def test_validate_makes_the_data_and_checks_both(house: Path) -> None:
    data, patterns, leaks = make(house, "validate", "PATTERNS=my pat")
    assert data[0] == "run" and data[-1] == "data"
    assert (patterns, leaks) == (["validate", "my pat"], ["data", "--check"])


def test_the_checklist_makes_nothing(house: Path) -> None:
    assert make(house, "video-prep", "YES=1", "PATTERNS=my patterns") == [
        ["video-prep", "--backend", "auto", "--patterns", "my patterns", "--model", "auto", "--yes"]
    ]


@pytest.mark.parametrize("jobs", ["-j1", "-j4"])
def test_what_is_named_beside_the_checklist_is_made_before_it(house: Path, jobs: str) -> None:
    calls = make(house, jobs, "video-prep", "demo", "record")
    assert [call[0] for call in calls] == ["run", "run", "video-prep"]


def test_clean_takes_away_what_the_stages_wrote_and_nothing_else(house: Path) -> None:
    written = ("data/train.jsonl", "data/manifest.json", "adapters/mlx/a", "adapters/.mlx.checkpoint.safetensors",
               "results/mlx-with-cuda/tuned.json", "results/report.html", "adapters/cpu-both/b", "exports/gguf/c",
               "results/seeds/mlx/0/d", "data/.x.lock", "results/demo-compare.mp4")  # fmt: skip
    kept = ("results/reference/kept.json", "patterns/facts.yaml", "data/README.md", "adapters/own/a", "exports/own/c")
    for name in (*written, *kept):
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).touch()
    make(house, "clean")
    assert [name for name in (*written, *kept) if (house / name).exists()] == [*kept]
    make(house, "distclean")
    assert not (house / ".venv").exists()


def test_make_alone_lists_the_most_needed_and_help_all_everything(house: Path) -> None:
    short, out = (
        subprocess.run(["make", *words], cwd=house, env=alone(), capture_output=True, text=True, check=True).stdout
        for words in ([], ["help-all"])
    )
    names = re.findall(r"^  make ([a-z-]+) +\S", short, re.M)
    assert 10 <= len(names) == len(set(names)) <= 16 and set(names) <= {
        *re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M)
    }
    assert re.findall(r"^  ([A-Z]+) +=", short, re.M) == ["MODEL", "BACKEND", "PATTERNS", "SEED", "ARGS"]
    for target in re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M):
        assert out.count(f"\n  make {target} ") == 1
    for variable in re.findall(r"\$V_([A-Z_]+)", MAKEFILE):
        assert f"  {variable} " in out
    assert len(MAKEFILE.splitlines()) < 200


@pytest.mark.parametrize(
    "breaker",
    [
        r"^\.ONESHELL", r"^\.SHELLFLAGS", r"^define [A-Za-z_]+ *[:?+]?=", r"!=", r"\$\(file ", r"&:", r":::?=",
        r"^undefine", r"^private", r"\.RECIPEPREFIX", r"\.EXTRA_PREREQS", r"\$\(let ", r"\$\(intcmp ",
    ],
)  # fmt: skip
def test_nothing_that_make_3_81_misreads(breaker: str) -> None:
    assert not re.search(breaker, MAKEFILE, re.M)


@pytest.mark.parametrize(
    "gnuism",
    [r"sed -i(?! '')", r"\breadlink -f", r"\bgrep -P", r"\bcp --", r"\bstat -c", r"\bmktemp --",
     r"\|&", r"\$\{\w+,,"],
)  # fmt: skip
def test_nothing_that_bsd_tools_or_bash_3_2_lack(gnuism: str) -> None:
    assert not re.search(gnuism, MAKEFILE)
