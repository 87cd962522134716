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
from tools.tiny.build import build
from tools.tiny.conversations import conversations
from tools.tiny.library_text import Entry, Library, read_library
from tools.tiny.rows import encode_conversation
from tools.tiny.turns import Bank, bank_from

TINY = Path(engram.__file__).parent / "bundled" / "tiny"


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


def test_library_text_is_large_ordered_and_without_tests(library: Library) -> None:
    assert sum(map(len, library.documents)) > 4_000_000
    assert len(library.entries) > 2_000 and len(library.lines) > 20_000 and len(library.words) > 500
    assert not any(entry.name.startswith(("test.", "_")) for entry in library.entries if "." in entry.name)
    assert not set(library.held_out) & set(library.documents)


def test_conversations_are_the_same_for_the_same_seed() -> None:
    first, again = (list(conversations(small_bank(), 3, 200)) for _ in range(2))
    assert first == again
    assert first != list(conversations(small_bank(), 4, 200))


def test_no_answer_is_a_bare_short_answer(talks: list[list[dict[str, str]]]) -> None:
    for answer in answers(talks):
        assert len(answer.split()) >= 4, answer
        assert re.search(r"[a-z]{2,} [a-z\"`'(\[]*\w", answer), answer
        assert answer[0].isupper() or answer[0].isdigit() or len(answer.split()) >= 5, answer


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


def test_without_torch_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngramError, match="make base-model"):
        build(tmp_path / "tiny")
    assert not list(tmp_path.iterdir())


def test_bundled_model_is_an_ordinary_llama_in_few_small_files() -> None:
    files = [path for path in TINY.rglob("*") if path.is_file()]
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= {path.name for path in files}
    kinds = {path.suffix for path in files if path.name != "SHA256SUMS"}
    assert kinds <= {".safetensors", ".json", ".txt", ".md", ".jinja", ".jsonl"}
    assert sum(path.stat().st_size for path in files) <= 16_000_000
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


def test_tokenizer_gives_back_the_library_splits_digits_and_adds_nothing(tokenizer: Any, library: Library) -> None:
    assert len(tokenizer) == 4096 and tokenizer.model_max_length == 1024
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("1234")) == ["1", "2", "3", "4"]
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == ("<|endoftext|>", "<|im_end|>", None)
    for text in (*library.held_out, *library.documents[:20]):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_chat_template_is_chatml_without_a_default_system_message(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " a\n"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n a\n<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(messages[1:], tokenize=False) == "<|im_start|>user\n a\n<|im_end|>\n"
    ids = tokenizer.apply_chat_template(messages[1:], tokenize=True, return_dict=False)
    assert ids.count(tokenizer.eos_token_id) == 1
