"""The cache of baselines: a model without an adapter always gives the same answers, so it is asked once.

An entry is a whole result document, named by the hash of everything that its numbers depend on, the code included.
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
# the settings that an evaluation reads; the others are for training, and change no number of a baseline
SETTINGS = (
    *("seed", "quantize", "max_length", "max_new_tokens", "samples", "temperature"),
    *("consistency_prompts", "latency_prompts"),
)
BESIDE_WEIGHTS = (".json", ".jinja", ".jsonl", ".model", ".txt")  # tokenizer, chat template, configuration, rows


def place() -> Path:
    """The folder of this user's entries."""
    return cache_folder() / "baselines"


def key(backend: str, device: str, model: Model, data: dict[str, Any], scoring: dict[str, Any], config: Config) -> str:
    """The hash of everything that a baseline's numbers and times depend on, except the machine's load."""
    files = sorted(path for path in model.path.iterdir() if path.suffix in BESIDE_WEIGHTS and path.is_file())
    known = {
        "backend": backend,
        "device": device,
        "model": model.describe(),
        "files": {path.name: sha256(path) for path in files},
        "chat_template": model.chat_template,
        "data": data,
        "scoring": scoring,
        "settings": {name: getattr(config, name) for name in SETTINGS},
        "engram": __version__,
        "code": code(),
        "schema_version": documents.SCHEMA_VERSION,
        "packages": {one.name: one.version for one in metadata.distributions()},
        "hardware": machine.hardware(),
        "environment": machine.environment(),
    }
    return sha256_text(json.dumps(known, sort_keys=True))


@functools.cache
def code(folder: Path = PACKAGE) -> str:
    """One hash of engram's source files, so that no number outlives the code that made it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def find(folder: Path, name: str, config: Config) -> dict[str, Any] | None:
    """The baseline that was kept under this key, or None; a damaged entry is removed.

    Answers, times and provenance are those of the measurement. `recipe` becomes `config`, which differs only in
    settings of training, so that the baseline compares with a model tuned by it; `reused` holds the key.
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
    """Keep a baseline under this key, and at most MOST of them; a folder that can't be written is no error."""
    with contextlib.suppress(EngramError, OSError):
        documents.write(folder / f"{name}.json", document | {"reused": {"key": name}}, "result")
        entries = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in entries[MOST:]:
            path.unlink()
