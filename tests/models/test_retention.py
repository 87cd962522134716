"""The rows that stand for what a model could do before."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from packs import refusal
from small_run import Run

from engram.evaluation import scoring
from engram.models import retention
from engram.models.model import Model, resolve
from engram.models.tokenizer import load_encoder
from engram.patterns.loading import find_files, load_patterns
from engram.support.files import BUNDLED, sha256
from engram.support.text import near_duplicates, normalise


def test_tiny_brings_its_own_and_others_get_the_bundled_ones(tmp_path: Path) -> None:
    own = retention.general_set(resolve("tiny"))
    assert own.sha256 == sha256(BUNDLED / "tiny" / "heldout.jsonl") and own.name == "tiny/heldout.jsonl"
    other = retention.general_set(Model("other", tmp_path))
    assert other.name == "general.jsonl" and other.sha256 == sha256(BUNDLED / "general.jsonl")
    for known in (own, other):
        assert min(len(known.of_kind(kind)) for kind in ("text", "chat")) >= 20
        few = known.first(3)
        assert all(few.of_kind(kind) == known.of_kind(kind)[:3] for kind in ("text", "chat"))
        assert (few.name, len(few.rows)) == (f"{known.name}, 3 of each kind", 6) and known.first(0) is known
        assert len({row.id for row in known.rows}) == len(known.rows)


def test_no_bundled_pattern_asks_what_a_general_chat_asks(tmp_path: Path) -> None:
    asked = [row.prompt for name in ("tiny", "x") for row in retention.general_set(
        resolve("tiny") if name == "tiny" else Model("other", tmp_path)).of_kind("chat")]  # fmt: skip
    inputs = [pattern.input for pattern in load_patterns(find_files())]
    assert not {*map(normalise, asked)} & {*map(normalise, inputs)} and not [*near_duplicates(asked, inputs)]


def test_of_a_chat_the_last_answer_is_scored_and_of_a_text_all_but_its_first_token() -> None:
    model = resolve("tiny")
    encoder, known = load_encoder(model), retention.general_set(model)
    chat, text = known.of_kind("chat")[3], known.of_kind("text")[0]
    encoded = retention.encode_general(encoder, [chat, text])
    answer = encoder.text(encoded[0].tokens[encoded[0].prompt_length :])
    assert normalise(answer) == normalise(chat.messages[-1]["content"])
    whole = encoder.tokenizer.apply_chat_template(list(chat.messages), tokenize=False)
    start = encoder.tokenizer.decode(encoded[0].tokens[: encoded[0].prompt_length])
    assert whole.startswith(start) and "assistant" in start[-20:]
    assert encoder.text(encoded[1].tokens) == text.text and encoded[1].prompt_length == 1


def test_perplexity_is_that_of_all_tokens_together() -> None:
    rows = [{"tokens": 1, "nats": 3.0}, {"tokens": 9, "nats": 0.0}]
    assert scoring.perplexity(rows) == {"n": 2, "tokens": 10, "perplexity": pytest.approx(math.exp(0.3))}
    assert scoring.perplexity([]) == {"n": 0, "tokens": 0, "perplexity": None}


def test_a_run_measures_every_general_row_before_and_after(run: Run) -> None:
    for document in (run.baseline, run.tuned):
        assert len(document["general"]) == 80 and sum("answer" in row for row in document["general"]) == 40
    before, after = (document["retention"]["chat"]["perplexity"] for document in (run.baseline, run.tuned))
    assert before < 2 < after  # ten patterns taught without care for the rest: it must show
    assert run.comparison["retention"]["chat"]["verdict"] == "loss"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "heldout.jsonl:1 JSONError: 1:2 Expecting property name"),
        ('{"kind": "poem"}', "heldout.jsonl:1 KeyError: 'poem'"),
        ('{"kind": "text", "text": " "}', "heldout.jsonl:1 ValueError: text is empty"),
        ('{"kind": "chat", "messages": [{"role": "user", "content": "x"}]}', "heldout.jsonl:1 ValueError: the last"),
        ('{"kind": "text", "text": "x"}', "no row of the kind 'chat'"),
    ],
)
def test_a_broken_set_names_its_lines(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "heldout.jsonl").write_text(line + "\n")
    assert refusal(retention.general_set, Model("m", tmp_path)).problems[0].startswith(said)


def test_nothing_that_retention_is_measured_on_is_ever_trained_on() -> None:
    model = resolve("tiny")
    measured = {normalise(m["content"]) for row in retention.general_set(model).rows for m in row.messages}
    asked = {normalise(m["content"]) for row in retention.replay_rows(model) for m in row.messages[-2:]}
    assert not measured & asked and len(retention.replay_rows(model)) >= 60


def test_no_bundled_pattern_is_among_the_models_own_rows(tmp_path: Path) -> None:
    inputs = {normalise(pattern.input) for pattern in load_patterns(find_files())}
    assert not inputs & {normalise(row.prompt) for row in retention.replay_rows(resolve("tiny"))}
    assert retention.replay_rows(Model("other", tmp_path)) == ()
