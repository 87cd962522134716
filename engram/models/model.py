"""Model names -> a folder on disk: the bundled model, a local path, the hub's cache, or the hub."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engram.models import hub
from engram.models.safetensors_file import header
from engram.support import checksums, strict_json
from engram.support.errors import EngramError
from engram.support.files import BUNDLED, sha256, sha256_text
from engram.support.machine import apple_silicon, nvidia_gpu
from engram.support.text import nearest, visible
from engram.support.untrusted import INDEX, missing_files, refuse_links, shards

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
# phi-2 was trained on this form and ships no template
TEMPLATES: Mapping[str, str] = {
    "phi-2": (
        "{% for m in messages %}{% if m['role'] == 'user' %}Instruct: {{ m['content'] }}\n"
        "{% else %}Output: {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}Output: {% endif %}"
    )
}
LARGEST_SHARD = 1 << 36  # bytes
CONTEXT = 2048


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
        """The number of parameters in the weight files, from their headers alone."""
        return sum(math.prod(one.shape) for path in weight_files(self.path) for one in header(path)[1].values())

    @functools.cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights; of the shards' hashes in name order where there are several."""
        hashes = [sha256(path, LARGEST_SHARD) for path in weight_files(self.path)]
        return hashes[0] if len(hashes) == 1 else sha256_text("\n".join(hashes))

    @property
    def context(self) -> int:
        """The longest sequence in tokens: the model's limit, 2,048 at most."""
        try:
            known = json.loads((self.path / "config.json").read_text("utf-8")).get("max_position_embeddings")
        except (OSError, ValueError, AttributeError):
            known = None
        return min(known, CONTEXT) if isinstance(known, int) and known > 0 else CONTEXT

    def describe(self) -> dict[str, Any]:
        """Describe the model for result documents, without local paths."""
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
        return _intact(_checked(Model("tiny", BUNDLED / "tiny")))
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

    Raises EngramError if it is here and not usable.
    """
    if spec in ("tiny", "auto") or _looks_local(spec):
        return resolve("tiny" if spec == "auto" else spec)
    found = hub.cached(REGISTRY.get(spec, spec))
    return _checked(_hub_model(spec, found)) if found else None


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model folder, in name order: those of its index, or the only one."""
    return [path / name for name in (shards(path) if (path / INDEX).is_file() else ["model.safetensors"])]


def _auto() -> Model:
    hub_id = REGISTRY[DEFAULT]
    if found := hub.cached(hub_id):
        return _checked(_hub_model(DEFAULT, found, f"model: {DEFAULT} (found in the local cache)"))
    if not (apple_silicon() or nvidia_gpu()):
        why = f"no GPU here; MODEL={DEFAULT} teaches {hub_id} all the same, slowly"
    elif hub.offline():
        why = "HF_HUB_OFFLINE is set and SmolLM is not in the local cache"
    else:
        try:
            model = _from_hub(DEFAULT, hub_id, hub.HASTY)
            return Model(model.name, model.path, model.revision, reason=f"model: {DEFAULT} (from the hub)")
        except EngramError:
            why = "SmolLM is not in the local cache and the hub does not answer, or not fast enough"
    tiny = resolve("tiny")
    return Model(tiny.name, tiny.path, reason=f"model: tiny, bundled ({why})")


def _looks_local(spec: str) -> bool:
    return spec.startswith((".", "/", "~")) or Path(spec).is_dir()


def _hub_model(name: str, path: Path, reason: str = "") -> Model:
    return Model(name, path, path.name, TEMPLATES.get(name), reason)


def _from_hub(name: str, hub_id: str, patience: hub.Patience = hub.PATIENT) -> Model:
    if found := hub.cached(hub_id):
        return _checked(_hub_model(name, found))
    if hub.offline():
        raise EngramError(
            f"{hub_id} is not in the local cache and HF_HUB_OFFLINE is set",
            where="MODEL",
            fix="MODEL=tiny, or unset HF_HUB_OFFLINE",
        )
    path = hub.fetch(hub_id, patience)
    return _checked(_hub_model(name, path))


def _checked(model: Model) -> Model:
    refuse_links(model.path, "copy the files into the folder, or take another MODEL")
    missing = missing_files(model.path)
    if (model.path / "adapter_config.json").is_file():  # loaders would go where it points
        raise EngramError("an adapter lies in this model's folder", where=model.name, fix="name it by ADAPTER instead")
    if missing:
        raise EngramError(
            f"not a model folder: {', '.join(missing)} missing", where=model.name, fix="take another MODEL"
        )
    known = {path.name for path in weight_files(model.path)}
    if beside := sorted(path.name for path in model.path.glob("model*.safetensors") if path.name not in known):
        what = f"weights that no index names: {visible(', '.join(beside))}"  # some loaders would read them all the same
        raise EngramError(what, where=model.name, fix="take them away, or take another MODEL")
    config = strict_json.read(model.path / "config.json", "take another MODEL")
    if not isinstance(config, dict) or not config.get("model_type"):
        raise EngramError("config.json is not a model's configuration", where=model.name, fix="take another MODEL")
    if "model_file" in config:  # mlx-lm's way to bring Python along
        raise EngramError("this model comes with code, which is never run", where=model.name, fix="take another MODEL")
    return model


def _intact(model: Model) -> Model:
    """Refuse a bundled model with changed files: a flipped bit in a weight would go unnoticed."""
    made = checksums.read(model.path / checksums.NAME)
    broken = [name for name in made if not (model.path / name).is_file() or sha256(model.path / name) != made[name]]
    if broken or not made:
        what = f"the bundled model is damaged: {', '.join(broken or [checksums.NAME])}"
        raise EngramError(what, where=str(model.path), fix="install engram again, or git checkout engram/bundled")
    return model
