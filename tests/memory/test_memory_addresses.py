"""Addresses: what reaches a row and what does not, in every way that tokens come to a model."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest
from packs import refusal

from engram.dataset import phrasing
from engram.memory import addresses, facts, lookup
from engram.memory.addresses import Frame
from engram.memory.facts import Fact, Placed
from engram.memory.lookup import MISS, Memory
from engram.models.model import resolve
from engram.models.tokenizer import Encoder, load_encoder
from tools.methods import probes

FACTS = [
    Fact("for i in range(", "len(items)):"),
    Fact("range(", "n)"),
    Fact("7 plus 5", "12"),
    Fact("The colour of grass", "green"),
    Fact("größe über", "Maß"),
    Fact("first line\nsecond line", "third line"),
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(resolve("tiny"))


@pytest.fixture(scope="module")
def frame(encoder: Encoder) -> Frame:
    return addresses.frame(encoder)


@pytest.fixture(scope="module")
def placed(encoder: Encoder, frame: Frame) -> list[Placed]:
    return facts.place(encoder, frame, FACTS)


@pytest.fixture(scope="module")
def memory(placed: list[Placed], frame: Frame) -> Memory:
    return table_of(placed, frame)


def table_of(placed: list[Placed], frame: Frame) -> Memory:
    """A table whose row 100 * i + j answers token j of fact i."""
    found, numbers = [], []
    for i, one in enumerate(placed):
        found.append(one.addresses.reshape(-1))
        numbers.append(np.tile(100 * i + np.arange(len(one.tokens)), len(one.asked)))
    slots, rows = lookup.build(np.concatenate(found), np.concatenate(numbers).astype(np.uint32))
    orders = {count for one in placed for count, _ in one.asked}
    lengths = tuple(sorted(orders, reverse=True))
    return Memory(slots, rows, sum(map(len, found)), lengths, frame, np.zeros((100 * len(placed), 4), np.float32))


def first_rows(memory: Memory, encoder: Encoder, prompt: str) -> int:
    """The row at the first token of the answer to a prompt."""
    return int(memory.rows(np.array([encoder.prompt(prompt)]))[0, -1])


def test_the_header_is_what_the_template_puts_before_an_answer(encoder: Encoder, frame: Frame) -> None:
    assert encoder.tokenizer.decode(list(frame.header)) == "<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("number", range(len(FACTS)))
@pytest.mark.parametrize("words", [words for words in phrasing.ALL.values() if words.endswith("{input}")])
def test_words_before_an_input_change_nothing(memory: Memory, encoder: Encoder, number: int, words: str) -> None:
    prompt = words.replace("{input}", FACTS[number].input)
    assert first_rows(memory, encoder, prompt) == 100 * number


@pytest.mark.parametrize(
    "prompt",
    [
        *("for i in range", "for i in xrange(", "for i in range( ", "17 plus 5"),
        *("7 plus 55", "-7 plus 5", "7  plus 5", "The colour of grass?", "the colour of grass", "The colour of gras"),
        *("The colour of grass, please", "Hello", "", "colour of grass", "grosse über", "second line", "range(("),
    ],
)
def test_any_other_text_is_a_miss(memory: Memory, encoder: Encoder, prompt: str) -> None:
    assert (memory.rows(np.array([encoder.prompt(prompt)])) == MISS).all()


def test_one_letter_off_anywhere_is_a_miss(memory: Memory, encoder: Encoder) -> None:
    inputs = [fact.input for fact in FACTS]
    for seed in range(40):
        for text in probes.near_misses(inputs, seed):
            for words in ("{input}", "Continue: {input}"):
                assert first_rows(memory, encoder, words.replace("{input}", text)) == MISS, text


def test_the_longest_address_answers(memory: Memory, encoder: Encoder) -> None:
    assert first_rows(memory, encoder, "What is for i in range(") == 0
    for text in ("What is range(", "xfor i in range(", "For i in range(", "for  i in range("):
        assert first_rows(memory, encoder, text) == 100


def test_an_answer_is_followed_token_by_token_and_left_where_it_differs(
    memory: Memory, placed: list[Placed], encoder: Encoder
) -> None:
    prompt, tokens = encoder.prompt("Continue: The colour of grass"), list(placed[3].tokens)
    rows = memory.rows(np.array([[*prompt, *tokens]]))[0, len(prompt) - 1 :]
    assert rows.tolist() == [*range(300, 300 + len(tokens)), MISS]  # behind the end token nothing is answered
    other = memory.rows(np.array([[*prompt, 999, *tokens]]))[0, len(prompt) - 1 :]
    assert other.tolist() == [300, *[MISS] * (len(tokens) + 1)]


def test_each_turn_of_a_conversation_has_its_own_answer(memory: Memory, encoder: Encoder) -> None:
    turns = [("user", "7 plus 5"), ("assistant", "12"), ("user", "So: for i in range(")]
    tokens = encoder.chat([{"role": role, "content": content} for role, content in turns])
    rows = memory.rows(np.array([tokens]))[0]
    assert rows[-1] == 0 and 200 in rows.tolist()
    assert first_rows(memory, encoder, "for i in range(") == 0


def test_padding_and_steps_change_nothing(memory: Memory, encoder: Encoder) -> None:
    """Left padding, a batch, and one token after the other find what whole sequences find."""
    draw = random.Random(0)
    texts = [f"Continue: {fact.input}" for fact in FACTS] + ["Hello", "7 plus 6", "range( and more"]
    answers = [encoder.plain(fact.output) for fact in FACTS] + [encoder.plain("no")] * 3
    whole = [[*encoder.prompt(text), *answer] for text, answer in zip(texts, answers)]
    alone = [memory.rows(np.array([tokens]))[0] for tokens in whole]
    width = max(map(len, whole)) + 3
    starts = np.array([width - len(tokens) for tokens in whole])
    batch = np.array([[draw.randrange(1, 4000) for _ in range(gap)] + tokens for gap, tokens in zip(starts, whole)])
    together = memory.rows(batch, starts)
    for row, gap, expected in zip(together, starts, alone):
        assert row[gap:].tolist() == expected.tolist() and (row[:gap] == MISS).all()
    begun = width - 4
    last = memory.following(batch[:, :begun], starts, begun, None)[:, -1]
    for end in range(begun + 1, width + 1):
        last = memory.following(batch[:, :end], starts, 1, last)[:, 0]
        assert last.tolist() == together[:, end - 1].tolist()


def test_a_table_finds_what_it_was_built_of_and_nothing_else() -> None:
    draw = np.random.default_rng(0)
    for count in (0, 1, 2, 3, 100, 5000):
        known = np.unique(draw.integers(1, 2**62, count, dtype=np.uint64)) * np.uint64(3)
        slots, numbers = lookup.build(known, np.arange(len(known), dtype=np.uint32))
        assert lookup.find(slots, numbers, len(known), known).tolist() == list(range(len(known)))
        others = known + np.uint64(1)
        assert (lookup.find(slots, numbers, len(known), others) == MISS).all()


def test_addresses_that_share_a_home_are_kept_apart() -> None:
    """The slot is chosen by the highest bits: these all want the last one, and spill over."""
    known = np.uint64(2**64 - 1) - np.arange(50, dtype=np.uint64)
    slots, numbers = lookup.build(known, np.arange(50, dtype=np.uint32))
    assert lookup.find(slots, numbers, 50, known).tolist() == list(range(50))
    assert lookup.find(slots, numbers, 50, known - np.uint64(50)).tolist() == [MISS] * 50


@pytest.mark.parametrize(
    ("fact", "problem"),
    [
        (Fact("  ", "x"), "no word in the input"),
        (Fact("a", ""), "no text in the output"),
        (Fact("word " * 300 + "end", "x"), "tokens, at most 128"),
        (Fact("hello", "word " * 300), "tokens, at most 255"),
    ],
)
def test_what_cannot_be_kept_is_named(encoder: Encoder, frame: Frame, fact: Fact, problem: str) -> None:
    refused = refusal(facts.place, encoder, frame, [FACTS[0], fact, Fact("for i in range(", "n):")])
    assert "cannot be kept" in refused.what and len(refused.problems) == 2
    assert problem in refused.problems[0] and "contradicts it" in refused.problems[1]


@pytest.mark.parametrize(
    "fact", [Fact("hello <|im_end|>", "x"), Fact("hello", "x <|im_end|>"), Fact("cafe\u0301 é", "e\u0301")]
)
def test_control_tokens_and_decomposed_accents_are_kept_as_text(encoder: Encoder, frame: Frame, fact: Fact) -> None:
    (placed,) = facts.place(encoder, frame, [fact])
    assert placed.fact == fact and placed.asked
    assert encoder.text(placed.tokens[:-1]) == unicodedata.normalize("NFC", fact.output)


def test_a_fact_twice_is_taken_once(encoder: Encoder, frame: Frame) -> None:
    again = Fact(" 7 plus 5", "12")  # white space before an input does not count
    assert [one.fact for one in facts.place(encoder, frame, [*FACTS, FACTS[0], again])] == FACTS


def test_a_template_that_ends_no_message_is_refused(encoder: Encoder) -> None:
    class Bare:
        tokenizer = encoder.tokenizer

        def prompt(self, text: str) -> list[int]:
            return list(encoder.plain(text))

    assert "says where an answer begins" in refusal(addresses.frame, Bare()).what


def test_the_hash_is_the_same_everywhere(memory: Memory, placed: list[Placed]) -> None:
    """Tables travel between machines: these numbers must never change without another VERSION."""
    assert addresses.VERSION == "multilinear-64/1"
    tails = np.array([[5, 4, 3]])
    frame = Frame("", (9,), np.arange(10), np.zeros(10, bool), np.zeros(10, bool), np.zeros(10, bool))
    parts = addresses.asked(tails, frame)
    assert addresses.address(parts[0], addresses.answered([7])[1]).tolist() == GOLDEN
    assert memory.rows(np.zeros((1, 0), np.int32)).shape == (1, 0)


GOLDEN = [77632896437890307, 10054575928379525603, 13583003011978127688]
