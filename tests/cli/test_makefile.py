"""The Makefile: what is redone when, and nothing that macOS's make 3.81 misreads."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from engram.support.files import PACKAGE

ROOT = PACKAGE.parent
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")

REQUIREMENTS = tuple(path.name for path in ROOT.glob("requirements*.txt"))

# stands in for `engram`: writes the files that each stage would, and keeps a list of the calls
STUB = """#!/bin/bash
echo "$*" >> calls
name=mlx; weights=adapters.safetensors
case "$*" in *"--backend cpu"*) name=cpu; weights=adapter_model.safetensors ;; esac
place=$name; case "$*" in *--adapter*) place=$name-with-cuda ;; esac
case "$*" in *"--method memory"*) place=$name-memory ;; *"--method both"*) place=$name-both ;; esac
[ $place = $name ] || weights=memory.safetensors
case "$1" in
  resolve-model) mkdir -p .make; echo tiny > .make/model ;;
  data) mkdir -p data; [ "$2" = --check ] || echo {} > data/manifest.json ;;
  train) mkdir -p adapters/$place; echo x > adapters/$place/$weights ;;
  record) [ "$4" = --beside ] || touch results/$name/demo.mp4 ;;
  eval) mkdir -p results/$place; echo {} > results/$place/$3.json ;;
  compare) [ "$2" = --across ] || [ "${4:-}" = --show ] || echo {} > results/$place/comparison.json ;;
esac
"""


SOURCES = ("patterns/loading", "dataset/phrasing", "dataset/build")  # that the data depend on


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A checkout with a stub in place of the installed `engram`."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (*REQUIREMENTS, "pyproject.toml"):
        (tmp_path / name).touch()
    for name in SOURCES:
        (tmp_path / "engram" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "engram" / f"{name}.py").touch()
    (tmp_path / "patterns").mkdir()
    (tmp_path / "patterns" / "facts.yaml").touch()
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "engram").write_text(STUB)
    (binaries / "engram").chmod(0o755)
    (binaries / "python").symlink_to(shutil.which("python3") or "python3")
    time.sleep(0.01)
    for name in (".ready", ".ready-dev", ".ready-cpu", ".ready-video", ".ready-gguf"):
        (tmp_path / ".venv" / name).touch()
    return tmp_path


def alone() -> dict[str, str]:
    """The environment without the variables of a make that runs these tests."""
    return {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ENGRAM_VENV")}


def make(house: Path, *arguments: str) -> list[str]:
    """Run make; the stub's calls, first words only where that says enough."""
    (house / "calls").unlink(missing_ok=True)
    done = subprocess.run(["make", *arguments], cwd=house, capture_output=True, text=True, env=alone(), check=False)
    assert done.returncode == 0, done.stderr
    calls = (house / "calls").read_text().splitlines() if (house / "calls").exists() else []
    return [" ".join(call.split()[: 3 if call.startswith("eval") else 1]) for call in calls]


def test_demo_runs_every_stage_once(house: Path) -> None:
    stages = ["data", "resolve-model", "eval --stage baseline", "train", "eval --stage tuned", "compare", "demo"]
    assert sorted(make(house, "demo")) == sorted(stages)
    assert make(house, "demo") == ["demo"]
    assert make(house, "train", "eval", "data") == []


def test_questions_are_asked_of_what_was_trained(house: Path) -> None:
    assert sorted(make(house, "ask", 'Q=What\'s "$HOME"?')) == sorted(["data", "resolve-model", "train", "ask"])
    assert """ask --model tiny --backend mlx -- What's "$HOME"?""" in (house / "calls").read_text().splitlines()
    assert make(house, "ask", "ARGS=--only tuned") == ["ask"]
    assert (house / "calls").read_text() == "ask --model tiny --backend mlx --only tuned\n"


def test_the_curve_is_reported_only_where_it_is_asked_for(house: Path) -> None:
    make(house, "train", "REPORT_TO=tensorboard")
    assert (house / "calls").read_text().splitlines()[-1].endswith(" --report-to tensorboard")
    assert make(house, "train", "REPORT_TO=wandb") == []  # it changes no adapter
    make(house, "train", "SEED=1")
    assert "--report-to" not in (house / "calls").read_text()


