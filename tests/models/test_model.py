"""Model names, folders and the hub."""

from __future__ import annotations

import json
import runpy
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packs import refusal

from engram.models import hub
from engram.models import model as models
from engram.models.tokenizer import load_encoder
from engram.support import untrusted
from engram.support.errors import EngramError
from engram.support.files import BUNDLED

TINY = BUNDLED / "tiny"
Patch = pytest.MonkeyPatch


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    shutil.copytree(TINY, folder)
    return folder


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: Patch) -> Path:
    """An empty hub cache, and a hub that refuses at once."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


def put_in_cache(hub: Path, hub_id: str) -> str:
    revision = "0123456789abcdef0123456789abcdef01234567"
    place = hub / f"models--{hub_id.replace('/', '--')}"
    shutil.copytree(TINY, place / "snapshots" / revision)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(revision)
    return revision


def test_the_bundled_model_is_small_and_described() -> None:
    tiny = models.resolve("tiny")
    assert 3_000_000 <= tiny.parameters <= 8_000_000
    assert sum(path.stat().st_size for path in TINY.rglob("*") if path.is_file()) <= 16 * 2**20
    described = tiny.describe()
    assert described["name"] == "tiny"
    assert len(described["weights_sha256"]) == 64
    assert str(Path.home()) not in json.dumps(described)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("smolm-135m", "MODEL: unknown model 'smolm-135m', did you mean 'smollm-135m'"),
        ("./no/such/folder", "no such model folder or GGUF file"),
        ("no-such.gguf", "no such model folder or GGUF file"),
        (str(BUNDLED), "config.json, tokenizer.json, model.safetensors missing"),
    ],
)
def test_what_names_no_model_is_refused(spec: str, said: str) -> None:
    assert said in str(refusal(models.resolve, spec))


def test_a_folder_that_may_be_a_whole_disk_is_not_looked_through(copy: Path, monkeypatch: Patch) -> None:
    few = sum(1 for _ in copy.rglob("*"))
    monkeypatch.setattr(untrusted, "MOST", few)
    assert models.resolve(str(copy)).name == "copied"
    (copy / "more").mkdir()
    assert f"more than {few} files and folders" in str(refusal(models.resolve, str(copy)))


def test_a_local_folder_is_named_without_its_path(copy: Path) -> None:
    found = models.resolve(str(copy))
    assert found.name == "copied"
    assert found.weights_sha256 == models.resolve("tiny").weights_sha256


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        *(("config.json", text, "not JSON") for text in ("", "{")),
        *(("config.json", text, "not a model's conf") for text in ("[]", "{}")),
        ("config.json", '{"model_type": "llama", "model_file": "evil.py"}', "comes with code"),
        ("model.safetensors", None, "pickled weights are never loaded"),
        ("chat_template.jinja", None, "no chat template"),
        ("chat_template.jinja", "{{ raise_exception('no') }}", "chat template does not work"),
        ("chat_template.jinja", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "chat template does not work"),
        ("tokenizer.json", "{}", "tokenizer cannot be loaded"),
    ],
)
def test_a_model_with_a_file_of_the_wrong_kind_is_refused(copy: Path, file: str, text: str | None, said: str) -> None:
    (copy / file).rename(copy / "pytorch_model.bin")
    if text is not None:
        (copy / file).write_text(text)
    assert said in str(refusal(lambda: load_encoder(models.resolve(str(copy)))))


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{]", b"\x02\0\0\0\0\0\0\0[]"])
def test_broken_weights_are_refused(copy: Path, content: bytes) -> None:
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(EngramError, match="not a whole safetensors file"):
        _ = models.resolve(str(copy)).parameters


WITH_AND_WITHOUT_TORCH = """
import sys
from pathlib import Path
from engram.models.model import Model
from engram.models.tokenizer import load_tokenizer
tokenizers = {folder: load_tokenizer(Model("a", Path(folder))) for folder in sys.argv[1:]}
say = lambda t: (type(t).__name__, t("Héllo  <|im_end|> I'm 12").input_ids, t.decode([9, 300, 2]), t.all_special_ids,
                 t.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False))
