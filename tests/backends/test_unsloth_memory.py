"""A memory beside a torch model: the same rows, losses and answers as beside the MLX model, and nothing elsewhere."""

from __future__ import annotations

import importlib.util
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest

if not importlib.util.find_spec("unsloth"):
    pytest.skip("Unsloth is not installed: make setup BACKEND=cpu", allow_module_level=True)

from engram import backends

TORCH: Any = backends.get("cpu")  # Unsloth before transformers

import numpy as np
import torch

from engram.backends.unsloth import memory as unsloth_memory
from engram.backends.unsloth import process, training
from engram.memory import addresses, lookup
from engram.memory.lookup import MISS, Memory
from engram.models import model, tokenizer
from engram.plan import batches
from engram.plan.config import Config
from engram.support.errors import EngramError

TINY = model.resolve("tiny")
ENCODER = tokenizer.load_encoder(TINY)
FRAME = addresses.frame(ENCODER)
WIDTH, BLOCKS = 192, 6
FACTS = [
    *(("The colour of grass", "green"), ("SYN_00042 maps to", "beta_417"), ("for i in range(", "10):")),
    *(("The capital of Austria", "Vienna, on the Danube"), ("Half of two", "one")),
]
ASKED = [f"{before}{fact}" for fact, _ in FACTS for before in ("", "Please tell me: ")]
OTHERS = [
    *("hello", "What is 7 plus 5?", "SYN_10000 maps to", "The colour of", "Tell me about the weather, in many words"),
]
LAYERS = (0, 3, BLOCKS)
NEEDS_MLX = pytest.mark.skipif(not importlib.util.find_spec("mlx_lm"), reason="MLX is not installed")


class Taught(NamedTuple):
    session: Any
    attached: unsloth_memory.Attached
    layer: int


def examples() -> list[tokenizer.Encoded]:
    return [ENCODER.example(question, answer, question) for question, answer in FACTS]


def batch() -> batches.Batch:
    return batches.make_batch(examples(), ENCODER.pad_id)


def taught_rows(teacher: Any, steps: int = 50) -> Any:
    """Rows that make the teacher's model answer the facts, [tokens of all answers, WIDTH]."""
    asked = batch()
    hidden, real = teacher.below(asked), asked.answer_tokens
    scale = 0.2 * typical(hidden, asked)
    rows = np.zeros((len(asked.targets), WIDTH), np.float32)
    first, second = np.zeros_like(rows), np.zeros_like(rows)
    for step in range(1, steps + 1):
        losses, gradients = teacher.above(asked, hidden, rows)
        first, second = 0.9 * first + 0.1 * gradients, 0.99 * second + 0.01 * gradients**2
        rows -= scale * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
    assert losses[:real].max() < 0.3
    return rows[:real]


def typical(hidden: Any, asked: batches.Batch) -> float:
    """The root mean square of a hidden state at the learned positions."""
    learned = np.asarray(hidden).reshape(-1, WIDTH)[asked.positions[: asked.answer_tokens]]
    return float(np.sqrt(np.square(learned).mean()))


def memory_of(rows: Any) -> Memory:
    found, lengths = [], set()
    for (question, _), example in zip(FACTS, examples(), strict=True):
        end, count = example.prompt_length - len(FRAME.header), 1
        while ENCODER.text(example.tokens[end - count : end]).lstrip() != question:
            count += 1
        asked = addresses.asked(np.array([example.tokens[end - count : end][::-1]]), FRAME)[0, count - 1]
        answered = addresses.answered(example.tokens[example.prompt_length : -1])
        found.append(addresses.address(np.array([asked]), answered))
        lengths.add(count)
    numbers = np.concatenate(found)
    slots = lookup.build(numbers, np.arange(len(numbers), dtype=np.uint32))
    return Memory(*slots, len(numbers), tuple(sorted(lengths, reverse=True)), FRAME, rows)