@pytest.mark.parametrize(("method", "trained"), [("memory", 1), ("both", 2)])
def test_a_method_has_files_of_its_own(house: Path, method: str, trained: int) -> None:
    """`both` stands on the adapter, which it makes where there is none; nothing of one method is redone for another."""
    make(house, "demo")
    (house / "calls").unlink()
    made = make(house, "demo", f"METHOD={method}")
    assert made == ["eval --stage baseline", "train", "eval --stage tuned", "compare", "demo"]
    assert (house / "adapters" / f"mlx-{method}" / "memory.safetensors").is_file()
    assert make(house, "demo", f"METHOD={method}") == ["demo"]
    assert make(house, "demo") == ["demo"]
    make(house, "clean")
    assert not (house / "adapters" / f"mlx-{method}").exists()
    assert make(house, "demo", f"METHOD={method}").count("train") == trained
    calls = (house / "calls").read_text().splitlines()
    assert sum(f"--method {method}" in call for call in calls if call.startswith("train")) == 1


def test_an_export_names_its_format_or_has_the_settings_of_the_evaluation(house: Path) -> None:
    assert make(house, "export", "FORMAT=ollama", "ARGS=--quantize q8_0")[-1] == "export"
    last = (house / "calls").read_text().splitlines()[-1]
    assert last == "export --format ollama --model tiny --backend mlx --quantize q8_0"
    make(house, "clean")
    assert sorted(make(house, "export-eval", "DIR=out dir", "RECIPE=seed", "SET=max_new_tokens=9")) == sorted(
        ["data", "resolve-model", "export-eval"]
    )
    call = "export-eval out dir --model tiny --recipe seed --set max_new_tokens=9"
    assert call in (house / "calls").read_text().splitlines()


def touch_later(path: Path) -> None:
    later = time.time() + 2
    path.touch()
    os.utime(path, (later, later))


def test_a_changed_pattern_file_redoes_everything_but_the_model(house: Path) -> None:
    make(house, "demo")
    touch_later(house / "patterns" / "facts.yaml")
    stages = ["data", "eval --stage baseline", "train", "eval --stage tuned", "compare", "demo"]
    assert sorted(make(house, "demo")) == sorted(stages)


def test_a_new_and_a_deleted_pattern_file_are_noticed(house: Path) -> None:
    make(house, "data")
    (house / "patterns" / "more.yml").touch()
    os.utime(house / "patterns" / "more.yml", (1, 1))
    assert make(house, "data") == ["data"]
    (house / "patterns" / "more.yml").unlink()
    assert make(house, "data") == ["data"]


def test_a_pack_is_named_and_its_change_is_noticed(house: Path) -> None:
    (house / "patterns" / "packs").mkdir()
    for name in ("http", "ports"):
        (house / "patterns" / "packs" / f"{name}.yaml").touch()
    assert make(house, "data", "PATTERNS=http,ports") == ["data"]
    assert "--patterns http,ports" in (house / "calls").read_text()
    assert make(house, "data", "PATTERNS=http,ports") == []
    touch_later(house / "patterns" / "packs" / "ports.yaml")
    assert make(house, "data", "PATTERNS=http,ports") == ["data"]


def test_what_is_here_wins_over_a_pack_of_its_name(house: Path) -> None:
    (house / "patterns" / "packs").mkdir()
    for name in ("http", "ports"):
        (house / "patterns" / "packs" / f"{name}.yaml").touch()
    make(house, "data", "PATTERNS=http,ports")
    (house / "ports").mkdir()
    (house / "ports" / "own.yaml").touch()
    time.sleep(0.02)
    assert make(house, "data", "PATTERNS=http,ports") == ["data"]
    assert (house / ".make" / "data.params").read_text().split()[-2:] == ["patterns/packs/http.yaml", "ports/own.yaml"]


@pytest.mark.parametrize(
    ("variable", "redone"),
    [
        ("RECIPE=seed", ["eval --stage baseline", "train", "eval --stage tuned", "compare", "demo"]),
        ("SET=rank=4", ["eval --stage baseline", "train", "eval --stage tuned", "compare", "demo"]),
        ("SEED=1", ["data", "eval --stage baseline", "train", "eval --stage tuned", "compare", "demo"]),
        ("MODEL=tiny", ["resolve-model", "eval --stage baseline", "train", "eval --stage tuned", "compare", "demo"]),
    ],
)
def test_a_changed_variable_redoes_what_depends_on_it(house: Path, variable: str, redone: list[str]) -> None:
    make(house, "demo")
    time.sleep(0.05)
    assert sorted(make(house, "demo", variable)) == sorted(redone)
    assert make(house, "demo", variable) == ["demo"]


