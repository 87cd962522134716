"""Model names -> a folder on disk: the bundled model, a local folder or GGUF file, a cache, the hub, or a package."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engram.models import gguf, hub
from engram.models.safetensors_file import header
from engram.support import checksums, locks, strict_json
from engram.support.errors import EngramError
from engram.support.files import BUNDLED, new_folder, sha256, sha256_text
from engram.support.machine import apple_silicon, nvidia_gpu
from engram.support.text import nearest, visible
from engram.support.untrusted import INDEX, missing_files, refuse_links, shards

DEFAULT, SMOLLM2 = "smollm-135m", "smollm2-135m"
MINUTES = 40  # its training took on a shared CPU: results/reference/smollm2-135m-q4_1/default-0/training.json
REGISTRY: Mapping[str, str] = {
    "tiny": "",
    hub.SMOLLM2.name: "",
    "smollm-135m": "HuggingFaceTB/SmolLM-135M-Instruct",
    "smollm-360m": "HuggingFaceTB/SmolLM-360M-Instruct",
    SMOLLM2: "HuggingFaceTB/SmolLM2-135M-Instruct",
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
AROUND = ("json", "jsonl", "jinja", "txt", "model")  # endings of the files with which a model is more than its weights
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
        hashes = [sha256(path, hub.LARGEST) for path in weight_files(self.path)]
        return hashes[0] if len(hashes) == 1 else sha256_text("\n".join(hashes))

    @functools.cached_property
    def files_sha256(self) -> str:
        """SHA-256 of what is around the weights: configuration, tokenizer, chat template and the model's own rows."""
        files = sorted(path for end in AROUND for path in self.path.glob(f"*.{end}"))
        return sha256_text("\n".join([*(f"{path.name} {sha256(path)}" for path in files), self.chat_template or ""]))

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """What its `config.json` says; raises EngramError if that is no model's configuration."""
        found = strict_json.read(self.path / "config.json", "take another MODEL")
        if not isinstance(found, dict) or not found.get("model_type"):
            what = "config.json is not a model's configuration"
            raise EngramError(what, where=self.name, fix="take another MODEL")
        return found

    @property
    def context(self) -> int:
        """The longest sequence in tokens: the model's limit, 2,048 at most."""
        known = self.config.get("max_position_embeddings")
        return min(known, CONTEXT) if isinstance(known, int) and known > 0 else CONTEXT

    def describe(self) -> dict[str, Any]:
        """Describe the model for result documents, without local paths."""
        names = ("name", "revision", "weights_sha256", "files_sha256", "parameters")
        return {name: getattr(self, name) for name in names}


def resolve(spec: str = "auto") -> Model:
    """The model that `spec` names: `auto`, a registry name, a hub id (`owner/name`), a local folder or GGUF file.

    Raises EngramError for an unknown name, a folder or file that holds no usable model, and a hub or package index that
    does not answer within a few seconds.
    """
    if spec == "auto":
        return _auto()
    if spec == "tiny":
        return _intact(_checked(Model("tiny", BUNDLED / "tiny")))
    if spec == hub.SMOLLM2.name:
        return _from_package()
    if spec == SMOLLM2:
        return _smollm2()
    if spec in REGISTRY:
        return _from_hub(spec, REGISTRY[spec])
    if _looks_local(spec):
        path = Path(spec).expanduser()
        if path.is_file():
            return _converted(path.stem, sha256(path, hub.LARGEST), lambda _: contextlib.nullcontext(path))
        if path.is_dir():
            return _checked(Model(path.resolve().name, path))
        fix = "give a folder with config.json, or see `engram models`"
        raise EngramError("no such model folder or GGUF file", where=visible(spec), fix=fix)
    if spec.count("/") == 1 and all(spec.split("/")):
        return _from_hub(spec, spec)
    hint = nearest(spec, ["auto", *REGISTRY]) or f"; known are auto, {', '.join(REGISTRY)}"
    fix = "name one of them, a hub id (owner/name), a folder or a GGUF file"
    raise EngramError(f"unknown model {visible(spec)!r}{hint}", where="MODEL", fix=fix)


def on_this_disk(spec: str) -> Model | None:
    """The model that `spec` names if it is here, else None; asks no network, raises EngramError if it isn't usable."""
    if spec in ("tiny", "auto") or _looks_local(spec):
        return resolve("tiny" if spec == "auto" else spec)
    if spec != hub.SMOLLM2.name and (found := hub.cached(REGISTRY.get(spec, spec))):
        return _checked(_hub_model(spec, found))
    return _packaged() if spec in (hub.SMOLLM2.name, SMOLLM2) else None