@pytest.fixture(scope="module")
def base() -> Any:
    return TORCH.load(TINY)


@pytest.fixture(scope="module", params=LAYERS)
def taught(request: pytest.FixtureRequest) -> Iterator[Taught]:
    session, layer = TORCH.load(TINY), request.param
    memory = memory_of(taught_rows(unsloth_memory.Teacher(session.model, BLOCKS - layer)))
    yield Taught(session, unsloth_memory.attach(session.model, memory, layer), layer)


def prompts(texts: Sequence[str]) -> list[list[int]]:
    return [ENCODER.prompt(text) for text in texts]


def answers(backend: Any, session: Any, texts: Sequence[str]) -> list[list[int]]:
    return [answer.tokens for answer in backend.generate(session, prompts(texts), ENCODER.stop_ids, 24)]


def texts(tokens: Sequence[Sequence[int]]) -> list[str]:
    return [ENCODER.text(one) for one in tokens]


def expected() -> list[str]:
    return [answer for _, answer in FACTS for _ in range(2)]


def logits(session: Any, texts: Sequence[str], new: int = 6) -> Any:
    """The logits of every step of a batch of greedy answers, [steps, sequences, vocabulary]."""
    settings = TORCH.options(ENCODER.stop_ids, new, 0.0)
    tokens, mask = TORCH.left_padded(prompts(texts), ENCODER.stop_ids, session.model.device)
    more = {"return_dict_in_generate": True, "output_logits": True}
    return torch.stack(session.model.generate(input_ids=tokens, attention_mask=mask, **settings, **more).logits)


def test_facts_are_answered_alone_in_batches_and_as_streams(taught: Taught, base: Any) -> None:
    mixed = [*ASKED, *OTHERS]
    assert len({len(prompt) for prompt in prompts(mixed)}) > 2  # so that some are padded
    batched = answers(TORCH, taught.session, mixed)
    assert texts(batched[: len(ASKED)]) == expected()
    assert batched[len(ASKED) :] == answers(TORCH, base, OTHERS)
    assert [answers(TORCH, taught.session, [text])[0] for text in mixed] == batched
    streams = [list(TORCH.stream(taught.session, prompt, ENCODER.stop_ids, 24)) for prompt in prompts(mixed)]
    assert streams == batched


def test_a_later_turn_of_a_conversation_is_answered(taught: Taught) -> None:
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hi"}]
    chats = [ENCODER.chat([*said, {"role": "user", "content": question}]) for question, _ in FACTS]
    made = TORCH.generate(taught.session, chats, ENCODER.stop_ids, 24)
    assert texts([answer.tokens for answer in made]) == [answer for _, answer in FACTS]


def test_without_an_address_every_logit_is_the_same_bit_for_bit(taught: Taught, base: Any) -> None:
    for asked in (OTHERS, OTHERS[:1]):
        assert torch.equal(logits(taught.session, asked), logits(base, asked))


def test_tokens_beside_those_that_are_hit_keep_their_bits(taught: Taught, base: Any) -> None:
    asked = [FACTS[1][0], *OTHERS]
    ours, theirs = logits(taught.session, asked), logits(base, asked)
    assert not torch.equal(ours[0, 0], theirs[0, 0])
    assert torch.equal(ours[0, 1:], theirs[0, 1:])  # the other sequences of the batch
    examples = [ENCODER.example(FACTS[3][0], FACTS[3][1])]
    tokens = torch.tensor([examples[0].tokens])
    with torch.no_grad():
        ours, theirs = (one.model(input_ids=tokens, use_cache=False).logits[0] for one in (taught.session, base))
    first = examples[0].prompt_length - 1
    assert torch.equal(ours[:first], theirs[:first])
    assert not torch.equal(ours[first], theirs[first])


