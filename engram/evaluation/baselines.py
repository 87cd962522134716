"""Baselines that were measured before: a model without an adapter answers the same to the same, so it is asked once.

An entry is named by the hash of all that its numbers depend on, the code included, and is a whole result document.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from engram import __version__
from engram.models.model import Model
from engram.plan import documents
from engram.plan.config import Config
from engram.support import machine
from engram.support.errors import EngramError
from engram.support.files import PACKAGE, cache_folder, sha256, sha256_text

MOST = 50  # entries; the oldest go first
# the settings that an evaluation reads; the others are of training, and change no number of a baseline
SETTINGS = (
    *("seed", "quantize", "max_length", "max_new_tokens", "samples", "temperature"),
    *("consistency_prompts", "latency_prompts"),
)
BESIDE_WEIGHTS = (".json", ".jinja", ".jsonl", ".model", ".txt")  # tokenizer, chat template, configuration, rows
FURTHER = ("jinja2", "scipy", "regex", "mlx-cpu", "mlx-metal")  # packages that no result document lists


def place() -> Path:
    """The folder of this user's entries."""
    return cache_folder() / "baselines"


def key(backend: str, device: str, model: Model, data: dict[str, Any], scoring: dict[str, Any], config: Config) -> str:
    """The hash of all that a baseline's numbers and times depend on; the time of day and the machine's load aside."""
    known = {
        "backend": backend,
        "device": device,
        "model": model.describe(),
        "files": _files(model),
        "chat_template": model.chat_template,
        "data": data,
        "scoring": scoring,
        "settings": {name: getattr(config, name) for name in SETTINGS},
        "engram": __version__,
        "code": code(),
        "schema_version": documents.SCHEMA_VERSION,
        "packages": machine.packages() | _further(),
        "hardware": machine.hardware(),
        "environment": machine.environment(),
    }
    return sha256_text(json.dumps(known, sort_keys=True))


@functools.cache
def code(folder: Path = PACKAGE) -> str:
    """One hash of engram's own source files, so that no number outlives the code that made it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def find(folder: Path, name: str, config: Config) -> dict[str, Any] | None:
    """The baseline that was kept under this key, or None; a damaged entry is taken away and is none.

    Answers, times and provenance are those of its own measuring. `recipe` is `config`, from which it differs in
    settings of training alone, so that it compares with a model tuned by it; `reused` says where it came from.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    try:
        document = documents.read(path, "result", "make eval")
        if document["stage"] != "baseline" or document.get("reused") != {"key": name}:
            raise EngramError("another entry's content", where=str(path))
    except (EngramError, OSError):
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    return document | {"recipe": config.as_dict()}


def keep(folder: Path, name: str, document: dict[str, Any]) -> None:
    """Keep a baseline under this key, and no more than MOST of them; where nothing can be written, nothing is kept."""
    with contextlib.suppress(EngramError, OSError):
        documents.write(folder / f"{name}.json", document | {"reused": {"key": name}}, "result")
        entries = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in entries[MOST:]:
            path.unlink()


def _files(model: Model) -> dict[str, str]:
    """The hash of each file of the model's folder that decides, beside its weights, what is asked and understood."""
    found = [path for path in model.path.iterdir() if path.suffix in BESIDE_WEIGHTS and path.is_file()]
    return {path.name: sha256(path) for path in sorted(found)}


def _further() -> dict[str, str]:
    found = {}
    for name in FURTHER:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