def test_a_deleted_adapter_is_trained_again(house: Path) -> None:
    make(house, "demo")
    shutil.rmtree(house / "adapters")
    assert sorted(make(house, "demo")) == sorted(["train", "eval --stage tuned", "compare", "demo"])


def test_another_backend_has_folders_of_its_own(house: Path) -> None:
    make(house, "demo", "BACKEND=cpu")
    assert (house / "adapters" / "cpu" / "adapter_model.safetensors").is_file()
    assert make(house, "demo", "BACKEND=cpu") == ["demo"]
    assert "train" in make(house, "demo")
    assert make(house, "demo", "BACKEND=cpu") == ["demo"]


def test_training_gets_its_checkpoints_and_starts_over_only_when_asked(house: Path) -> None:
    make(house, "train")
    assert "--checkpoint-every 25" in (house / "calls").read_text()
    assert make(house, "train") == []
    assert make(house, "train", "FRESH=1", "CHECKPOINT=5") == ["train"]
    assert (house / "calls").read_text().rstrip().endswith("--checkpoint-every 5 --fresh")
    assert make(house, "train") == []


def test_several_processes_are_asked_for_and_redo_nothing(house: Path) -> None:
    make(house, "train")
    assert "--nproc" not in (house / "calls").read_text()
    assert make(house, "train", "NPROC=2") == []  # the same curve: nothing to do again
    assert make(house, "demo", "SEED=1", "NPROC=2; touch hacked").count("train") == 1
    (call,) = [line for line in (house / "calls").read_text().splitlines() if line.startswith("train")]
    assert call.endswith(" --nproc 2; touch hacked")
    assert not (house / "hacked").exists()


