"""Exports: the merge, the GGUF file and the Modelfile against the programs that read them, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from go_template import evaluate
from packs import refusal
from small_run import Run

from engram.cli import main
from engram.export import agreement, fuse, llamacpp, ollama, stage
from engram.export import card as model_card
from engram.export import gguf as gguf_file
from engram.models import conversion, model, safetensors_file
from engram.models.adapters import Lora
from engram.models.gguf import byte_level, split
from engram.models.safetensors_file import Tensor
from engram.models.tokenizer import load_encoder, render
from engram.support.errors import EngramError
from engram.support.files import BUNDLED, sha256

TINY = BUNDLED / "tiny"
LAYER = "model.layers.0.self_attn.q_proj"
needs_llamacpp = pytest.mark.skipif(
    not importlib.util.find_spec("xllamacpp"), reason="llama.cpp (xllamacpp) is not installed: make setup-gguf"
)
needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")


def lora(names: tuple[str, ...] = (LAYER,), outputs: int = 192, inputs: int = 192, size: float = 0.5) -> Lora:
    random = np.random.default_rng(0)

    def factor(*shape: int) -> Tensor:
        return Tensor("F32", shape, (size * random.standard_normal(shape)).astype("<f4").tobytes())

    return Lora(4, 2.0, 0.0, "tiny", False, {name: (factor(4, inputs), factor(outputs, 4)) for name in names})


def copied(tmp_path: Path, **settings: Any) -> model.Model:
    """The bundled model in a folder of its own, with these settings in its configuration."""
    folder = tmp_path / "copy"
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return model.resolve(str(folder))


def numbers(folder: Path) -> dict[str, Any]:
    found = fuse.tensors(folder)
    return {name: safetensors_file.as_float32(safetensors_file.raw(e), e.dtype, e.shape) for name, e in found.items()}


@pytest.fixture(scope="module")
def source(run: Run) -> model_card.Source:
    return model_card.source(run.model, run.root / "adapter", run.root / "results" / "mlx", run.root / "data", True)


def test_the_merge_is_the_formula_and_touches_nothing_else(tmp_path: Path) -> None:
    tiny, adapter = model.resolve("tiny"), lora()
    assert fuse.write(tiny, adapter, tmp_path) == "BF16"
    before, after = numbers(TINY), numbers(tmp_path)
    assert list(before) == list(after)
    assert [name for name in before if not np.array_equal(before[name], after[name])] == [f"{LAYER}.weight"]
    a, b = (np.frombuffer(t.data, "<f4").reshape(t.shape).astype(np.float64) for t in adapter.layers[LAYER])
    right = before[f"{LAYER}.weight"] + 2.0 * (b @ a)
    assert np.abs(after[f"{LAYER}.weight"] - right).max() <= 2**-8 * np.abs(right).max()  # bf16 has eight bits
    assert (tmp_path / "chat_template.jinja").is_file()


def test_shards_stay_shards(tmp_path: Path) -> None:
    tiny = copied(tmp_path)
    _, entries = safetensors_file.header(TINY / "model.safetensors")
    names = list(entries)
    for number, part in enumerate((names[:20], names[20:]), 1):
        tensors = {n: Tensor(entries[n].dtype, entries[n].shape, safetensors_file.raw(entries[n])) for n in part}
        data = safetensors_file.pack(safetensors_file.new_header(tensors, {}), tensors)
        (tiny.path / f"model-{number:05}-of-00002.safetensors").write_bytes(data)
    index = {name: f"model-0000{1 + (name in names[20:])}-of-00002.safetensors" for name in names}
    (tiny.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tiny.path / "model.safetensors").unlink()
    for place, one in (("whole", model.resolve("tiny")), ("shards", tiny)):
        (tmp_path / place).mkdir()
        fuse.write(one, lora(), tmp_path / place)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) == 2
    assert json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())["weight_map"] == index
    whole, shards = numbers(tmp_path / "whole"), numbers(tmp_path / "shards")
    assert whole.keys() == shards.keys()
    assert all(np.array_equal(whole[name], shards[name]) for name in whole)


def test_nothing_is_rounded_in_float32(tmp_path: Path) -> None:
    tiny, adapter = model.resolve("tiny"), lora()
    assert fuse.write(tiny, adapter, tmp_path, wide=True) == "F32"
    found, after = fuse.tensors(TINY), numbers(tmp_path)
    assert all(np.array_equal(fuse.merged(name, entry, adapter), after[name]) for name, entry in found.items())
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"


@needs_torch
def test_bfloat16_is_rounded_as_torch_does() -> None:
    import torch

    values = np.random.default_rng(1).standard_normal(4096).astype(np.float32)
    ties = np.array([0x3F808000, 0x3F818000, 0x3F808001], np.uint32).view(np.float32)
    values = np.concatenate([values, ties, -ties])
    right = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
    assert safetensors_file.as_bytes(values, "BF16") == right.tobytes()


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_a_number_that_does_not_fit_is_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        safetensors_file.as_bytes(np.array([np.inf], np.float32), dtype)


def test_what_cannot_be_merged_is_named(tmp_path: Path) -> None:
    tiny = copied(tmp_path, quantization={"bits": 4})
    adapter = Lora(4, 1.0, 0.0, None, False, {**lora(("lm_head",)).layers, **lora(outputs=64).layers})
    error = refusal(fuse.check, tiny, adapter)
    text = str(error)
    assert "quantization: the weights are quantized" in text
    assert "layers that the model does not have: lm_head; the output layer's weights are the embedding's" in text
    assert f"another shape than the model's: {LAYER}" in text


def test_the_whole_model_answers_the_same_in_stock_programs(source: model_card.Source, tmp_path: Path) -> None:
    document = stage.export(source, "fused", tmp_path / "out", "float32", False, lambda _: None)
    assert document["dtype"] == "F32"
    programs = [check["program"].split()[0] for check in document["checks"]]
    assert programs == [name for name, module in (("mlx-lm", "mlx_lm"), ("transformers", "torch"))
                        if importlib.util.find_spec(module)]  # fmt: skip
    assert all(check["n"] == 10 and check["same"] == check["n"] for check in document["checks"])


def test_a_pre_tokenizer_is_found_by_what_it_does(tmp_path: Path) -> None:
    assert gguf_file.identify(TINY, ["Hello"]).name == "ufakzeka"
    assert gguf_file.identify(TINY, ["Hello"]).differing == ()
    own = json.loads((TINY / "tokenizer.json").read_text())
    for name in ("gpt-2", "smollm", "qwen2"):
        (tmp_path / "tokenizer.json").write_text(json.dumps(gguf_file._with(own, name)))
        found = gguf_file.identify(tmp_path, ["Hello"])
        assert (found.name, found.differing) == (name, ())


def test_an_unknown_pre_tokenizer_is_refused(tmp_path: Path) -> None:
    own = json.loads((TINY / "tokenizer.json").read_text())
    own["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split("."), byte_level(False)]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(own))
    assert "pre-tokenizer: none of those known here" in str(refusal(gguf_file.identify, tmp_path, ["Hello there"]))


def test_what_gguf_cannot_hold_is_named(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0}
    tiny = copied(tmp_path, rope_parameters=rope, hidden_act="gelu")
    known = json.loads((tiny.path / "tokenizer.json").read_text())
    known["normalizer"] = {"type": "Lowercase"}
    (tiny.path / "tokenizer.json").write_text(json.dumps(known))
    error = refusal(gguf_file.check, tiny, lora(), "f16")
    text = str(error)
    for part in ("rope scaling: yarn", "hidden_act: 'gelu'", "normalizer: Lowercase"):
        assert part in text
    (tmp_path / "other").mkdir()
    with pytest.raises(EngramError, match="architecture: PhiForCausalLM"):
        gguf_file.check(copied(tmp_path / "other", architectures=["PhiForCausalLM"]), lora(), "f16")


@pytest.mark.parametrize("quantize", gguf_file.QUANTIZE)
def test_a_gguf_file_read_back(tmp_path: Path, quantize: str) -> None:
    import gguf

    tiny, adapter = model.resolve("tiny"), lora()
    gguf_file.write(tiny, adapter, load_encoder(tiny), "ufakzeka", quantize, tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["llama.attention.head_count"] == 3 and said["llama.attention.head_count_kv"] == 1
    assert said["llama.context_length"] == 1024 and said["llama.rope.freq_base"] == 10000.0
    assert said["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert said["tokenizer.ggml.eos_token_id"] == 2 and said["tokenizer.ggml.add_bos_token"] is False
    assert len(said["tokenizer.ggml.tokens"]) == 4096 and len(said["tokenizer.ggml.merges"]) == 3837
    assert said["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert said["tokenizer.chat_template"] == (TINY / "chat_template.jinja").read_text()
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert "output.weight" not in tensors  # tied: the embedding's
    found = fuse.tensors(TINY)
    right = fuse.merged(f"{LAYER}.weight", found[f"{LAYER}.weight"], adapter)
    stored = gguf.quants.dequantize(tensors["blk.0.attn_q.weight"].data, tensors["blk.0.attn_q.weight"].tensor_type)
    back = stored.reshape(3, 32, 2, 192).swapaxes(1, 2).reshape(192, 192)  # pairs of neighbours → two halves
    assert np.abs(back - right).max() < (0.002 if quantize == "f16" else 0.02) * np.abs(right).max()


def test_q8_0_wants_rows_of_whole_blocks(tmp_path: Path, smollm: model.Model) -> None:
    with pytest.raises(EngramError, match="q8_0: rows that are no multiple of 32"):
        gguf_file.check(smollm, Lora(1, 1.0, 0.0, None, True, {}), "q8_0")


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[model.Model]:
    """Random weights in SmolLM's form: nine heads on three, tied embeddings, q of another width than k."""
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=72, intermediate_size=200, num_hidden_layers=3, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=256, tie_word_embeddings=True, rms_norm_eps=1e-5,
        initializer_range=0.3, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("smollm")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TINY / name, folder / name)
    yield model.resolve(str(folder))