said = [say(tokenizer) for tokenizer in tokenizers.values()]
assert not {"torch", "transformers"} & sys.modules.keys()
from transformers import AutoTokenizer
assert "torch" in sys.modules
assert said == [say(AutoTokenizer.from_pretrained(folder)) for folder in tokenizers]
print({one[0] for one in said})
"""


def test_a_tokenizer_is_the_same_without_torch_which_is_found_afterwards(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folders = []
    for name in ("PreTrainedTokenizerFast", "GPT2Tokenizer", "LlamaTokenizer", "Qwen2TokenizerFast", "NoSuchTokenizer"):
        settings = {
            "tokenizer_class": name,
            "add_prefix_space": True,
            "add_bos_token": True,
            "bos_token": "<|im_start|>",
        }
        folders.append(shutil.copytree(TINY, tmp_path / name))
        (folders[-1] / "tokenizer_config.json").write_text(json.dumps(settings))
    (folders[1] / "additional_chat_templates").mkdir()
    (folders[1] / "additional_chat_templates" / "tool_use.jinja").write_text("T")
    command = [sys.executable, "-c", WITH_AND_WITHOUT_TORCH, *map(str, folders)]
    assert "LlamaTokenizer" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_phi_2_gets_the_form_it_was_trained_on(copy: Path, empty_cache: Path) -> None:
    put_in_cache(empty_cache, models.REGISTRY["phi-2"])
    snapshot = models.resolve("phi-2").path
    (snapshot / "chat_template.jinja").unlink()
    encoder = load_encoder(models.resolve("phi-2"))
    assert encoder.tokenizer.decode(encoder.prompt("Hello")) == "Instruct: Hello\nOutput: "
    assert encoder.end_id == encoder.tokenizer.eos_token_id


def test_auto_takes_the_bundled_model_and_says_why(empty_cache: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(models, "apple_silicon", lambda: True)
    found = models.resolve("auto")
    assert found.name == "tiny"
    assert "the hub does not answer" in found.reason
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in models.resolve("auto").reason


def test_auto_downloads_nothing_to_a_machine_without_gpu(empty_cache: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(models, "apple_silicon", lambda: False)
    monkeypatch.setattr(models, "nvidia_gpu", lambda: False)
    assert "no GPU here" in models.resolve("auto").reason


def test_auto_takes_smollm_from_the_cache(empty_cache: Path, monkeypatch: Patch) -> None:
    revision = put_in_cache(empty_cache, models.REGISTRY["smollm-135m"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = models.resolve("auto")
    assert (found.name, found.revision) == ("smollm-135m", revision)
    assert "local cache" in found.reason


CACHES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")


@pytest.mark.filterwarnings("ignore:'huggingface_hub")  # runpy's, that it runs a module a second time
@pytest.mark.parametrize("settings", [{}, *({one: f"~/$HOLDER/{one}"} for one in CACHES), dict.fromkeys(CACHES, "~")])
def test_the_cache_is_where_the_client_looks(settings: dict[str, str], tmp_path: Path, monkeypatch: Patch) -> None:
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path), "HOLDER": "caches", **settings}.items():
        monkeypatch.setenv(name, value)
    client = runpy.run_module("huggingface_hub.constants")
    revision = put_in_cache(Path(client["HF_HUB_CACHE"]), "owner/name")
    monkeypatch.delitem(sys.modules, "huggingface_hub.constants", raising=False)
    assert hub.cached("owner/name") == tmp_path / client["HF_HUB_CACHE"] / "models--owner--name/snapshots" / revision


def test_offline_names_the_way_out(empty_cache: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = refusal(models.resolve, "smollm-135m")
    assert "HF_HUB_OFFLINE is set" in str(error) and "MODEL=tiny" in error.fix


@pytest.mark.parametrize("listens", [False, True])
def test_a_hub_that_refuses_or_hangs_is_an_error_soon(listens: bool, empty_cache: Path, monkeypatch: Patch) -> None:
    from huggingface_hub import constants

    started = time.perf_counter()
    with socket.create_server(("127.0.0.1", 0)) as server:
        if listens:
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert "cannot be had from the hub" in str(refusal(models.resolve, "someone/some-model"))
    assert time.perf_counter() - started < 15
