"""Shared beginnings, portions and ending rows change no answer: against mlx-lm's own batches and single prompts."""

from __future__ import annotations

import importlib
import random
from typing import Any

import pytest
from small_run import Run

from engram import backends
from engram.backends.mlx import backend, generate, linux_cpu, training
from engram.backends.mlx import model as mlx_model
from engram.models.model import resolve
from engram.models.tokenizer import Encoded, load_encoder
from engram.plan.batches import make_batch, shared_tokens, without_beginning
from engram.plan.config import Config
from engram.plan.curve import Answer

# isort: split
import mlx.core as mx  # after engram, which chooses its BLAS
from mlx import nn
from mlx.utils import tree_flatten, tree_map

STOP = frozenset({2})
SIZES = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4, "head_dim": 8},
    **{"num_key_value_heads": 2, "vocab_size": 97, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    "max_position_embeddings": 128,
}


def made(name: str, **settings: Any) -> backend.Session:
    """A model of this architecture with random weights, and a session of it."""
    backends.get("mlx")
    module = importlib.import_module(f"mlx_lm.models.{name}")
    mx.random.seed(3)
    model = module.Model(module.ModelArgs.from_dict({"model_type": name, **SIZES, **settings}))
    model.set_dtype(mx.float32)
    model.has_seam = mlx_model.has_seam(model)
    model.eval()
    mx.eval(model.parameters())
    return backend.Session(model, "CPU")


def plain(session: backend.Session, prompts: list[list[int]], limit: int) -> list[Answer]:
    return generate.drawn(session.model, prompts, STOP, limit, 0.0)


def drawn_prompts(count: int, beginnings: int = 3, seed: int = 0) -> list[list[int]]:
    """Prompts of several beginnings of which some are others' beginnings, and some asked twice."""
    pick = random.Random(seed)
    starts = [[pick.randrange(3, 97) for _ in range(pick.randrange(0, 12))] for _ in range(beginnings)]
    rows = [pick.choice(starts) + [pick.randrange(3, 97) for _ in range(pick.randrange(1, 9))] for _ in range(count)]
    return [*rows, *rows[:3], rows[0] + [5], rows[0] + [5, 6]]


