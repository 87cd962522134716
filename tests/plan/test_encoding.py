"""Chat template, loss mask and batch plan."""

from __future__ import annotations

import dataclasses
import json
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from packs import refusal

from engram.dataset.build import split
from engram.dataset.rows import Example
from engram.models.model import Model, resolve
from engram.models.tokenizer import IGNORED, TEXTS, Encoded, Encoder, load_encoder
from engram.patterns.loading import find_files, load_patterns
from engram.plan import batches as batching
from engram.plan.batches import Batch, encode, make_batch, plan_batches, plan_replay, plan_validation
from engram.plan.config import Config, learning_rates


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(resolve("tiny"))


@pytest.fixture(scope="module")
def encoded(encoder: Encoder) -> list[Encoded]:
    rows = split(load_patterns(find_files()), seed=0)
    return encode(encoder, rows["train"], 512)


def test_only_answer_and_end_token_are_learned(encoder: Encoder) -> None:
    example = encoder.example("Default port of SSH", "22", "x")
    learned = [token for token, label in zip(example.tokens, example.labels) if label != IGNORED]
    assert encoder.text(learned) == "22"
    assert learned[-1] == encoder.end_id
    assert encoder.tokenizer.decode(learned[-1:]) == "<|im_end|>"


def test_prompt_is_what_generation_is_asked_with(encoder: Encoder) -> None:
    example = encoder.example("Hello", "Hi", "x")
    assert list(example.tokens[: example.prompt_length]) == encoder.prompt("Hello")
    rendered = encoder.tokenizer.decode(encoder.prompt("Hello"))
    assert rendered == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


ODD = (
    *("<|im_end|>", "<|im_start|>", "<|endoftext|>", "\ue123", "\r\n", "\u2028", "\u200d", "e\u0301"),
    *("\ufeff", "\t", "  ", "\0", "1e3", "#", "{{ messages }}"),
)


@hypothesis.settings(deadline=None)
@given(st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=6)), max_size=6).map("".join))
@hypothesis.example("a <|im_start|>user\n<|im_end|>")
@hypothesis.example("\ue1230\ue123 <|im_end|> {{ messages }} {% for %}")
def test_any_text_comes_back_in_nfc_and_is_never_read_as_a_control_token(encoder: Encoder, text: str) -> None:
    control = encoder.tokenizer.added_tokens_decoder.keys()
    example, plain = encoder.example(text, text, "x"), unicodedata.normalize("NFC", text)
    assert encoder.text(encoder.plain(text)) == encoder.text(example.tokens[example.prompt_length :]) == plain
    assert control.isdisjoint(encoder.plain(text)) and control.isdisjoint(example.tokens[example.prompt_length : -1])
    usual = encoder.example("Hello", "Hi", "x")
    assert [i for i in example.tokens if i in control] == [i for i in usual.tokens if i in control]
    asked = encoder.tokenizer.decode(encoder.prompt(text))
    assert asked == f"<|im_start|>user\n{plain}<|im_end|>\n<|im_start|>assistant\n"


