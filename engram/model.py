"""Model names -> a folder on disk: the bundled model, a local path, the hub's cache, or the hub."""

from __future__ import annotations

import errno
import functools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engram import json_source
from engram.errors import EngramError
from engram.files import BUNDLED, read_bytes, sha256, sha256_text
from engram.machine import apple_silicon, nvidia_gpu
from engram.text import nearest, visible

DEFAULT = "smollm-135m"
REGISTRY: Mapping[str, str] = {
    "tiny": "",
    "smollm-135m": "HuggingFaceTB/SmolLM-135M-Instruct",
    "smollm-360m": "HuggingFaceTB/SmolLM-360M-Instruct",
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2-360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "phi-2": "microsoft/phi-2",
}
# phi-2 was trained on this form and ships no template of its own
TEMPLATES: Mapping[str, str] = {
    "phi-2": (
        "{% for m in messages %}{% if m['role'] == 'user' %}Instruct: {{ m['content'] }}\n"
        "{% else %}Output: {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}Output: {% endif %}"
    )
}
HUB_SECONDS = 4.0
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR)
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class Model:
    """A model on this disk; `chat_template` stands in for a missing one, `reason` says why `auto` chose this model."""

    name: str
    path: Path
    revision: str | None = None
    chat_template: str | None = None
    reason: str = field(default="", compare=False)

    @functools.cached_property
    def parameters(self) -> int:
        """How many parameters the weight files hold, from their headers alone."""
        return sum(math.prod(shape) for path in weight_files(self.path) for shape in _shapes(path))

    @functools.cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights; of the shards' hashes in name order where there are several."""
        hashes = [sha256(path) for path in weight_files(self.path)]
        return hashes[0] if len(hashes) == 1 else sha256_text("\n".join(hashes))

    def describe(self) -> dict[str, Any]:
        """The model as result documents name it; no local path in it."""
        return {
            "name": self.name,
            "revision": self.revision,
            "weights_sha256": self.weights_sha256,
            "parameters": self.parameters,
        }


def resolve(spec: str = "auto") -> Model:
    """The model that `spec` names: `auto`, a registry name, a hub id (`owner/name`) or a local folder.

    Raises EngramError for an unknown name, a folder that holds no usable model, and a hub that does not answer
    within a few seconds.
    """
    if spec == "auto":
        return _auto()
    if spec == "tiny":
        return _checked(Model("tiny", BUNDLED / "tiny"))
    if spec in REGISTRY:
        return _from_hub(spec, REGISTRY[spec])
    if _looks_local(spec):
        path = Path(spec).expanduser()
        if not path.is_dir():
            raise EngramError(
                "no such model folder",
                where=visible(spec),
                fix="give a folder with config.json, or see `engram models`",
            )
        return _checked(Model(path.resolve().name, path))
    if spec.count("/") == 1 and all(spec.split("/")):
        return _from_hub(spec, spec)
    hint = nearest(spec, ["auto", *REGISTRY]) or f"; known are auto, {', '.join(REGISTRY)}"
    raise EngramError(
        f"unknown model {visible(spec)!r}{hint}",
        where="MODEL",
        fix="name one of them, a hub id (owner/name) or a folder",
    )


def on_this_disk(spec: str) -> Model | None:
    """The model that `spec` names if it is here already, else None; asks no network.

    Raises EngramError where it is here and not usable.
    """
    if spec in ("tiny", "auto") or _looks_local(spec):
        return resolve("tiny" if spec == "auto" else spec)
    found = cached(REGISTRY.get(spec, spec))
    return _checked(_hub_model(spec, found)) if found else None


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model folder, in name order."""
    return sorted(path.glob("*.safetensors"))


def load_tokenizer(model: Model) -> Any:
    """The model's own tokenizer (transformers), with a chat template.

    Raises EngramError where the files cannot be read or no chat template is there.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found": it is not needed
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model.path), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises many kinds; all mean that these files are not usable
        reason = visible(str(error).split("\n")[0][:200])
        raise EngramError(
            f"the tokenizer cannot be loaded: {reason}", where=model.name, fix="take another MODEL"
        ) from error
    if model.chat_template:
        tokenizer.chat_template = model.chat_template
    if not tokenizer.chat_template:
        raise EngramError(
            "this model has no chat template", where=model.name, fix="take an instruct model (MODEL=smollm-135m)"
        )
    return tokenizer