def is_cached(name: str) -> bool:
    """Whether a model of the registry is in a cache on this disk, under its own name."""
    if name == hub.SMOLLM2.name:
        return gguf.place(name, hub.SMOLLM2.sha256).is_dir()
    return bool(REGISTRY[name] and hub.cached(REGISTRY[name]))


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model folder, in name order: those of its index, or the only one."""
    return [path / name for name in (shards(path) if (path / INDEX).is_file() else ["model.safetensors"])]


def _auto() -> Model:
    hub_id = REGISTRY[DEFAULT]
    if found := hub.cached(hub_id):
        return _checked(_hub_model(DEFAULT, found, f"model: {DEFAULT} (found in the local cache)"))
    fast = apple_silicon() or nvidia_gpu()
    why = ""
    if fast and hub.offline():
        why = "HF_HUB_OFFLINE is set and SmolLM is not in the local cache; "
    elif fast:
        try:
            return replace(_from_hub(DEFAULT, hub_id, hub.HASTY), reason=f"model: {DEFAULT} (from the hub)")
        except EngramError:
            why = "SmolLM is not in the local cache and the hub does not answer, or not fast enough; "
    slow = f"about {MINUTES} minutes for `make demo` on two cores"
    if not fast and not _packaged():
        why = f"no GPU here; MODEL={SMOLLM2} is a real model of 135 M parameters, {slow}"
        return replace(resolve("tiny"), reason=f"model: tiny, bundled ({why})")
    try:
        model = _from_package()
    except EngramError as error:
        return replace(resolve("tiny"), reason=f"model: tiny, bundled ({why}{error.what})")
    long = "" if fast else f"; {slow}, MODEL=tiny takes two"
    return replace(model, reason=f"model: {model.name} (a real SmolLM2 of 135 M parameters{long})")


def _smollm2() -> Model:
    """The hub's SmolLM2 from the cache, else the package's converted before, else the hub's, else the package's."""
    if not hub.cached(REGISTRY[SMOLLM2]) and (known := _packaged()):
        return known
    try:
        return _from_hub(SMOLLM2, REGISTRY[SMOLLM2])
    except EngramError as no_hub:
        try:
            model = _from_package()
        except EngramError as error:
            raise EngramError(no_hub.what, where="MODEL", problems=[error.what], fix=error.fix) from error
        return replace(model, reason=f"model: {model.name}, from a package ({no_hub.what})")


def _packaged() -> Model | None:
    return _from_package() if is_cached(hub.SMOLLM2.name) else None


def _from_package() -> Model:
    return _converted(hub.SMOLLM2.name, hub.SMOLLM2.sha256, functools.partial(hub.unpacked, hub.SMOLLM2))


def _converted(name: str, digest: str, opened: Callable[[Path], contextlib.AbstractContextManager[Path]]) -> Model:
    """The model in the GGUF file with this SHA-256, converted unless it was; `opened` gets a folder to work in."""
    if not (folder := gguf.place(name, digest)).is_dir():
        from engram.models.tokenizer import load_encoder

        with locks.held(folder, f"engram, converting {name}"), new_folder(folder) as work, opened(work) as file:
            gguf.convert(file, work, lambda: load_encoder(Model(name, work)))
    return _checked(Model(name, folder, f"gguf:{digest}"))


def _looks_local(spec: str) -> bool:
    return spec.startswith((".", "/", "~")) or spec.lower().endswith(".gguf") or Path(spec).is_dir()


def _hub_model(name: str, path: Path, reason: str = "") -> Model:
    return Model(name, path, path.name, TEMPLATES.get(name), reason)


def _from_hub(name: str, hub_id: str, patience: hub.Patience = hub.PATIENT) -> Model:
    if found := hub.cached(hub_id):
        return _checked(_hub_model(name, found))
    if hub.offline():
        what = f"{hub_id} is not in the local cache and HF_HUB_OFFLINE is set"
        raise EngramError(what, where="MODEL", fix="MODEL=tiny, or unset HF_HUB_OFFLINE")
    return _checked(_hub_model(name, hub.fetch(hub_id, patience)))


def _checked(model: Model) -> Model:
    refuse_links(model.path, "copy the files into the folder, or take another MODEL")
    what, fix = "", "take another MODEL"
    if (model.path / "adapter_config.json").is_file():  # loaders would go where it points
        what, fix = "an adapter lies in this model's folder", "name it by ADAPTER instead"
    elif missing := missing_files(model.path):
        what = f"not a model folder: {', '.join(missing)} missing"
    elif beside := sorted({*model.path.glob("model*.safetensors")} - {*weight_files(model.path)}):
        # some loaders would read them all the same
        what = f"weights that no index names: {visible(', '.join(path.name for path in beside))}"
        fix = "take them away, or take another MODEL"
    elif "model_file" in model.config:  # mlx-lm's way to bring Python along
        what = "this model comes with code, which is never run"
    if what:
        raise EngramError(what, where=model.name, fix=fix)
    return model


def _intact(model: Model) -> Model:
    """Refuse a bundled model with changed files: a flipped bit in a weight would go unnoticed."""
    made = checksums.read(model.path / checksums.NAME)
    broken = [name for name in made if not (model.path / name).is_file() or sha256(model.path / name) != made[name]]
    if broken or not made:
        what = f"the bundled model is damaged: {', '.join(broken or [checksums.NAME])}"
        raise EngramError(what, where=str(model.path), fix="install engram again, or git checkout engram/bundled")
    return model