def odd_tiny(folder: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Model:
    """`tiny` with one of its JSON files changed."""
    shutil.copytree(resolve("tiny").path, folder)
    (folder / "SHA256SUMS").unlink()
    settings = json.loads((folder / file).read_text())
    change(settings)
    (folder / file).write_text(json.dumps(settings))
    return resolve(str(folder))


def test_answers_stop_at_every_end_that_the_files_name(tmp_path: Path) -> None:
    several = odd_tiny(tmp_path / "a", "generation_config.json", lambda found: found.update(eos_token_id=[2, 7]))
    assert load_encoder(several).stop_ids == {2, 7}

    def ordinary(found: dict[str, Any]) -> None:
        found["added_tokens"] = [{**one, "special": one["content"] != "<|im_end|>"} for one in found["added_tokens"]]

    model = odd_tiny(tmp_path / "b", "tokenizer.json", ordinary)
    settings = json.loads((model.path / "tokenizer_config.json").read_text()) | {"eos_token": "<|endoftext|>"}
    (model.path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_encoder(model).end_id == 2


def test_a_tokenizer_larger_than_its_embedding_is_refused(tmp_path: Path) -> None:
    new = {"id": 4096, "content": "<|new|>", "special": False, "lstrip": False, "rstrip": False, "normalized": False}
    new |= {"single_word": False}
    model = odd_tiny(tmp_path / "a", "tokenizer.json", lambda found: found["added_tokens"].append(new))
    assert refusal(load_encoder, model).what == "its tokenizer has ids up to 4,096, and its embedding 4,096 rows"


def test_a_template_that_does_not_ask_for_an_answer_is_remarked_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = odd_tiny(tmp_path / "odd", "config.json", lambda _: None)
    template = (odd.path / "chat_template.jinja").read_text()
    (odd.path / "chat_template.jinja").write_text(template.replace("add_generation_prompt", "false"))
    load_encoder(odd)
    assert "its chat template leaves '<|im_start|>assistant' to the model" in capsys.readouterr().out
    load_encoder(odd)
    load_encoder(resolve("tiny"))
    assert capsys.readouterr().out == ""


def test_a_control_token_that_cannot_be_spelt_is_refused_by_name(tmp_path: Path) -> None:
    def add(found: dict[str, Any]) -> None:
        found["added_tokens"].append({**found["added_tokens"][0], "id": 4095, "content": "a"})

    odd = odd_tiny(tmp_path / "odd", "tokenizer.json", add)
    assert "the text 'a' is a control token" in refusal(load_encoder(odd).plain, "banana").what


def test_many_are_encoded_as_each_of_them(encoder: Encoder) -> None:
    texts = ["Hello", "", " a  b ", "ä\u0301 \U0001f600", "<|im_end|>", "line\nline", *map(str, range(TEXTS))]
    assert encoder.prompts(texts) == [encoder.prompt(text) for text in texts]
    assert encoder.prompts([]) == []
    rows = [Example(f"{i}-ask", str(i), "fact", "c", "ask", "train", text, text[::-1]) for i, text in enumerate(texts)]
    assert encoder.examples(rows) == [encoder.example(row.prompt, row.answer, row.id) for row in rows]


def test_too_long_rows_are_named(encoder: Encoder) -> None:
    rows = split(load_patterns(find_files()), seed=0)["train"][:3]
    error = refusal(encode, encoder, rows, 10)
    assert "longer than max_length = 10" in error.what
    assert len(error.problems) == 3 and rows[0].id in error.problems[0]


def test_every_row_occurs_once_in_each_pass(encoded: list[Encoded]) -> None:
    config = Config(batch_size=32, epochs=2)
    plan = plan_batches(encoded, config)
    per_pass = -(-len(encoded) // 32)
    assert len(plan) == 2 * per_pass
    for number in range(2):
        rows = Counter(row for batch in plan[number * per_pass : (number + 1) * per_pass] for row in batch)
        assert rows == Counter(range(len(encoded)))


def test_plan_depends_on_seed_and_pass_alone(encoded: list[Encoded]) -> None:
    config = Config(batch_size=32, epochs=2)
    plan = plan_batches(encoded, config)
    assert plan_batches(encoded, config) == plan != plan_batches(encoded, dataclasses.replace(config, seed=1))
    assert plan[: len(plan) // 2] != plan[len(plan) // 2 :]
    assert len(plan_batches(encoded, dataclasses.replace(config, steps=100))) == 100  # steps win over epochs


def test_little_is_padded(encoded: list[Encoded]) -> None:
    plan = plan_batches(encoded, Config(batch_size=32, epochs=1))
    batches = [make_batch([encoded[i] for i in rows], 0) for rows in plan]
    real = sum(batch.real_tokens for batch in batches)
    assert real / sum(batch.tokens.size for batch in batches) > 0.8


def test_batch_arrays_point_at_the_token_before_each_learned_one(encoded: list[Encoded]) -> None:
    rows = encoded[:5]
    batch = make_batch(rows, pad_id=0)
    flat = batch.tokens.reshape(-1)
    learned = [(r, k) for r, e in enumerate(rows) for k in range(e.prompt_length, len(e.tokens))]
    assert batch.answer_tokens == len(learned) == int(batch.weights.sum())
    for index, (r, k) in enumerate(learned):
        assert flat[batch.positions[index]] == rows[r].tokens[k - 1]
        assert batch.targets[index] == rows[r].tokens[k]
        assert batch.owners[index] == r
    assert not batch.weights[len(learned) :].any()
    assert batch.tokens.shape[1] % batching.PAD_LENGTH == 0
    assert batch.tokens.dtype == np.int32


def test_validation_is_a_fixed_choice(encoded: list[Encoded]) -> None:
    config = Config(batch_size=16, validation_rows=40)
    plan = plan_validation(encoded, config)
    assert sum(map(len, plan)) == 40 and plan == plan_validation(encoded, config)


def test_learning_rates_follow_the_schedule_after_a_warm_up() -> None:
    for schedule, middle in (("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)):
        rates = learning_rates(Config(learning_rate=1.0, schedule=schedule), 100)
        assert (len(rates), rates[0], rates[50]) == (100, 1.0, pytest.approx(middle))
    rates = learning_rates(Config(learning_rate=1.0, schedule="constant", warmup_steps=4), 10)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_part_of_a_pass_has_met_every_pattern_alike(encoded: list[Encoded]) -> None:
    plan = plan_batches(encoded, Config(batch_size=16, epochs=1))
    met: Counter[str] = Counter()
    patterns = {row.id.partition("-")[0] for row in encoded}
    for number, batch in enumerate(plan, 1):
        met.update(encoded[i].id.partition("-")[0] for i in batch)
        if number % 16 == 0 and number * 16 < 7 * len(patterns):  # a window at a time; then rows run out
            assert max(met[one] for one in patterns) - min(met[one] for one in patterns) <= 2


def test_replay_rows_take_turns() -> None:
    rows = [Encoded(f"own-{i}", (1, 2, 3, i), 2) for i in range(10)]
    chosen_rows = plan_replay(rows, Config(replay=4), 7)
    assert [len(chosen) for chosen in chosen_rows] == [4] * 7
    counts = Counter(i for chosen in chosen_rows for i in chosen)
    assert set(counts) == set(range(10)) and set(counts.values()) == {2, 3}
    assert chosen_rows[:5] == plan_replay(rows, Config(replay=4), 5) != plan_replay(rows, Config(replay=4, seed=1), 5)
    assert plan_replay(rows, Config(), 7) == plan_replay([], Config(replay=4), 7) == []


def test_kept_distributions_are_those_of_the_logits_and_follow_their_rows() -> None:
    draw = np.random.default_rng(0)
    rows = [Encoded(str(n), tuple(range(n, 2 * n + 4)), 3) for n in range(5, 9)]
    logits = {row.id: draw.normal(0, 3, (row.answer_length, 300)).astype(np.float32) for row in rows}

    def of(batch: Batch) -> Iterator[NDArray[np.float32]]:
        whole = np.concatenate([logits[name] for name in batch.ids])
        padding = np.zeros((len(batch.targets) - len(whole), 300), np.float32)
        yield from np.array_split(np.concatenate([whole, padding]), 3)

    found = batching.distributions(rows[::-1], 0, 3, of)[::-1]
    for row, likely in zip(rows, found):
        chances = np.exp(logits[row.id].astype(float))
        chances /= chances.sum(axis=1, keepdims=True)
        kept = np.take_along_axis(chances, likely.tokens, axis=1)
        assert np.allclose(likely.chances[:, :-1], kept, rtol=1e-5) and likely.tokens.shape[1] == batching.LIKELY
        assert np.allclose(likely.chances.sum(axis=1), 1, atol=1e-5)
        assert (kept.min(axis=1) >= np.sort(chances, axis=1)[:, -batching.LIKELY] - 1e-12).all()
    batch = make_batch(rows, 0, found)
    for part in batching.parts(batch, 30):
        alone = make_batch([rows[int(n) - 5] for n in part.ids], 0, [found[int(n) - 5] for n in part.ids])
        assert part.likely is not None and alone.likely is not None
        assert all((one == other).all() for one, other in zip(part.likely, alone.likely))


def test_a_conversation_is_asked_as_the_template_renders_it(encoder: Encoder) -> None:
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, ("Hi", "Hello!", "Who are you?"))]
    rendered = encoder.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert encoder.chat(messages) == encoder.tokenizer.encode(rendered, add_special_tokens=False)
    assert encoder.chat(messages[:1]) == encoder.prompt("Hi")


def test_more_steps_than_anybody_runs_are_not_planned(encoded: list[Encoded]) -> None:
    error = refusal(plan_batches, encoded * 2000, Config(epochs=10_000.0, batch_size=1))
    assert "steps, at most 1,000,000 run" in error.what


def test_a_tokenizer_that_fails_when_it_is_used_is_refused(tmp_path: Path) -> None:
    broken = odd_tiny(tmp_path / "broken", "tokenizer_config.json", lambda found: found.update(model_max_length=[1]))
    assert "broken: the tokenizer cannot be used" in str(refusal(load_encoder, broken))


def test_a_row_that_memory_cannot_hold_is_refused_before_the_first_step() -> None:
    tiny = resolve("tiny")
    batches = [make_batch([Encoded("short", tuple(range(9)), 4)], 0), make_batch([Encoded("long", (5,) * 2000, 4)], 0)]
    for free in (None, 1 << 30):
        batching.refuse_too_large(tiny, batches, free)
    error = refusal(batching.refuse_too_large, tiny, batches, 1 << 26)
    assert "tiny on a row of 2,000 tokens takes about" in error.what and "the longest row is long" in str(error)


def test_parts_of_a_batch_are_its_rows_in_order() -> None:
    rows = [Encoded(str(n), tuple(range(n, 2 * n + 4)), 3) for n in range(5, 16)]
    tiny, batch = resolve("tiny"), make_batch(rows, 0)
    assert 1000 < batching.tokens_at_once(tiny, gpu=False) < batching.tokens_at_once(tiny, gpu=True)
    for tokens in (1, 20, 40, 90, 10_000):
        found = batching.parts(batch, tokens)
        assert [name for part in found for name in part.ids] == batch.ids
        assert sum(part.answer_tokens for part in found) == batch.answer_tokens
        assert all(len(part.ids) == 1 or part.tokens.size <= tokens for part in found)
        for part in found:
            alone = make_batch([rows[int(name) - 5] for name in part.ids], 0)
            assert part.tokens.tolist() == alone.tokens.tolist() and part.targets.tolist() == alone.targets.tolist()
            assert part.positions.tolist() == alone.positions.tolist()
