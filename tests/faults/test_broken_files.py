"""Broken files, in short; and one test for each fault that was found and mended."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from documents import HASH, training
from packs import refusal
from safetensors.numpy import load_file, save_file

from engram.cli import main
from engram.dataset import build
from engram.models import adapters, conversion, model
from engram.patterns import loading
from engram.plan import documents
from engram.support.errors import EngramError
from engram.training import train
from tools.torture import broken_files
from tools.torture.broken_files import invoke, make_adapter, make_sound


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("broken") / "sound"
    make_sound(root)
    return root


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "root")
    return tmp_path / "root"


def test_what_is_sound_passes_every_command(root: Path) -> None:
    """So that a refusal above is of the damage."""
    for kind, (names, commands) in broken_files.READERS.items():
        for command in commands:
            if kind != "recipe":  # whose command goes on to train
                done = invoke(command, root, names[0])
                assert done.exit_code == 0 or "results verify" in command, (command, done.output)
            shutil.rmtree(root / "new", ignore_errors=True)


def test_no_damage_is_taken_for_sound_and_none_shows_a_traceback() -> None:
    (tally,) = broken_files.campaign(0, 0.02, lambda _: None)
    assert tally.losses == [] and tally.cases >= 40


def test_a_flipped_digit_in_a_result_is_refused(root: Path) -> None:
    path = root / "results/mlx/baseline.json"
    text = path.read_text("utf-8")
    path.write_text(text.replace('"nll": 0.5', '"nll": 0.7', 1), "utf-8")
    assert "its checksum is of other content" in refusal(documents.read, path, "result", "make eval").what
    verified = invoke("results verify {root}/{name}", root, "results/mlx/baseline.json")
    assert verified.exit_code == 2 and "its checksum is of other content" in verified.output
    path.write_text(text, "utf-8")
    assert documents.read(path, "result", "make eval")["stage"] == "baseline"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("layout", ["mlx", "peft"])
def test_an_adapter_with_weights_that_are_no_numbers_is_refused(layout: str, value: float, root: Path) -> None:
    folder = root / "adapters" / layout
    name = {"mlx": adapters.MLX_WEIGHTS, "peft": adapters.PEFT_WEIGHTS}[layout]
    tensors = load_file(folder / name)
    tensors[min(tensors)][0, 0] = value
    save_file(tensors, folder / name)
    said = "weights that are no numbers (NaN or infinite) in 1 of 8 tensors"
    assert said in refusal(conversion.read, folder, name).what
    with pytest.raises(EngramError, match="no numbers"), conversion.readable(folder, name):
        pass


@pytest.mark.parametrize(("key", "said"), [("sha256", "weights: "), ("rank", "rank: 2, "), ("alpha", "scale: 8.0, ")])
def test_an_adapter_is_held_against_its_log_before_it_is_evaluated(key: str, said: str, tmp_path: Path) -> None:
    make_adapter(tmp_path / "adapter")
    digest = adapters.read_adapter(tmp_path / "adapter")[1]
    log = training(digest)
    log["recipe"] |= {"rank": 2, "alpha": 16.0}
    given = (log, tmp_path / "adapter", adapters.MLX_WEIGHTS, digest)
    assert train.unlike(*given) == []
    if key == "sha256":
        log["adapter"]["sha256"] = HASH["e"]
    else:
        log["recipe"][key] = 3
    assert any(line.startswith(said) for line in train.unlike(*given))


def test_the_bundled_model_is_refused_with_one_bit_flipped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "BUNDLED", root)
    assert model.resolve("tiny").name == "tiny"
    path = root / "tiny/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    assert "the bundled model is damaged: model.safetensors" in refusal(model.resolve, "tiny").what


def test_a_manifest_that_miscounts_is_refused(root: Path) -> None:
    path = root / "data/manifest.json"
    document = json.loads(path.read_text("utf-8"))
    document["counts"]["train"] += 1
    path.write_text(json.dumps(document), "utf-8")
    assert "the manifest's counts differ from the rows" in refusal(build.check_data, root / "data").what


def test_data_that_another_run_writes_while_they_are_read_are_refused(root: Path) -> None:
    identity = documents.data_identity(build.read_manifest(root / "data"), root / "data")
    documents.refuse_changed_data(identity, root / "data")
    assert invoke("data --patterns {root}/pack.yaml --data {root}/data --seed 1", root, "").exit_code == 0
    assert "changed while they were read" in refusal(documents.refuse_changed_data, identity, root / "data").what


def test_what_the_system_refuses_anywhere_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(error: OSError) -> Any:
        def find(_: str) -> None:
            raise error

        monkeypatch.setattr(loading, "find_files", find)
        return CliRunner().invoke(main, ["validate"])

    full = refuse(OSError(28, "No space left on device", "/tmp/somewhere"))
    assert full.exit_code == 2 and "engram: /tmp/somewhere: No space left on device\n  fix: " in full.output
    assert isinstance(refuse(OSError(107, "ours")).exception, OSError)


def test_a_file_without_end_is_refused_at_once(root: Path) -> None:
    os.truncate(root / "data/train.jsonl", 1 << 40)
    done = invoke("data --check --data {root}/data", root, "")
    assert done.exit_code == 2 and "train.jsonl: cannot read this file: it is larger than 64 GiB" in done.output