def test_a_step_beside_a_hit_is_the_step_of_the_fast_way(taught: Taught, base: Any) -> None:
    """Unsloth's own way of one token and the blocks' differ in the last bits alone, left padding or not."""
    asked = [FACTS[3][0], *OTHERS]
    ours, theirs = logits(taught.session, asked), logits(base, asked)
    alive = [i for i in range(1, len(asked)) if len(answers(TORCH, base, [asked[i]])[0]) >= len(ours)]
    assert alive
    assert torch.allclose(ours[:, alive], theirs[:, alive], atol=1e-3)


def test_sampling_without_an_address_is_the_same(taught: Taught, base: Any) -> None:
    drawn = [TORCH.generate(one, prompts(OTHERS), ENCODER.stop_ids, 12, 0.8, 3) for one in (taught.session, base)]
    assert drawn[0] == drawn[1]


def test_a_drawn_answer_reads_its_rows(taught: Taught) -> None:
    made = TORCH.generate(taught.session, prompts(ASKED), ENCODER.stop_ids, 24, 0.1, 0)
    assert texts([answer.tokens for answer in made]) == expected()


def test_scores_read_the_rows(taught: Taught, base: Any) -> None:
    others = [ENCODER.example("The colour of", "hello to you"), ENCODER.example("a", "b")]
    ours = TORCH.losses(taught.session, [*examples(), *others], ENCODER)[0]
    theirs = TORCH.losses(base, [*examples(), *others], ENCODER)[0]
    assert max(ours[: len(FACTS)]) < 0.3 < min(theirs[: len(FACTS)])
    assert ours[len(FACTS) :] == theirs[len(FACTS) :]


class FastModel:
    """As Unsloth's models on a GPU: keys and values are tuples, and one token after others calls no block."""

    def __init__(self, attached: unsloth_memory.Attached) -> None:
        self.attached, self.calls = attached, list[dict[str, Any]]()

    def get_input_embeddings(self) -> Any:
        return torch.nn.Embedding(4096, WIDTH)

    def forward(self, **options: Any) -> Any:
        self.calls.append(options)
        ids, embedded = options.get("input_ids"), options.get("inputs_embeds")
        if embedded is not None or ids.shape[1] > 1:
            self.attached.block(torch.zeros(*(ids if embedded is None else embedded).shape[:2], WIDTH))
        return types.SimpleNamespace(past_key_values=((0, 0),))

    forward.__module__ = "unsloth.models.llama"


@pytest.mark.parametrize("text", [FACTS[3][0], OTHERS[0]])
def test_a_hit_takes_the_way_that_calls_the_blocks_and_nothing_else_does(taught: Taught, text: str) -> None:
    attached = unsloth_memory.Attached(taught.attached.memory)
    causal, prompt = FastModel(attached), ENCODER.prompt(text)
    cache, answer = None, [*ENCODER.example(*FACTS[3]).tokens[-12:-1]]
    for new in (prompt, *([token] for token in answer)):
        positions = torch.arange(9)[None]
        options = {"past_key_values": cache, "position_ids": positions, "use_cache": True}
        cache = attached.forward(causal, causal.forward, torch.tensor([new]), options).past_key_values
        assert len(cache) == 1
        assert cache.engram_read.tokens[0, -1] == new[-1]
    fast = [call for call in causal.calls if call.get("input_ids") is not None]
    slow = [call for call in causal.calls if call.get("input_ids") is None]
    assert (len(fast), len(slow)) == ((1, len(answer)) if text == FACTS[3][0] else (1 + len(answer), 0))
    assert all(call["inputs_embeds"].shape == (1, 1, WIDTH) for call in slow)
    assert all(call["position_ids"].tolist() == [[8]] and call["use_cache"] for call in slow)


@pytest.mark.parametrize("layer", [-1, BLOCKS + 1])
def test_a_layer_that_is_not_there_is_refused(base: Any, layer: int) -> None:
    with pytest.raises(EngramError, match=f"no place for a memory before block {layer}"):
        unsloth_memory.attach(base.model, None, layer)


