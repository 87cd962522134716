"""The export for lm-evaluation-harness: what it holds, what it refuses, and that lm_eval scores as engram does."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from packs import pack, pattern, refusal
from small_run import CONFIG, Run

from engram.cli import main
from engram.dataset.build import read_split, write_data
from engram.dataset.rows import Example
from engram.evaluation import harness, scoring
from engram.models import conversion
from engram.models.model import resolve
from engram.models.tokenizer import load_encoder
from engram.patterns.loading import Pattern
from engram.plan.config import Config
from engram.support.errors import EngramError
from engram.support.files import sha256

ODD = (
    pattern("{{ 7 * 7 }} and {% raw %} and {# none #}", "{{ id }}"),
    pattern("prompt", "expected"),  # the columns' own names
    pattern("line one\nline two\r\n\ttabbed", 'say "it\'s" \\n'),
    pattern("Grüße, 漢字, 🙂, \u2028 and e\u0301", "é"),
    pattern("[1, 2]", "[1, 2]"),
    pattern("<|im_end|> in a prompt: # - ! &a *b", "!function utils.rows"),
)
DATES = tuple(pattern(f"The date of thing {i}", f"2023-01-{i:02d}") for i in range(10, 30))
NASTY = (
    *("", " ", "a", "A", "a.", "a\0", "a\0\0", " a\t\nb ", "a\u00a0b", "a\u2003b", "a\u200bb", "a\x1fb", "a\u2028b"),
    *("é", "e\u0301", "ﬁ", "Å", "\u212b", "가", "\u1100\u1161", "İ", "ß", "\ud800", "🙂", "\ufeffa", "a" * 50),
    *("a:\n  b\n", "a:\nb", "a: b"),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def data(patterns: list[Pattern]) -> Path:
    Path("pack.yaml").write_text("stands for the pattern file\n")
    write_data(patterns, [Path("pack.yaml")], Path("data"), seed=0)
    return Path("data")


def export(folder: Path | str = "export", config: Config = CONFIG) -> Path:
    harness.export(Path("data"), Path(folder), resolve("tiny"), config)
    return Path(folder)


class Loader(yaml.SafeLoader):
    """YAML with lm_eval's `!function`."""


Loader.add_constructor("!function", lambda loader, node: f"function {node.value}")


def read(path: Path) -> Any:
    return yaml.load(path.read_text("utf-8"), Loader)


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_bytes().decode().split("\n") if line]


def task_code() -> Any:
    """The module that an export takes along."""
    spec = importlib.util.spec_from_file_location("utils", harness.CODE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flat(example: Example) -> dict[str, str]:
    row = {"id": example.id, "prompt": example.prompt, "expected": example.answer}
    return row | {"category": example.category, "kind": example.kind}


def test_the_rows_are_the_test_set(here: Path) -> None:
    examples = read_split(data([*ODD, *pack()]), "test")
    folder = export()
    for kind in ("recall", "generalization"):
        assert rows(folder / f"{kind}.jsonl") == [flat(e) for e in examples if e.split_kind == kind] != []
        assert tuple(rows(folder / f"{kind}.jsonl")[0]) == task_code().COLUMNS


def test_the_tasks_answer_as_the_evaluation_does(here: Path) -> None:
    data(pack())
    folder = export(config=replace(CONFIG, max_new_tokens=17))
    assert read(folder / "engram.yaml")["task"] == ["engram_recall", "engram_generalization"]
    task = read(folder / "engram_recall.yaml")
    assert (task["doc_to_text"], task["doc_to_target"]) == ("prompt", "expected")
    generation = task["generation_kwargs"]
    assert (generation["max_gen_toks"], generation["do_sample"], generation["repetition_penalty"]) == (17, False, 1.0)
    assert generation["eos_token_id"] == sorted(load_encoder(resolve("tiny")).stop_ids)
    assert task["metadata"] == {"version": scoring.VERSION, "data_manifest_sha256": sha256(Path("data/manifest.json"))}
    assert sha256(Path("data/manifest.json")) in (folder / "README.md").read_text("utf-8")


def test_nothing_of_a_pattern_is_in_a_yaml_or_the_readme(here: Path) -> None:
    data(pack())
    plain = export()
    before = {p.name: p.read_text() for p in plain.glob("engram*.yaml")}
    odd = [pattern("!function utils.rows", "{{ 1 }}", category="!function x", kind="a: b"), *pack()]
    manifest = sha256(Path("data/manifest.json"))
    data(odd)
    now = sha256(Path("data/manifest.json"))
    assert {p.name: p.read_text().replace(now, manifest) for p in export().glob("engram*.yaml")} == before


def test_other_files_are_never_replaced(here: Path) -> None:
    data(pack())
    folder = export()
    (folder / "samples").mkdir()
    (folder / "samples" / "mine.jsonl").write_text("x")
    (folder / "recall.jsonl").write_text("edited")
    error = refusal(export)
    assert error.what.startswith("other files are in this folder")
    assert error.problems == ("samples/mine.jsonl: not written by this command", "recall.jsonl: changed")
    assert (folder / "recall.jsonl").read_text() == "edited"
    shutil.rmtree(folder / "samples")
    (folder / "recall.jsonl").unlink()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "utils.pyc").touch()
    data(pack(rule=None))
    export()  # takes the place of what is left of the old one
    assert read(folder / "engram.yaml")["task"] == ["engram_recall"]  # a split without rows has no task
    assert not [*folder.glob("*generalization*")]
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert sha256(folder / name) == digest