MODELS = {
    "llama": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": False},
    "gemma2": {"query_pre_attn_scalar": 8, "num_key_value_heads": 4},  # mlx-lm's own batches need as many heads
    "gemma3_text": {"sliding_window": 8, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
}


@pytest.mark.parametrize("name", MODELS)
def test_many_prompts_are_answered_as_by_mlx_lms_own_batches(name: str) -> None:
    session, prompts = made(name, **MODELS[name]), drawn_prompts(70)
    assert backend.generate(session, prompts, STOP, 9) == plain(session, prompts, 9)
    assert generate.repeats(session.model) == (name != "gemma3_text")  # a window's keys and values cannot be repeated


CASES = {
    "none": [],
    "one": [[7, 8, 9]],
    "one token": [[7]],
    "one-token prompts among others": [[7], [8], [7, 8], [9, 9, 9]],
    "nothing in common": [[7, 8], [8, 7, 6], [9]],
    "one is the other's beginning": [[7, 8], [7, 8, 9], [7, 8, 9, 10], [7]],
    "all the same": [[7, 8, 9]] * 5,
    "of one length": [[7, 8, n] for n in range(3, 60)],
}


@pytest.mark.parametrize("case", CASES)
def test_odd_sets_of_prompts(case: str) -> None:
    session, prompts = made("qwen3", **MODELS["qwen3"]), CASES[case]
    assert backend.generate(session, prompts, STOP, 6) == (plain(session, prompts, 6) if prompts else [])


@pytest.mark.parametrize(("rows", "portion", "tokens"), [(1, 1, 40), (5, 3, 10_000), (8, 8, 60), (160, 48, 30)])
def test_answers_do_not_depend_on_the_size_of_the_batch(
    rows: int, portion: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, prompts = made("llama", **MODELS["llama"]), drawn_prompts(40)
    expected = plain(session, prompts, 12)
    for name, value in {"ROWS_SMALL": rows, "PORTION": portion, "TOKENS": tokens, "FEWEST": 4}.items():
        monkeypatch.setattr(generate, name, value)
    assert backend.generate(session, prompts, STOP, 12) == expected


def test_rows_that_end_at_different_times(monkeypatch: pytest.MonkeyPatch) -> None:
    session, prompts = made("llama", **MODELS["llama"]), drawn_prompts(60)
    free = plain(session, prompts, 12)
    common = [answer.tokens[i] for i, answer in enumerate(free) for i in (i % 12,) if len(answer.tokens) > i]
    stop = frozenset(common[:25])
    expected = generate.drawn(session.model, prompts, stop, 12, 0.0)
    assert len({len(answer.tokens) for answer in expected}) > 3
    monkeypatch.setattr(generate, "ROWS_SMALL", 24)
    monkeypatch.setattr(generate, "PORTION", 8)
    assert backend.generate(session, prompts, stop, 12) == expected


def test_portions_cover_the_prompts_once_and_share_what_they_say() -> None:
    prompts = list(dict.fromkeys(map(tuple, drawn_prompts(200, 5))))
    found = generate.portions(prompts, 32, 8)
    assert sorted(p for portion in found for p in portion.prompts) == sorted(prompts)
    for portion in found:
        assert len({p[: portion.shared] for p in portion.prompts}) == 1
        assert all(len(p) > portion.shared for p in portion.prompts)
        assert len(portion.prompts) <= 32
    assert max(portion.shared for portion in found) > 0
    assert generate.portions([], 32, 8) == []


# --- scores -----------------------------------------------------------------------------------------------------------


def rows_of(count: int, shared: int) -> list[Encoded]:
    pick = random.Random(1)
    start = tuple(pick.randrange(3, 97) for _ in range(shared))
    lengths = [(pick.randrange(1, 6), pick.randrange(1, 5)) for _ in range(count)]
    return [
        Encoded(str(i), (*start, *(pick.randrange(3, 97) for _ in range(own + answer))), shared + own)
        for i, (own, answer) in enumerate(lengths)
    ]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shared", [0, 5, 20])
def test_scores_with_a_shared_beginning_are_those_without(
    name: str, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, encoder, rows = made(name, **MODELS[name]), load_encoder(resolve("tiny")), rows_of(30, shared)
    scores = backend.losses(session, rows, encoder)[0]
    monkeypatch.setattr(generate, "shared_tokens", lambda batch: 0)
    assert scores == pytest.approx(backend.losses(session, rows, encoder)[0], abs=2e-5)


def test_what_rows_share_ends_before_the_first_learned_token() -> None:
    rows = [Encoded("a", tuple(range(3, 23)), 12), Encoded("b", tuple(range(3, 25)), 20)]
    batch = make_batch(rows, 0)
    assert shared_tokens(batch) == 11  # the loss of token 12 is asked for at token 11
    rest = without_beginning(batch, 11)
    assert rest.tokens.tolist() == batch.tokens[:, 11:].tolist()
    real = batch.weights > 0
    assert (rest.tokens.reshape(-1)[rest.positions[real]] == batch.tokens.reshape(-1)[batch.positions[real]]).all()
    assert shared_tokens(make_batch(rows[:1], 0)) == 0
    assert shared_tokens(make_batch([rows[0], Encoded("c", (9, *range(3, 23)), 12)], 0)) == 0


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shared", [0, 20])
@pytest.mark.parametrize(("tokens", "recompute"), [(1000, False), (40, False), (4, False), (1000, True)])
def test_gradients_of_a_batch_in_parts_are_those_of_the_whole(
    name: str, shared: int, tokens: int, recompute: bool
) -> None:
    model = made(name, **MODELS[name]).model
    model.freeze()
    mlx_model.attach(model, Config(rank=2, alpha=8.0))
    model.update(tree_map(lambda a: a + 0.1 * mx.random.normal(a.shape), model.trainable_parameters()))
    batch = make_batch(rows_of(9, shared), 0)

    def loss(model: Any) -> Any:
        tokens, positions, targets, weights = mlx_model.arrays(batch)
        return (mlx_model.token_losses(model, tokens, positions, targets) * weights).sum() / weights.sum()

    with linux_cpu.lazily():
        value, whole = nn.value_and_grad(model, loss)(model)
    found, summed = training.Gradients(model, tokens, dropout=False, recompute=recompute)(batch, batch.answer_tokens)
    assert found == pytest.approx(value.item(), rel=1e-5)
    expected = dict(tree_flatten(whole))
    for at, gradient in tree_flatten(summed):
        assert mx.allclose(gradient, expected[at], rtol=1e-3, atol=2e-5).item(), at


def test_the_logits_of_many_targets_are_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    test_gradients_of_a_batch_in_parts_are_those_of_the_whole("llama", 0, 1000, False)
    monkeypatch.setattr(mlx_model, "AT_ONCE", 5)
    monkeypatch.setattr(generate, "AT_ONCE", 5)
    session, encoder, rows = made("llama", **MODELS["llama"]), load_encoder(resolve("tiny")), rows_of(30, 5)
    scores = backend.losses(session, rows, encoder)[0]
    test_gradients_of_a_batch_in_parts_are_those_of_the_whole("llama", 20, 40, False)
    monkeypatch.undo()
    assert scores == pytest.approx(backend.losses(session, rows, encoder)[0], abs=2e-5)


def test_an_adapter_merged_on_a_cpu_answers_as_beside_the_weights(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(run.model)
    prompts = [encoder.prompt(a["prompt"]) for a in run.tuned["answers"]]
    merged = backend.load(run.model, run.root / "adapter")
    answers = backend.generate(merged, prompts, encoder.stop_ids, 16)
    assert backend.generate(backend.load(run.model), prompts, encoder.stop_ids, 16) != answers
    monkeypatch.setattr(mlx_model, "merge", lambda model: None)
    assert answers == backend.generate(backend.load(run.model, run.root / "adapter"), prompts, encoder.stop_ids, 16)