@needs_llamacpp
def test_heads_of_smollms_form_lie_as_llamacpp_wants_them(tmp_path: Path, smollm: model.Model) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    encoder, adapter = load_encoder(smollm), lora(outputs=72, inputs=72)
    fuse.write(smollm, adapter, tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    gguf_file.write(smollm, adapter, encoder, "ufakzeka", "f16", tmp_path / "m.gguf")
    prompts = [encoder.prompt(f"What is {i} plus {i + 3}, and why is it so?") for i in range(30)]
    with torch.inference_mode():
        right = [int(whole(torch.tensor([ids])).logits[0, -1].argmax()) for ids in prompts]
    with llamacpp.serving(tmp_path / "m.gguf", 128, small=True) as server:
        given = [server.answer_ids(ids, 1)[0] for ids in prompts]
    assert sum(a == b for a, b in zip(right, given, strict=True)) >= 29
    assert len(set(right)) > 5  # not one token for everything


@needs_llamacpp
def test_gguf_answers_in_llamacpp_as_here(source: model_card.Source, tmp_path: Path) -> None:
    document = stage.export(source, "gguf", tmp_path / "out", "f16", False, lambda _: None)
    asked = {check["asked"]: (check["same"], check["n"]) for check in document["checks"]}
    assert asked == dict.fromkeys(("the prompt's token ids", "token ids", "chat messages"), (10, 10))
    assert document["tokenizer"] == {"pre": "ufakzeka", "texts": len(gguf_file.HARD_CASES), "differing": []}
    card = (tmp_path / "out" / "README.md").read_text()
    recall = source.evidence.comparison["tuned"]["recall"] if source.evidence else {}
    assert f"| recall, exact match | {recall['n']} |" in card and "10 of 10 (100.0 %)" in card
    assert source.evidence and source.evidence.tuned["data"]["manifest_sha256"] in card and "license: mit" in card


@pytest.mark.parametrize("default", ["", "You are a helpful AI assistant named SmolLM"])
def test_the_go_template_writes_the_chat_templates_prompts(default: str, run: Run) -> None:
    encoder = load_encoder(model.resolve("tiny"))
    if default:
        loop = "{% for message in messages %}"
        first = "{% if loop.first and messages[0]['role'] != 'system' %}"
        added = first + "{{ '<|im_start|>system\n" + default + "<|im_end|>\n' }}{% endif %}"
        encoder.tokenizer.chat_template = encoder.tokenizer.chat_template.replace(loop, loop + added)
    parts = ollama.pieces(encoder, "tiny")
    assert parts.default == (default or None)
    text = ollama.modelfile(parts, "m.gguf", encoder.tokenizer.convert_ids_to_tokens([*encoder.stop_ids]), 1024)
    go = re.search(r'^TEMPLATE """(.*?)"""$', text, re.S | re.M)
    assert go and 'PARAMETER stop "<|im_end|>"' in text and "PARAMETER temperature 0" in text
    assert (f'SYSTEM """{default}"""' in text) == bool(default)
    told = [{"role": "system", "content": default}] if default else []
    for row in run.tuned["answers"]:
        asked = [{"role": "user", "content": row["prompt"]}]
        assert evaluate(go[1], [*told, *asked]) == render(encoder.tokenizer, asked, True)
    turns = [{"role": r, "content": f"{r}!"} for r in ("system", "user", "assistant", "user")]
    assert evaluate(go[1], turns) == render(encoder.tokenizer, turns, True)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages | length }}{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}",
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m['role'] + m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | upper }}{% endfor %}",
    ],
)
def test_a_template_that_go_cannot_say_is_refused(template: str) -> None:
    encoder = load_encoder(model.resolve("tiny"))
    encoder.tokenizer.chat_template = template
    assert "tiny's chat template cannot be written as a Modelfile" in str(refusal(ollama.pieces, encoder, "tiny"))


