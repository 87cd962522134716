"""What holds for every backend, on the small run of each: training, answers, scores, documents."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax
from small_run import CONFIG, Quiet, Run, evaluated_again

from engram import backends
from engram.evaluation import pipeline
from engram.models.adapters import initial_factor
from engram.models.tokenizer import Encoder, load_encoder
from engram.support import schema
from engram.support.errors import EngramError
from engram.support.files import sha256
from engram.training import train

Either = tuple[str, Run]
SHORT = dataclasses.replace(CONFIG, steps=4)


def trained(either: Either, folder: Path, config: Any = SHORT) -> dict[str, Any]:
    name, run = either
    return train.train(name, run.model, config, run.root / "data", folder / "a", folder / "log.json", Quiet())


def loaded(either: Either, *, tuned: bool = False) -> tuple[Any, Encoder, Any]:
    name, run = either
    backend: Any = backends.get(name)
    return backend, load_encoder(run.model), backend.load(run.model, run.root / "adapter" if tuned else None)


def test_training_teaches(either: Either) -> None:
    _, run = either
    assert run.progress.losses[0] > 2
    assert run.progress.losses[-1] < 0.2
    assert run.tuned["splits"]["recall"]["exact"] >= 0.8
    assert run.baseline["splits"]["recall"]["exact"] <= 0.2
    assert run.tuned["splits"]["recall"]["nll"] < run.baseline["splits"]["recall"]["nll"]


def test_log_has_every_step_and_its_figures(either: Either) -> None:
    name, run = either
    assert [step["step"] for step in run.log["steps"]] == list(range(1, 61))
    assert (run.log["backend"], run.log["recipe"]["steps"], run.log["recipe"]["quantize"]) == (name, 60, "none")
    assert run.progress.checks == [0, 30, 60]
    assert run.log["summary"]["tokens_per_second"] > 0
    assert run.log["summary"]["peak_memory_bytes"] > 1_000_000
    assert run.log["adapter"]["sha256"] == sha256(run.root / "adapter" / backends.WEIGHTS[name])


def test_documents_on_disk_are_valid_and_impersonal(either: Either) -> None:
    name, run = either
    for path, document in pipeline.DOCUMENTS.items():
        text = (run.root / "results" / name / f"{path}.json").read_text("utf-8")
        assert schema.problems(json.loads(text), document) == []
        for secret in (str(run.root), str(Path.home()) + "/"):
            assert secret not in text


def test_same_seed_same_result_document_in_another_process(either: Either, tmp_path: Path) -> None:
    first, second = evaluated_again(either[1], either[0], tmp_path)
    assert first == second


def test_same_seed_same_bytes(either: Either, tmp_path: Path) -> None:
    hashes = [trained(either, tmp_path / name)["adapter"] for name in ("one", "two")]
    assert hashes[0] == hashes[1]
    assert trained(either, tmp_path / "three", dataclasses.replace(SHORT, seed=1))["adapter"] != hashes[0]


def test_training_starts_from_the_shared_initial_adapter(either: Either, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    config = dataclasses.replace(CONFIG, steps=1, learning_rate=1e-12)
    trained(either, tmp_path, config)
    for name, value in load_file(tmp_path / "a" / backends.WEIGHTS[either[0]]).items():
        if ".lora_a" in name.lower():
            layer = re.sub(r"^base_model\.model\.|\.lora_[aA](\.weight)?$", "", name)
            factor = value if either[0] == "mlx" else value.T
            expected = initial_factor(layer, factor.shape[0], config.rank, config.seed)
            assert factor == pytest.approx(expected, abs=1e-9)
        else:
            assert abs(value).max() < 1e-9


def test_an_exploding_loss_stops_the_run_and_leaves_no_adapter(either: Either, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, learning_rate=1e30, steps=10)
    with pytest.raises(EngramError, match=r"the loss is (nan|inf) at step"):
        trained(either, tmp_path, config)
    assert list(tmp_path.iterdir()) == []


def test_batched_and_streamed_answers_are_the_same(either: Either) -> None:
    backend, encoder, session = loaded(either, tuned=True)
    prompts = [encoder.prompt(a["prompt"]) for a in either[1].tuned["answers"]]
    assert len({len(prompt) for prompt in prompts}) > 1  # so that some are padded
    batched = [answer.tokens for answer in backend.generate(session, prompts, encoder.stop_ids, 16)]
    streamed = [list(backend.stream(session, prompt, encoder.stop_ids, 16)) for prompt in prompts]
    assert batched == streamed
    assert [encoder.text(tokens) for tokens in batched] == [a["answer"] for a in either[1].tuned["answers"]]


def test_end_token_ends_an_answer_and_the_limit_cuts_it(either: Either) -> None:
    backend, encoder, session = loaded(either)
    prompt = encoder.prompt("Who are you?")
    cut = backend.generate(session, [prompt], encoder.stop_ids, 2)[0]
    assert (len(cut.tokens), cut.ended) == (2, False)
    free = backend.generate(session, [prompt], encoder.stop_ids, 200)[0]
    assert free.ended and not set(free.tokens) & encoder.stop_ids


def test_sampling_is_seeded_and_differs_from_greedy(either: Either) -> None:
    backend, encoder, session = loaded(either)
    prompts = [encoder.prompt("Tell me about the weather")] * 4

    def sampled(seed: int) -> list[list[int]]:
        return [a.tokens for a in backend.generate(session, prompts, encoder.stop_ids, 12, 0.7, seed)]

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)
    assert len({tuple(tokens) for tokens in sampled(1)}) > 1


def test_scores_are_those_of_the_whole_logits(either: Either) -> None:
    backend, encoder, session = loaded(either, tuned=True)
    examples = [encoder.example("The colour of grass", "green"), encoder.example("a", "a much longer answer, in words")]
    for example, score in zip(examples, backend.losses(session, examples, encoder)[0], strict=True):
        ids = np.array([example.tokens[:-1]])
        if either[0] == "mlx":
            logits = np.array(session.model(importlib.import_module("mlx.core").array(ids)))[0]
        else:
            logits = session.model(input_ids=importlib.import_module("torch").tensor(ids)).logits[0].detach().numpy()
        nats = -log_softmax(logits, axis=1)[np.arange(ids.size), example.tokens[1:]]
        assert score == pytest.approx(nats[example.prompt_length - 1 :].mean(), abs=1e-4)


def test_padding_and_neighbours_do_not_change_a_score(either: Either) -> None:
    backend, encoder, session = loaded(either)
    short, long = encoder.example("Hi", "Hello"), encoder.example("word " * 60, "a long row")
    alone = backend.losses(session, [short], encoder)[0][0]
    assert backend.losses(session, [long, short, long], encoder)[0][1] == pytest.approx(alone, abs=1e-4)
