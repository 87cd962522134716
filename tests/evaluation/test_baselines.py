"""Baselines taken from the cache: only where all that they depend on is the same, whole or not at all, and said."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small_run import CONFIG, Run

from engram.cli import main
from engram.evaluation import baselines, compare, evaluate
from engram.models.model import Model, resolve
from engram.plan import documents
from engram.plan.config import Config
from engram.support import machine

DATA = {"manifest_sha256": "a" * 64, "seed": 0}
SCORING = {"version": 2}


def key(**changes: Any) -> str:
    known = {"backend": "mlx", "device": "CPU", "model": resolve("tiny"), "data": DATA, "scoring": SCORING}
    return baselines.key(**(known | {"config": Config()} | changes))


def copied(folder: Path, file: str = "", text: str = "") -> Model:
    shutil.copytree(resolve("tiny").path, folder)
    if file:
        (folder / file).write_text(text)
    return resolve(str(folder))


def test_the_key_is_the_same_for_the_same() -> None:
    assert key() == key()
    assert re.fullmatch("[0-9a-f]{64}", key())


@pytest.mark.parametrize(
    "changes",
    [
        {"backend": "cpu"},
        {"device": "GPU"},
        {"data": DATA | {"seed": 1}},
        {"data": DATA | {"manifest_sha256": "b" * 64}},
        {"scoring": {"version": 3}},
        {"model": Model("tiny", resolve("tiny").path, chat_template="{{ x }}")},
        {"model": Model("other", resolve("tiny").path)},
        {"model": Model("tiny", resolve("tiny").path, revision="1")},
    ],
)
def test_whatever_is_asked_or_answers_is_in_the_key(changes: dict[str, Any]) -> None:
    assert key(**changes) != key()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Config)])
def test_the_settings_of_an_evaluation_are_in_the_key_and_those_of_training_are_not(field: str) -> None:
    value = getattr(Config(), field)
    other = f"{value}x" if isinstance(value, str) else value + 1
    changed = key(config=dataclasses.replace(Config(), **{field: other})) != key()
    assert changed == (field in baselines.SETTINGS)


def test_every_setting_that_the_evaluation_reads_is_in_the_key() -> None:
    source = Path(evaluate.__file__).read_text("utf-8")
    assert set(re.findall(r"\bconfig\.(\w+)", source)) - {"as_dict"} == set(baselines.SETTINGS)


@pytest.mark.parametrize("file", ["tokenizer.json", "chat_template.jinja", "config.json", "heldout.jsonl"])
def test_the_models_other_files_are_in_the_key(file: str, tmp_path: Path) -> None:
    same, other = copied(tmp_path / "one" / "tiny"), copied(tmp_path / "two" / "tiny")
    assert key(model=same) == key(model=other)
    with (other.path / file).open("a") as end:
        end.write(" ")
    assert key(model=same) != key(model=other)


def test_the_weights_are_in_the_key(tmp_path: Path) -> None:
    one, other = copied(tmp_path / "one" / "tiny"), copied(tmp_path / "two" / "tiny")
    weights = bytearray((other.path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other.path / "model.safetensors").write_bytes(weights)
    assert key(model=one) != key(model=other)


@pytest.mark.parametrize("name", ["hardware", "environment"])
def test_the_machine_is_in_the_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    known = getattr(machine, name)()
    monkeypatch.setattr(machine, name, lambda: known | {"new": "1"})
    assert key() != before


def test_every_installed_package_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before, installed = key(), list(metadata.distributions())
    monkeypatch.setattr(metadata, "distributions", lambda: installed[1:])
    assert key() != before


def test_the_code_is_in_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = key()
    monkeypatch.setattr(baselines, "code", lambda: "another")
    assert key() != before
    monkeypatch.undo()
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.py").write_text("one")
    hashes = [baselines.code.__wrapped__(tmp_path)]
    (tmp_path / "part" / "a.py").write_text("two")
    hashes.append(baselines.code.__wrapped__(tmp_path))
    (tmp_path / "part" / "a.py").rename(tmp_path / "part" / "b.py")
    hashes.append(baselines.code.__wrapped__(tmp_path))
    (tmp_path / "notes.txt").write_text("no code")
    assert len(set(hashes)) == 3 and baselines.code.__wrapped__(tmp_path) == hashes[-1]


def answered(run: Run, out: Path, config: Config = CONFIG, **options: Any) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    document = evaluate.evaluate(
        "mlx", run.model, None, config, run.root / "data", out, lines.append, out.parent / "kept", **options
    )
    return document, lines


def test_a_baseline_is_measured_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "baseline.json"
    first, lines = answered(run, out)
    assert len(lines) == 1 and "reused" not in json.loads(out.read_text())
    (entry,) = (tmp_path / "kept").iterdir()
    other = dataclasses.replace(CONFIG, name="other", learning_rate=1e-5, rank=4)
    with monkeypatch.context() as never:
        never.setattr(evaluate, "_measured", None)
        again, lines = answered(run, out, other)
    created = first["provenance"]["created"]
    assert lines == [f"baseline taken from the cache, measured {created}; --fresh-baseline measures it again"]
    written = documents.read(out, "result", "make eval")
    assert written["reused"] == {"key": entry.stem}
    assert written["recipe"] == documents.rounded(other.as_dict())
    same = {"recipe", "reused", "checksum"}
    stored = json.loads(entry.read_text())
    assert {k: v for k, v in written.items() if k not in same} == {k: v for k, v in stored.items() if k not in same}
    assert documents.rounded(first["answers"]) == written["answers"] and again["timings"] == stored["timings"]
    _, lines = answered(run, out, other, fresh=True)
    assert "answering" in lines[0] and "reused" not in json.loads(out.read_text())


def test_a_baseline_from_the_cache_compares_with_a_model_tuned_otherwise(run: Run, tmp_path: Path) -> None:
    answered(run, tmp_path / "baseline.json")
    other = dataclasses.replace(CONFIG, name="other", epochs=1.0)
    answered(run, tmp_path / "baseline.json", other)
    evaluate.evaluate("mlx", run.model, run.root / "adapter", other, run.root / "data", tmp_path / "tuned.json", str)
    assert compare.compare(tmp_path)["recipe"]["name"] == "other"


def test_a_tuned_model_is_never_kept(run: Run, tmp_path: Path) -> None:
    place = (run.root / "data", tmp_path / "tuned.json", str, tmp_path / "kept")
    evaluate.evaluate("mlx", run.model, run.root / "adapter", CONFIG, *place)
    assert not (tmp_path / "kept").exists()


# --- damage and bounds ------------------------------------------------------------------------------------------------


def kept(run: Run, folder: Path, name: str = "a" * 64) -> Path:
    document = json.loads((run.root / "results" / "mlx" / "baseline.json").read_text())
    baselines.keep(folder, name, document)
    return folder / f"{name}.json"


DAMAGE = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a number": lambda text: text.replace('"nll": ', '"nll": 1', 1),
    "no checksum": lambda text: re.sub(r',\n "checksum": "[0-9a-f]*"', "", text.replace('"key": "a', '"key": "b')),
    "not JSON": lambda text: "\x00",
    "a list": lambda text: "[]",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_dropped_silently(damage: str, run: Run, tmp_path: Path) -> None:
    entry = kept(run, tmp_path)
    assert baselines.find(tmp_path, entry.stem, CONFIG)
    entry.write_text(DAMAGE[damage](entry.read_text()))
    assert baselines.find(tmp_path, entry.stem, CONFIG) is None
    assert not entry.exists()


def test_another_keys_entry_is_none(run: Run, tmp_path: Path) -> None:
    kept(run, tmp_path).rename(tmp_path / f"{'b' * 64}.json")
    assert baselines.find(tmp_path, "b" * 64, CONFIG) is None
    assert baselines.find(tmp_path, "c" * 64, CONFIG) is None


def test_the_oldest_entries_go(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST", 3)
    for i in range(5):
        os.utime(kept(run, tmp_path, f"{i}" * 64), (i, i))
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["2", "3", "4"]


def test_where_nothing_can_be_kept_nothing_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    baselines.keep(tmp_path / "file", "a" * 64, run.baseline)
    assert baselines.find(tmp_path / "file", "a" * 64, CONFIG) is None


def test_the_command(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "place", lambda: tmp_path / "kept")
    arguments = ["eval", "--stage", "baseline", "--model", "tiny", "--backend", "mlx"]
    arguments += ["--data", str(run.root / "data"), "--results", str(tmp_path)]
    arguments += [f"--set={name}=1" for name in ("consistency_prompts", "samples", "latency_prompts")]
    said = [CliRunner().invoke(main, arguments + more).output for more in ([], [], ["--fresh-baseline"])]
    assert ["from the cache" in text for text in said] == [False, True, False]
    assert said[0] == said[2]
