"""The bundled model's recipe and the bundled folder; none of it needs torch."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import engram
from engram.support.errors import EngramError
from tools.tiny import card
from tools.tiny.build import build, write_held_out, write_replay
from tools.tiny.conversations import MAKERS, OFF_LIMITS, conversations
from tools.tiny.library_text import Entry, Library, first_sentence, module_name, read_library
from tools.tiny.pretrain import Schedule
from tools.tiny.rows import encode_conversation, pack_chat, pack_text
from tools.tiny.turns import Bank, article, bank_from, sentence_list

TINY = Path(engram.__file__).parent / "bundled" / "tiny"
AWKWARD = (
    "",
    " ",
    "  two leading spaces, two trailing  ",
    "line\n\n\nlines\n",
    "tab\tand\r\ncarriage return",
    "def f(x, *, y=1_000):\n    return [x ** 2 for _ in range(10)]\n\n\tif x:  # note\n",
    "1234567890 3.14159 0x1F 1e-05",
    "don't 'quote' \"it\" `here` , . ! ?",
    "naïve café — 日本語 🙂 \u200b\ufeff",
    "\x00\x01 control",
    "<|im_start|>user\nhi<|im_end|>\n",
)


@pytest.fixture(scope="module")
def library() -> Library:
    return read_library()


@pytest.fixture(scope="module")
def talks(library: Library) -> list[list[dict[str, str]]]:
    return list(conversations(bank_from(library), 7, 4000))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(TINY)


def small_bank() -> Bank:
    entries = (Entry("box.open", "function", "path, mode", "Open the box."),)
    return Bank(("apple", "stone", "river", "count", "green", "table", "paper"), ("total = sum(values)",), entries)


def answers(talks: list[list[dict[str, str]]]) -> Iterator[str]:
    return (message["content"] for talk in talks for message in talk if message["role"] == "assistant")


# -- the library's text


def test_library_text_is_large_ordered_and_without_tests(library: Library) -> None:
    assert sum(map(len, library.documents)) > 4_000_000
    assert len(library.entries) > 2_000 and len(library.lines) > 20_000 and len(library.words) > 500
    assert not any(entry.name.startswith(("test.", "_")) for entry in library.entries if "." in entry.name)
    assert not set(library.held_out) & set(library.documents)


def test_library_reads_any_folder_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "b.py").write_text("never = 'read'\n", encoding="utf-8")
    (tmp_path / "b.py").write_text('"""The second module of two."""\n', encoding="utf-8")
    (tmp_path / "a.py").write_text(
        'def go(x):\n    """Walk as far as it goes. Then stop."""\n    return walk(x, far)\n', encoding="utf-8"
    )
    library = read_library(tmp_path)
    assert library == read_library(tmp_path)
    assert [entry.name for entry in library.entries] == ["a.go", "b"]
    assert library.entries[0] == Entry("a.go", "function", "x", "Walk as far as it goes.")
    assert library.lines == ("return walk(x, far)",)
    assert not any("never" in text for text in library.documents)


def test_module_names_and_first_sentences() -> None:
    assert module_name(Path("json/__init__.py")) == "json"
    assert module_name(Path("json/decoder.py")) == "json.decoder"
    assert first_sentence("Copy data\n    and mode. Return it.\n\nMore.") == "Copy data and mode."
    assert first_sentence("find(sub) -> int") == ""


# -- the conversations


def test_conversations_are_the_same_for_the_same_seed() -> None:
    first, again = (list(conversations(small_bank(), 3, 200)) for _ in range(2))
    assert first == again
    assert first != list(conversations(small_bank(), 4, 200))


@pytest.mark.parametrize("maker", [maker for maker, _ in MAKERS], ids=lambda maker: maker.__name__)
def test_every_kind_of_turn_asks_something_and_answers_in_a_sentence(maker: Any, library: Library) -> None:
    import random

    rng = random.Random(0)
    bank = bank_from(library)
    for turn in (maker(rng, bank) for _ in range(200)):
        assert turn.question.strip()
        assert len(turn.answer.split()) >= 4, turn
        assert "{" not in turn.answer or "{" in turn.question, turn


def test_no_answer_is_a_bare_short_answer(talks: list[list[dict[str, str]]]) -> None:
    for answer in answers(talks):
        assert len(answer.split()) >= 4, answer
        assert re.search(r"[a-z]{2,} [a-z\"`'(\[]*\w", answer), answer
        assert answer[0].isupper() or answer[0].isdigit() or len(answer.split()) >= 5, answer


def test_turns_have_the_roles_of_a_chat(talks: list[list[dict[str, str]]]) -> None:
    shapes = {tuple(message["role"] for message in talk) for talk in talks}
    assert ("user", "assistant") in shapes
    assert ("system", "user", "assistant") in shapes
    assert ("user", "assistant", "user", "assistant") in shapes
    for shape in shapes:
        turns = shape[1:] if shape[0] == "system" else shape
        assert turns == ("user", "assistant") * (len(turns) // 2)


@pytest.mark.parametrize(
    "family",
    [
        r"(?i)\bHTTP\b|status code|\b(404|500|301)\b.*(not found|internal server|moved)",
        r"(?i)\bports?\b",
        r"(?i)stands for|acronym|abbreviation",
        r"(?i)capital (city )?of",
        r"\b(19|20)\d\d-\d\d-\d\d\b|\b\d{1,2} (January|February|March|April|June|July|August)\b",
        r"(?i)snake.?case|camel.?case|kebab.?case|pascal.?case",
        r"(?i)\b\d+ ?(bytes|kb|mb|gb|kib|mib)\b",
        r"Traceback \(|\w+Error: \w|pip install",
        r"\bfor \w+ in\b|\bwhile\b",
    ],
)
def test_engrams_own_pattern_families_do_not_occur(family: str, talks: list[list[dict[str, str]]]) -> None:
    found = [m["content"] for talk in talks for m in talk if re.search(family, m["content"])]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "HTTP 404", "the default port for SSH", "What does DNS stand for? It stands for", "the capital of France",
        "2024-03-15", "snake_case", "camelCase", "1536 KB", "NameError: name 'x' is not defined", "for i in range(10)",
    ],
)  # fmt: skip
def test_off_limits_catches_a_tell_tale_of_every_family(text: str) -> None:
    assert OFF_LIMITS.search(text)


def test_wording_helpers() -> None:
    assert sentence_list(["a"]) == "a"
    assert sentence_list(["a", "b", "c"]) == "a, b and c"
    assert (article("owl"), article("cat")) == ("an owl", "a cat")


# -- rows and schedule


def test_learning_rate_warms_up_and_falls() -> None:
    schedule = Schedule(steps=100, warmup=10)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.05


def test_a_conversation_is_encoded_as_the_chat_template_writes_it(tokenizer: Any) -> None:
    for talk in islice(conversations(small_bank(), 1), 50):
        ids, weights = encode_conversation(talk, tokenizer)
        assert tokenizer.decode(ids[:-1]) == tokenizer.apply_chat_template(talk, tokenize=False)
        assert ids[-1] == tokenizer.pad_token_id
        assert len(ids) == len(weights)
        spoken = tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight == 1.0])
        assert spoken == "".join(
            f"{message['content']}<|im_end|>" for message in talk if message["role"] == "assistant"
        )


def test_rows_are_packed_whole(tokenizer: Any) -> None:
    chat = pack_chat(conversations(small_bank(), 1, 100), tokenizer, 64)
    assert chat.tokens.shape == chat.weights.shape and chat.tokens.shape[1] == 65
    assert (chat.tokens[:, 0] == tokenizer.convert_tokens_to_ids("<|im_start|>")).all()
    text = pack_text(["one two three " * 40, "four"], tokenizer, 16)
    assert text.tokens.shape[1] == 17 and (text.weights == 1).all()


def test_held_out_rows(tmp_path: Path) -> None:
    talks = list(conversations(small_bank(), 2, 50))
    write_held_out(tmp_path / "heldout.jsonl", talks, ["short", "x" * 2000, "y" * 90_000])
    rows = [json.loads(line) for line in (tmp_path / "heldout.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["kind"] for row in rows] == ["chat"] * 40 + ["text"] * 40


def test_replay_rows_are_short_and_from_the_training(tokenizer: Any, tmp_path: Path) -> None:
    talks = list(conversations(small_bank(), 2, 400))
    documents = [f"document {i} " + "word " * 200 for i in range(100)]
    write_replay(tmp_path / "replay.jsonl", talks, documents, tokenizer)
    rows = [json.loads(line) for line in (tmp_path / "replay.jsonl").read_text(encoding="utf-8").splitlines()]
    chats, texts = ([row for row in rows if row["kind"] == kind] for kind in ("chat", "text"))
    assert 0 < len(chats) < 400 and all(row["messages"] in talks for row in chats)
    assert max(len(tokenizer.encode(row["messages"][-1]["content"])) for row in chats) < 16
    assert len(texts) == 40 and all(len(row["text"]) == 240 for row in texts)


def test_without_torch_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngramError, match="make base-model"):
        build(tmp_path / "tiny")
    assert not list(tmp_path.iterdir())


# -- the bundled folder


def test_bundled_files_are_few_and_small() -> None:
    files = [path for path in TINY.rglob("*") if path.is_file()]
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= {path.name for path in files}
    kinds = {path.suffix for path in files if path.name != "SHA256SUMS"}
    assert kinds <= {".safetensors", ".json", ".txt", ".md", ".jinja", ".jsonl"}
    assert sum(path.stat().st_size for path in files) <= 16_000_000


def test_bundled_model_is_an_ordinary_llama_of_3_to_8_million_parameters() -> None:
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"] and config["model_type"] == "llama"
    run = json.loads((TINY / "training.json").read_text(encoding="utf-8"))
    assert 3_000_000 <= run["parameters"] <= 8_000_000
    with (TINY / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
    assert sum(end - start for start, end in (t["data_offsets"] for t in header.values())) == 2 * run["parameters"]


def test_the_card_is_the_one_its_numbers_give() -> None:
    run = json.loads((TINY / "training.json").read_text(encoding="utf-8"))
    assert (TINY / "README.md").read_text(encoding="utf-8") == card.card_text(run)


def test_bundled_held_out_rows() -> None:
    path = TINY / "heldout.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["kind"] for row in rows] == ["chat"] * 40 + ["text"] * 40
    assert path.stat().st_size < 64_000
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows if row["kind"] == "chat")
    assert all(row["text"].strip() for row in rows if row["kind"] == "text")


@pytest.mark.parametrize("text", AWKWARD)
def test_tokenizer_gives_back_any_text(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_gives_back_the_library(tokenizer: Any, library: Library) -> None:
    for text in (*library.held_out, *library.documents[:20]):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_splits_digits_and_adds_nothing(tokenizer: Any) -> None:
    assert len(tokenizer) == 4096
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("1234")) == ["1", "2", "3", "4"]
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == ("<|endoftext|>", "<|im_end|>", None)
    assert tokenizer.model_max_length == 1024


def test_chat_template_is_chatml_without_a_default_system_message(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " a\n"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n a\n<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(messages[1:], tokenize=False) == "<|im_start|>user\n a\n<|im_end|>\n"
    ids = tokenizer.apply_chat_template(messages[1:], tokenize=True, return_dict=False)
    assert ids.count(tokenizer.eos_token_id) == 1