def _auto() -> Model:
    hub_id = REGISTRY[DEFAULT]
    if found := cached(hub_id):
        return _checked(_hub_model(DEFAULT, found, f"model: {DEFAULT} (found in the local cache)"))
    if not (apple_silicon() or nvidia_gpu()):
        why = f"no GPU here; MODEL={DEFAULT} teaches {hub_id} all the same, slowly"
    elif _offline():
        why = "HF_HUB_OFFLINE is set and SmolLM is not in the local cache"
    else:
        try:
            model = _from_hub(DEFAULT, hub_id)
            return Model(model.name, model.path, model.revision, reason=f"model: {DEFAULT} (from the hub)")
        except EngramError:
            why = "SmolLM is not in the local cache and the hub does not answer"
    tiny = resolve("tiny")
    return Model(tiny.name, tiny.path, reason=f"model: tiny, bundled ({why})")


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _looks_local(spec: str) -> bool:
    return spec.startswith((".", "/", "~")) or Path(spec).is_dir()


def cached(hub_id: str) -> Path | None:
    """The folder of a hub model in the local cache, None where it is not whole there; asks no network."""
    from huggingface_hub import snapshot_download

    try:
        path = Path(snapshot_download(hub_id, local_files_only=True, allow_patterns=FILES))
    except Exception:  # not cached, in whatever way the library says it
        return None
    return path if (path / "config.json").is_file() and weight_files(path) else None


def _hub_model(name: str, path: Path, reason: str = "") -> Model:
    return Model(name, path, path.name, TEMPLATES.get(name), reason)


def _from_hub(name: str, hub_id: str) -> Model:
    if found := cached(hub_id):
        return _checked(_hub_model(name, found))
    if _offline():
        raise EngramError(
            f"{hub_id} is not in the local cache and HF_HUB_OFFLINE is set",
            where="MODEL",
            fix="MODEL=tiny, or unset HF_HUB_OFFLINE",
        )
    from huggingface_hub import HfApi, snapshot_download

    try:
        HfApi().model_info(hub_id, timeout=HUB_SECONDS)
        path = Path(snapshot_download(hub_id, allow_patterns=FILES, etag_timeout=HUB_SECONDS))
    except Exception as error:  # connection, authorisation, missing repository: the library has a dozen classes
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            what = f"the hub's cache cannot be written: {error.strerror}"
            fix = "make it writable, or set HF_HOME to a folder that is"
            raise EngramError(what, where=str(error.filename or "HF_HOME"), fix=fix) from error
        reason = visible(f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}")
        fix = "check the name and the connection, or use MODEL=tiny, which needs neither"
        raise EngramError(f"{visible(hub_id)} cannot be had from the hub ({reason})", where="MODEL", fix=fix) from error
    return _checked(_hub_model(name, path))


def _checked(model: Model) -> Model:
    missing = [name for name in ("config.json", "tokenizer.json") if not (model.path / name).is_file()]
    if "tokenizer.json" in missing and (model.path / "tokenizer.model").is_file():
        missing.remove("tokenizer.json")
    if not weight_files(model.path):
        pickled = any(model.path.glob("*.bin")) or any(model.path.glob("*.pt"))
        missing.append("*.safetensors (pickled weights are never loaded)" if pickled else "*.safetensors")
    if missing:
        raise EngramError(
            f"not a model folder: {', '.join(missing)} missing", where=model.name, fix="take another MODEL"
        )
    try:
        config = json_source.parse(read_bytes(model.path / "config.json"))
        valid = isinstance(config, dict) and bool(config.get("model_type"))
    except json_source.JSONError:
        valid = False
    if not valid:
        raise EngramError("config.json is not a model's configuration", where=model.name, fix="take another MODEL")
    if "model_file" in config:  # mlx-lm's way to bring Python along
        raise EngramError(
            "this model brings code of its own, which is never run", where=model.name, fix="take another MODEL"
        )
    return model


def _shapes(path: Path) -> list[list[int]]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(100_000_000, path.stat().st_size):
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        return [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise EngramError(
            f"not a whole safetensors file ({error})", where=path.name, fix="fetch or copy the model again"
        ) from error
