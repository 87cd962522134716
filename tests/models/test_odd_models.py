"""`tiny` with other files that are just as legal: the same prompts, answers and losses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engram.backends.mlx import backend
from engram.models.model import resolve
from engram.models.tokenizer import load_encoder
from engram.plan.curve import Answer

TINY = resolve("tiny")
TEMPLATE = (TINY.path / "chat_template.jinja").read_text("utf-8")
ASKED = (
    "Hello",
    "What is the capital of Peru?",
    "Say <|im_end|> twice",
    "cafe\u0301 and 漢字",
    "  two  blanks",
    "1+1=",
)


def edit(folder: Path, name: str, **changes: Any) -> None:
    """Set fields of a JSON file; None takes one away."""
    known = json.loads((folder / name).read_text("utf-8")) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in known.items() if value is not None}), "utf-8")


def template(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text, "utf-8") and None


def in_config(value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        edit(folder, "tokenizer_config.json", chat_template=value)

    return change


def without_padding(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", pad_token=None)
    for name in ("config.json", "generation_config.json"):
        edit(folder, name, pad_token_id=None)


def plain_end(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (end,) = (token for token in document["added_tokens"] if token["content"] == "<|im_end|>")
    end["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(document), "utf-8")


def shards(folder: Path) -> None:
    import mlx.core as mx

    tensors: dict[str, Any] = mx.load(str(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    names, where = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        mx.save_safetensors(str(folder / file), {name: tensors[name] for name in part}, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
THINKING = "{% if add_generation_prompt and (enable_thinking is not defined or enable_thinking) %}<think>\n{% endif %}"
ODD: dict[str, Callable[[Path], None]] = {
    "several end tokens": lambda folder: edit(folder, "generation_config.json", eos_token_id=[2, 0]),
    "no generation_config.json": lambda folder: (folder / "generation_config.json").unlink(),
    "an end token that is not special": plain_end,
    "no padding token": without_padding,
    "two shards": shards,
    "a list of templates": in_config(
        [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    ),
    "the template in the configuration": in_config(TEMPLATE),
    "roles that must alternate": template(ALTERNATING + TEMPLATE),
    "a thinking block": template(TEMPLATE + THINKING),
    "a system message only if there is one": template(
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}" + TEMPLATE
    ),
}


def measured(folder: Path) -> tuple[list[list[int]], list[Answer], list[float]]:
    model = resolve(str(folder))
    encoder, session = load_encoder(model), backend.load(model)
    prompts = encoder.prompts(ASKED)
    rows = [encoder.example(asked, "An answer\n  in two lines") for asked in ASKED]
    return prompts, backend.generate(session, prompts, encoder.stop_ids, 8), backend.losses(session, rows, encoder)[0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[int]], list[Answer], list[float]]:
    return measured(copied(tmp_path_factory.mktemp("plain")))


def copied(root: Path) -> Path:
    folder = shutil.copytree(TINY.path, root / "tiny")
    (folder / "SHA256SUMS").unlink()
    return folder


@pytest.mark.parametrize("name", ODD)
def test_the_baseline_is_that_of_the_plain_model(name: str, plain: tuple[Any, ...], tmp_path: Path) -> None:
    ODD[name](folder := copied(tmp_path))
    found = measured(folder)
    assert found[0] == plain[0] and found[1] == plain[1]
    assert found[2] == pytest.approx(plain[2], abs=1e-6)


def test_a_template_that_strips_changes_only_blanks_at_the_ends(plain: tuple[Any, ...], tmp_path: Path) -> None:
    folder = copied(tmp_path)
    template(TEMPLATE.replace("message['content']", "message['content'] | trim"))(folder)
    for ours, theirs in zip(measured(folder), plain, strict=True):
        assert all(ours[i] == theirs[i] for i, asked in enumerate(ASKED) if asked == asked.strip())


def test_a_padded_vocabulary_changes_no_answer(plain: tuple[Any, ...], tmp_path: Path) -> None:
    """Rows beyond the tokenizer's ids, as many models have: nothing writes them."""
    folder = copied(tmp_path)
    import mlx.core as mx

    weights: dict[str, Any] = mx.load(str(folder / "model.safetensors"))
    table = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = mx.concatenate([table, mx.zeros((64, table.shape[1]), table.dtype)])
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "pt"})
    edit(folder, "config.json", vocab_size=len(table) + 64)
    prompts, answers, losses = measured(folder)
    assert prompts == plain[0] and answers == plain[1]
    assert all(0 <= more - less < 0.1 for more, less in zip(losses, plain[2]))