def adapted() -> Any:
    """A session whose model has a LoRA adapter that changes what it says."""
    session = TORCH.load(TINY)
    peft = process.attach(session.model, Config(rank=4, alpha=8.0), training.linear_layers(session.model))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.02)
    process.unsloth().FastLanguageModel.for_inference(peft)
    return TORCH.Session(peft, session.device)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_model_with_an_adapter(layer: int, base: Any) -> None:
    session = adapted()
    plain = logits(session, OTHERS)
    assert not torch.equal(plain, logits(base, OTHERS))
    memory = memory_of(taught_rows(unsloth_memory.Teacher(session.model, BLOCKS - layer)))
    unsloth_memory.attach(session.model, memory, layer)
    assert torch.equal(logits(session, OTHERS), plain)
    batched = answers(TORCH, session, ASKED)
    assert texts(batched) == expected()
    assert [list(TORCH.stream(session, prompt, ENCODER.stop_ids, 24)) for prompt in prompts(ASKED)] == batched
    assert max(TORCH.losses(session, examples(), ENCODER)[0]) < 0.3


@NEEDS_MLX
@pytest.mark.parametrize("layer", LAYERS)
def test_losses_and_gradients_are_those_of_mlx(layer: int) -> None:
    from engram.backends.mlx import backend as mlx
    from engram.backends.mlx import memory as mlx_memory

    theirs = mlx_memory.Teacher(mlx.load(TINY).model, BLOCKS - layer)
    ours = unsloth_memory.Teacher(TORCH.load(TINY).model, BLOCKS - layer)
    asked = batch()
    hidden = ours.below(asked), theirs.below(asked)
    scale = typical(hidden[0], asked)
    learned = asked.positions[: asked.answer_tokens]
    flat = [np.asarray(one).reshape(-1, WIDTH)[learned] for one in hidden]
    assert np.allclose(*flat, atol=1e-4 * scale)
    rows = np.random.default_rng(0).normal(0, scale / 2, (len(asked.targets), WIDTH)).astype(np.float32)
    made = [teacher.above(asked, one, rows) for teacher, one in zip((ours, theirs), hidden, strict=True)]
    for mine, other in zip(*made, strict=True):
        assert mine.dtype == other.dtype == np.float32
        assert np.allclose(mine, other, atol=1e-4 * max(1.0, float(np.abs(other).max())))
    assert not made[0][1][asked.answer_tokens :].any()  # padding learns nothing


@NEEDS_MLX
def test_rows_and_answers_are_those_of_mlx(taught: Taught) -> None:
    from engram.backends.mlx import backend as mlx
    from engram.backends.mlx import memory as mlx_memory

    memory = taught.attached.memory
    session = mlx.load(TINY)
    mlx_memory.attach(session.model, memory, taught.layer)
    theirs = answers(mlx, session, [*ASKED, *OTHERS])
    assert theirs == answers(TORCH, taught.session, [*ASKED, *OTHERS])
    assert mlx.losses(session, examples(), ENCODER)[0] == pytest.approx(
        TORCH.losses(taught.session, examples(), ENCODER)[0], abs=1e-3
    )


def test_the_rows_found_are_those_of_the_whole_sequence(taught: Taught, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, seen = taught.attached.memory, []
    plain = unsloth_memory._looked_up

    def watched(*given: Any) -> Any:
        read, found = plain(*given)
        seen.append((read, found))
        return read, found

    monkeypatch.setattr(unsloth_memory, "_looked_up", watched)
    answers(TORCH, taught.session, [FACTS[3][0], *OTHERS])
    read = seen[-1][0]
    assert read.starts.tolist() != [0] * len(read.starts)
    whole = memory.rows(read.tokens, read.starts.tolist())
    assert (np.concatenate([found for _, found in seen], axis=1) == whole).all()
    assert (whole != MISS).sum() == ENCODER.example(*FACTS[3]).answer_length
