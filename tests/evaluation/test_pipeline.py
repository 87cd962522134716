"""The stages by content: what makes one run again, that nothing else does, and that one process changes no number."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small_run import PACK, _untimed

from engram.cli import main, stages
from engram.dataset import build
from engram.evaluation import pipeline
from engram.patterns.loading import load_patterns
from engram.support.files import BUNDLED

FEW = "steps=2 replay=0 samples=1 consistency_prompts=1 latency_prompts=1 max_new_tokens=4"
ALL = ["data", "baseline", "train", "tuned", "compare"]


def engram(*words: str) -> str:
    result = CliRunner().invoke(main, [*words])
    assert result.exit_code == 0, result.output
    return result.output


def why(*more: str, model: str = "own") -> dict[str, str]:
    """The reason of each stage that would run."""
    words = ["run", "compare", "--dry-run", "--backend", "mlx", "--patterns", "my patterns", "--set", FEW]
    lines = engram(*words, "--model", f"./{model}", "--recipe", "a recipe.yaml", *more).splitlines()[1:]
    return dict(line.removesuffix(" (not run)").split(": ", 1) for line in lines if not line.startswith("up to date"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of a copy of `tiny`; patterns and recipe have a blank in their names."""
    root = tmp_path_factory.mktemp("made")
    shutil.copytree(BUNDLED / "tiny", root / "own", ignore=shutil.ignore_patterns("SHA256SUMS"))
    (root / "my patterns").mkdir()
    (root / "my patterns" / "team facts.yaml").write_text(PACK)
    (root / "a recipe.yaml").write_text("rank: 4\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        words = ["--backend", "mlx", "--model", "./own", "--patterns", "my patterns", "--set", FEW]
        engram("run", "compare", *words, "--recipe", "a recipe.yaml")
    return root


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the run to spoil, with every file as old as 1970: no time may decide."""
    root = shutil.copytree(made, tmp_path / "a run")
    for path in root.rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.chdir(root)
    yield root


def rewritten(path: str, change: Callable[[bytes], bytes] = bytes.upper) -> Callable[[], None]:
    """Other content, and the old time."""

    def act() -> None:
        Path(path).write_bytes(change(Path(path).read_bytes()))
        os.utime(path, (1, 1))

    return act


def flipped(path: str) -> Callable[[], None]:
    """A number changed in one bit, under the same name, size and time."""
    return rewritten(path, lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])


def linked() -> None:
    Path("elsewhere.yaml").write_text(PACK.replace("green", "olive"))
    Path(PATTERNS).unlink()
    Path(PATTERNS).symlink_to("../elsewhere.yaml")


PATTERNS = "my patterns/team facts.yaml"
AFTER_DATA = dict.fromkeys(ALL[1:], "after data")
EDITED = {"data": f"{PATTERNS} changed", **AFTER_DATA}
TAUGHT = dict.fromkeys(ALL[3:], "after train")
BOTH = {"tuned": "after train", "compare": "after baseline"}
MODEL = "the files of the model own changed"
CASES: dict[str, tuple[Callable[[], Any], dict[str, str]]] = {
    "a new time": (lambda: os.utime(PATTERNS), {}),
    "an edit": (rewritten(PATTERNS, lambda text: text.replace(b"green", b"olive")), EDITED),
    "a rename": (
        lambda: Path(PATTERNS).rename("my patterns/b.yaml"),
        {"data": "my patterns/b.yaml is new, team facts.yaml is gone", **AFTER_DATA},
    ),
    "an ending in capitals": (
        lambda: shutil.copy(PATTERNS, "my patterns/b.YAML"),
        {"data": "my patterns/b.YAML is new", **AFTER_DATA},
    ),
    "a symlink to other patterns": (linked, EDITED),
    "rows edited by hand": (
        rewritten("data/train.jsonl"),
        {"data": "changed or gone since the manifest was written: train.jsonl", **AFTER_DATA},
    ),
    "the recipe file": (
        rewritten("a recipe.yaml", lambda _: b"rank: 2"),
        {"baseline": "rank 4 → 2", "train": "rank 4 → 2", **BOTH},
    ),
    "the model's weights": (flipped("own/model.safetensors"), {"baseline": MODEL, "train": MODEL, **BOTH}),
    "the adapter": (
        flipped("adapters/mlx/adapters.safetensors"),
        {"train": "not the adapter of its log: weights", **TAUGHT},
    ),
    "a deleted adapter": (lambda: shutil.rmtree("adapters"), {"train": "no adapter here: ", **TAUGHT}),
    "a deleted result": (
        lambda: Path("results/mlx/baseline.json").unlink(),
        {"baseline": "no results/mlx/baseline.json yet", "compare": "after baseline"},
    ),
    "a damaged result": (
        rewritten("results/mlx/tuned.json", lambda text: text[:-9]),
        {"tuned": "not JSON: ", "compare": "after tuned"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_stage_runs_if_what_it_depends_on_has_other_content(here: Path, case: str) -> None:
    act, expected = CASES[case]
    act()
    found = why()
    assert found.keys() == expected.keys()
    assert all(found[name].startswith(reason) for name, reason in expected.items()), found


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (("--seed", "1"), {"data": "seed 0 → 1", **AFTER_DATA}),
        (("--set", "max_new_tokens=5"), {"baseline": "max_new_tokens 4 → 5", "tuned": "max_new_tokens 4 → 5"}),
        (("--force",), dict.fromkeys(ALL, "forced")),
        (("--fresh",), {"train": "forced", "tuned": "after train"}),
        (("--method", "memory"), {"memory": "no results/mlx-memory/training.json yet", "tuned": "after memory"}),
    ],
)
def test_a_setting_redoes_what_depends_on_it(here: Path, words: tuple[str, ...], first: dict[str, str]) -> None:
    assert why(*words).items() >= first.items()


def test_another_version_or_model_redoes_everything_but_the_data(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree("own", "other")
    assert why(model="other")["train"] == "model own → other"
    monkeypatch.setattr(pipeline, "__version__", "9")
    assert why()["train"] == why()["baseline"] == "made by engram 0.1.0" and "data" not in why()


def test_a_stage_that_is_up_to_date_writes_nothing(here: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    words = ["--backend", "mlx", "--model", "./own", "--set", FEW, "--recipe", "a recipe.yaml"]
    for command in (["data", "--patterns", "my patterns"], ["train", *words], ["eval", *words]):
        assert "up to date: " in engram(*command)
    files = {path for path in before if path.is_file()}
    assert {path: path.stat().st_mtime_ns for path in files} == {path: before[path] for path in files}
    assert "train: forced" in engram("train", *words, "--force")


def test_the_targets_of_the_command_are_those_of_the_pipeline() -> None:
    assert (*pipeline.TARGETS,) == stages.STAGES
    assert {*stages.THEN.values()} <= {*pipeline.TARGETS}


def test_other_rows_of_the_same_patterns_have_another_version(tmp_path: Path) -> None:
    """Whoever changes how rows are made raises `schema_version` in `build.constants`: old data are then made again."""
    (tmp_path / "pack.yaml").write_text(PACK)
    files = [tmp_path / "pack.yaml"]
    manifest = build.write_data(load_patterns(files), files, tmp_path, 0)
    rows = [one["sha256"][:12] for one in manifest["outputs"]]
    assert (manifest["schema_version"], rows) == (2, ["932046d2741f", "cc12b5bfe5db", "b5a85687592f"])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mlx", "cpu"])
def test_one_process_gives_the_numbers_of_separate_ones(here: Path, backend: str) -> None:
    """The model is loaded once: the base answers, is trained, answers again, and the show asks both."""
    if backend == "cpu":
        pytest.importorskip("unsloth")

    def run(place: str, *commands: list[str]) -> dict[str, Any]:
        words = ["--backend", backend, "--model", "./own", "--recipe", "a recipe.yaml", "--set", f"{FEW} steps=20"]
        words += ["--results", f"{place}/results", "--adapters", f"{place}/adapters"]
        for command in commands:
            call = [sys.executable, "-m", "engram.cli", *command[:1], *words, *command[1:]]
            subprocess.run(call, check=True, capture_output=True)
        results = Path(place, "results", backend)
        both = ("baseline", "tuned")
        found = {stage: _untimed(json.loads((results / f"{stage}.json").read_text())) for stage in both}
        return {**found, "weights": next(Path(place, "adapters", backend).glob("*.safetensors")).read_bytes()}

    together = run("one", ["run", "--patterns", "my patterns", "demo", "--", "--width", "80"])
    assert together == run("several", ["eval", "--stage", "baseline"], ["train"], ["eval", "--stage", "tuned"])