def test_nothing_is_written_below_the_bar(source: model_card.Source, tmp_path: Path, monkeypatch: Any) -> None:
    assert source.evidence is not None
    rows = [{**row, "answer": "something else"} for row in source.evidence.tuned["answers"]]
    tuned = {**source.evidence.tuned, "answers": rows}
    wrong = source._replace(evidence=source.evidence._replace(tuned=tuned))
    error = refusal(stage.export, wrong, "fused", tmp_path / "out", "base", False, lambda _: None)
    assert "0 of 10 the same" in str(error) and "'something else' here" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_the_bar_lies_at_99_of_100() -> None:
    rows = [{"id": str(i), "answer": str(i)} for i in range(200)]
    for wrong, fails in ((2, False), (3, True)):
        given = ["x"] * wrong + [row["answer"] for row in rows[wrong:]]
        checks = [agreement.check("program", "token ids", rows, given)]
        assert checks[0]["same"] == 200 - wrong
        if fails:
            assert "99% is asked for" in str(refusal(agreement.refuse_unlike, checks, "gguf", agreement.BAR))
        else:
            agreement.refuse_unlike(checks, "gguf", agreement.BAR)


def test_adapters_travel_byte_by_byte_and_replace_only_their_own(run: Run, tmp_path: Path) -> None:
    def export(form: str, *more: str) -> Any:
        place = ["--results", str(run.root / "results"), "--data", str(run.root / "data"), "--backend", "mlx"]
        # the results of an adapter given by name lie in a folder of that name
        named = run.root / "results" / "mlx-with-adapter"
        if not named.exists():
            shutil.copytree(run.root / "results" / "mlx", named)
        arguments = ["export", "--format", form, "--model", "tiny", "--adapter", str(run.root / "adapter"), *place]
        return CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / form), *more])

    for form, file in (("mlx", "adapters.safetensors"), ("peft", "adapter_model.safetensors")):
        done = export(form)
        assert done.exit_code == 0, done.output
        assert (tmp_path / form / file).is_file()
    assert sha256(tmp_path / "mlx" / "adapters.safetensors") == sha256(run.root / "adapter" / "adapters.safetensors")
    assert conversion.read(tmp_path / "peft").layers == conversion.read(run.root / "adapter").layers
    assert export("peft").exit_code == 0  # its own, unchanged
    (tmp_path / "peft" / "thesis.txt").write_text("mine")
    again = export("peft")
    assert again.exit_code == 2 and "thesis.txt: not written by this command" in again.stderr
    assert (tmp_path / "peft" / "thesis.txt").read_text() == "mine"


def test_results_of_another_adapter_are_refused(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.root / "adapter", tmp_path / "adapter")
    conversion.convert(tmp_path / "adapter", tmp_path / "other", "peft")
    with pytest.raises(EngramError, match=r"tuned\.json: the answers of another adapter"):
        model_card.source(run.model, tmp_path / "other", run.root / "results" / "mlx", run.root / "data", True)
    with pytest.raises(EngramError, match="no such result"):
        model_card.source(run.model, tmp_path / "adapter", tmp_path, run.root / "data", True)


def test_without_llamacpp_it_is_refused_or_said(source: model_card.Source, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(llamacpp, "BINDING", "no_such_module")
    with pytest.raises(EngramError, match="make setup-gguf"):
        stage.export(source, "gguf", tmp_path / "out", "f16", False, lambda _: None)
    assert not (tmp_path / "out").exists()
    document = stage.export(source._replace(evidence=None), "ollama", tmp_path / "out", "q8_0", True, lambda _: None)
    assert document["checks"] == [] and (tmp_path / "out" / "Modelfile").is_file()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**Not checked.**" in card and "this card has no figures" in card