def test_an_adapter_stays_where_make_is_interrupted_just_after(house: Path) -> None:
    engram = house / ".venv" / "bin" / "engram"
    engram.write_text(
        STUB.replace("adapters/$place/$weights ;;", "adapters/$place/$weights; touch trained; sleep 1 ;;")
    )
    how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": alone()}
    how["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it
    with subprocess.Popen(["make", "train"], cwd=house, **how) as running:
        while not (house / "trained").exists():
            assert running.poll() is None, running.communicate()
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        running.communicate()
    assert running.returncode
    assert (house / "adapters" / "mlx" / "adapters.safetensors").is_file()


def test_the_demo_is_recorded_again_where_it_changed(house: Path) -> None:
    show = house / "engram" / "show" / "demo" / "acts.py"
    show.parent.mkdir(parents=True)
    show.touch()
    assert make(house, "record")[-2:] == ["compare", "record"]
    assert make(house, "record") == []
    time.sleep(0.02)
    show.touch()
    assert make(house, "record") == ["record"]
    assert make(house, "record", "SEED=1")[-1] == "record"


def test_the_report_follows_the_comparison_and_leads_with_its_run(house: Path) -> None:
    assert make(house, "report")[-2:] == ["compare", "report"]
    assert "report --first mlx" in (house / "calls").read_text()
    assert make(house, "report", "BACKEND=cpu")[-2:] == ["compare", "report"]
    assert "report --first cpu" in (house / "calls").read_text()
    (house / "results" / "report.html").touch()
    make(house, "clean")
    assert not (house / "results" / "report.html").exists()


def test_the_show_gets_the_patterns_and_its_arguments(house: Path) -> None:
    make(house, "demo", "PATTERNS=my patterns", "ARGS=--speed 2")
    assert "--patterns my patterns --speed 2" in (house / "calls").read_text()


def test_the_checklist_makes_nothing(house: Path) -> None:
    assert make(house, "video-prep") == ["video-prep"]
    assert "video-prep --backend mlx --patterns patterns --model auto" in (house / "calls").read_text()
    assert not any((house / name).exists() for name in ("data", "adapters", "results", ".make/model"))
    (house / ".make").mkdir(exist_ok=True)
    (house / ".make" / "model").write_text("tiny\n")
    touch_later(house / "patterns" / "facts.yaml")
    assert make(house, "video-prep", "YES=1", "PATTERNS=my patterns") == ["video-prep"]
    assert "--patterns my patterns --yes --model tiny" in (house / "calls").read_text()
    assert make(house, "video-prep", "MODEL=x; touch hacked") == ["video-prep"]
    assert "--model x; touch hacked" in (house / "calls").read_text()
    assert not (house / "hacked").exists()


@pytest.mark.parametrize("jobs", ["-j1", "-j4"])
def test_what_is_named_beside_the_checklist_is_made_before_it(house: Path, jobs: str) -> None:
    calls = make(house, jobs, "video-prep", "demo", "record")
    assert calls[-1] == "video-prep" and sorted(calls[-3:-1]) == ["demo", "record"]


def test_side_by_side_names_both_backends(house: Path) -> None:
    make(house, "record-compare")
    assert "record --backend mlx --beside cuda" in (house / "calls").read_text()
    make(house, "record-compare", "BACKEND=cpu", "BESIDE=x; touch hacked")
    assert "record --backend cpu --beside x; touch hacked" in (house / "calls").read_text()
    assert not (house / "hacked").exists()


WITH = ["eval --stage baseline", "eval --stage tuned", "compare"]


@pytest.fixture
def foreign(house: Path) -> Path:
    """A house with its own results and an adapter from elsewhere."""
    make(house, "demo")
    (house / "adapters" / "cuda").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (house / "adapters" / "cuda" / name).touch()
    return house


@pytest.mark.parametrize("spelled", ["adapters/cuda", "adapters/cuda/", "./adapters/../adapters/cuda"])
def test_another_backends_adapter_has_results_of_its_own(foreign: Path, spelled: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in (foreign / "results" / "mlx").iterdir()}
    assert make(foreign, "eval", "compare", f"ADAPTER={spelled}") == [*WITH, "compare", "compare"]
    assert f"--adapter {spelled}" in (foreign / "calls").read_text()
    assert (foreign / "results" / "mlx-with-cuda" / "comparison.json").is_file()
    assert {path: path.stat().st_mtime_ns for path in (foreign / "results" / "mlx").iterdir()} == before
    assert make(foreign, "eval", "compare", f"ADAPTER={spelled}") == ["compare", "compare"]
    assert make(foreign, "demo", f"ADAPTER={spelled}") == ["demo"]
    assert make(foreign, "demo") == ["demo"]


def test_an_unknown_backend_reaches_the_command_that_explains_it(house: Path) -> None:
    make(house, "verify-model", "BACKEND=mxl")
    assert "--backend mxl" in (house / "calls").read_text()


def test_variables_reach_the_commands_quoted(house: Path) -> None:
    make(house, "data", "PATTERNS=my patterns; touch hacked")
    assert not (house / "hacked").exists()


def test_clean_takes_away_what_the_stages_wrote_and_nothing_else(house: Path) -> None:
    make(house, "demo")
    (house / "results" / "mlx-with-cuda").mkdir()
    (house / "results" / "mlx-with-cuda" / "tuned.json").touch()
    (house / "adapters" / ".mlx.checkpoint.safetensors").touch()
    reference = house / "results" / "reference" / "kept.json"
    reference.parent.mkdir(parents=True)
    reference.touch()
    make(house, "clean")
    left = {str(path.relative_to(house)) for path in house.rglob("*") if path.is_file() and ".venv" not in path.parts}
    kept = {"Makefile", "calls", "pyproject.toml", *REQUIREMENTS, "patterns/facts.yaml"}
    kept |= {f"engram/{name}.py" for name in SOURCES}
    assert left - {"calls"} == (kept | {"results/reference/kept.json"}) - {"calls"}
    make(house, "distclean")
    assert not (house / ".venv").exists()


def test_make_alone_lists_targets_and_variables(house: Path) -> None:
    out = subprocess.run(["make"], cwd=house, env=alone(), capture_output=True, text=True, check=True).stdout
    for target in re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M):
        assert f"make {target} " in out
    for variable in ("BACKEND", "MODEL", "RECIPE", "SEED", "PATTERNS", "ADAPTER"):
        assert variable in out


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


def test_seeds_and_verify_are_handed_on(house: Path) -> None:
    make(house, "seeds", "SEEDS=1,2", "SET=steps=3", "PATTERNS=patterns")
    (call,) = [line for line in (house / "calls").read_text().splitlines() if line.startswith("seeds")]
    assert call == "seeds --seeds 1,2 --patterns patterns --model tiny --backend mlx --recipe default --set steps=3"
    assert make(house, "verify")[-1] == "results"


def test_compare_goes_on_to_every_run(house: Path) -> None:
    make(house, "compare")
    calls = [line for line in (house / "calls").read_text().splitlines() if line.startswith("compare")]
    assert calls == [
        "compare --backend mlx --quiet", "compare --backend mlx --show --categories", "compare --across"
    ]  # fmt: skip