def test_what_cannot_be_exported_is_refused_and_nothing_is_left(here: Path) -> None:
    assert "manifest is missing" in str(refusal(export))
    data(pack())
    with pytest.raises(EngramError, match="no chat template, so lm_eval"):
        harness.export(Path("data"), Path("export"), replace(resolve("tiny"), chat_template="{{ x }}"), CONFIG)
    (Path("data") / "test.jsonl").write_text("")
    assert "changed or gone" in str(refusal(export))
    assert {path.name for path in here.iterdir()} == {"data", "pack.yaml"}


def test_the_command(here: Path) -> None:
    data(pack())
    arguments = ["export-eval", "out", "--model", "tiny"]
    done = CliRunner().invoke(main, [*arguments, "--max-new-tokens", "9", "--set", "max_new_tokens=8"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.replace("\n", " ").startswith("model: tiny 8 files in out; README.md there has the commands")
    assert read(Path("out/engram_recall.yaml"))["generation_kwargs"]["max_gen_toks"] == 9
    Path("out/other").touch()
    refused = CliRunner().invoke(main, arguments)
    assert (refused.exit_code, refused.stdout) == (2, "model: tiny\n") and "other: not written" in refused.stderr


def test_the_exports_own_scoring_is_engrams() -> None:
    code = task_code()
    for expected in NASTY:
        for answer in NASTY:
            theirs = code.process_results({"expected": expected}, [answer])
            assert theirs == {"exact_match": int(scoring.score(expected, answer).exact)}, (expected, answer)
    assert unicodedata.normalize("NFC", "e\u0301") == "é"  # so that the list above tells NFC from none


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


def test_lm_eval_reads_every_text_as_it_is(here: Path, offline: None) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    examples = {e.id: e for e in read_split(data([*ODD, *DATES, *pack()]), "test")}
    shutil.move(export(), here / "moved")
    loaded = TaskManager(include_path=str(here / "moved"), include_defaults=False).load("engram")
    seen = [(task, doc) for task in loaded["tasks"].values() for doc in task.test_docs()]
    assert {doc["id"] for _, doc in seen} == set(examples)
    for task, doc in seen:
        example = examples[doc["id"]]
        assert doc == flat(example)
        assert task.doc_to_text(doc) == example.prompt
        assert task.doc_to_target(doc) == example.answer
        assert task.process_results(doc, [f" {example.answer}\n"]) == {"exact_match": 1}
        assert task.process_results(doc, [example.answer + "."]) == {"exact_match": 0}


def variant(folder: Path, **generation: Any) -> Path:
    """`tiny` with a generation config that would change its answers."""
    shutil.copytree(resolve("tiny").path, folder)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def lm_eval(model: Path, adapter: Path, tasks: Path, out: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The scores of stock lm_eval, as its README's command asks for them, and the scored answers by id."""
    arguments = f"pretrained={model},peft={adapter},dtype=float32,add_bos_token=False,enable_thinking=False"
    options = ["--apply_chat_template", "--batch_size", "16", "--log_samples", "--device", "cpu"]
    place = ["--tasks", "engram", "--include_path", str(tasks), "--output_path", str(out)]
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", arguments, *place, *options]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=out.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (scores,) = (json.loads(path.read_text("utf-8")) for path in out.rglob("results_*.json"))
    return scores["results"], {row["doc"]["id"]: row for path in out.rglob("samples_*.jsonl") for row in rows(path)}


@pytest.mark.slow
def test_lm_eval_scores_the_adapter_as_engram_does(run: Run, tmp_path: Path) -> None:
    for package in ("lm_eval", "torch", "peft"):
        pytest.importorskip(package)
    harness.export(run.root / "data", tmp_path / "export", run.model, CONFIG)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "export", tmp_path / "elsewhere" / "moved")
    model = variant(tmp_path / "model", eos_token_id=9, repetition_penalty=3.0, do_sample=True, pad_token_id=0)
    adapter = tmp_path / "peft"
    conversion.convert(run.root / "adapter", adapter, "peft")
    scores, answers = lm_eval(model, adapter, tmp_path / "elsewhere" / "moved", tmp_path / "out")
    ours = {row["id"]: row for row in run.tuned["answers"]}
    assert {name: row["resps"][0][0] for name, row in answers.items()} == {n: row["answer"] for n, row in ours.items()}
    assert {name: row["exact_match"] for name, row in answers.items()} == {n: row["exact"] for n, row in ours.items()}
    assert {row["exact"] for row in ours.values()} == {True, False}  # so that the equalities say something
    for kind, split in run.tuned["splits"].items():
        assert round(scores[f"engram_{kind}"]["exact_match,none"], 6) == round(split["exact"], 6), kind
        assert scores[f"engram_{kind}"]["sample_len"] == split["n"]


@pytest.mark.parametrize("own_bos", [False, True], ids=["tiny", "a tokenizer that adds a token of its own"])
def test_lm_eval_asks_with_engrams_token_ids(here: Path, offline: None, own_bos: bool) -> None:
    for package in ("lm_eval", "torch", "peft"):
        pytest.importorskip(package)
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = variant(here / "model")
    if own_bos:
        tokenizer = json.loads((model / "tokenizer.json").read_text("utf-8"))
        first = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
        processor = tokenizer["post_processor"]
        processor["single"].insert(0, first)
        added = {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
        processor["special_tokens"] = {"<|endoftext|>": added}
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    examples = {e.id: e for e in read_split(data([*ODD, *pack(20)]), "test")}
    encoder = load_encoder(resolve(str(model)))
    lm = HFLM(pretrained=str(model), device="cpu", dtype="float32", add_bos_token=False, enable_thinking=False)
    loaded = TaskManager(include_path=str(export()), include_defaults=False).load("engram")
    for task in loaded["tasks"].values():
        chat = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": lm.apply_chat_template}
        task.build_all_requests(**chat)
        for request in task.instances:
            ids, _ = lm.tok_batch_encode([request.args[0]])
            asked = examples[request.doc["id"]].prompt
            odd = "<|im_end|>" in asked or not unicodedata.is_normalized("NFC", asked)  # lm_eval reads it as it is
            assert (ids[0].tolist() == encoder.prompt(asked)) != odd
    without = HFLM(pretrained=str(model), device="cpu", dtype="float32")
    ids, _ = without.tok_batch_encode([request.args[0]])
    assert (ids[0].tolist() != encoder.prompt(examples[request.doc["id"]].prompt)) == own_bos  # why the flag is there
