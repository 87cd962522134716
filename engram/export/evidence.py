"""What a run's results say of an adapter: read only where they are of this model and this adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from engram.memory.table import is_memory
from engram.models import adapters, conversion
from engram.models.lora import Lora
from engram.models.model import Model
from engram.plan import documents
from engram.support.errors import EngramError
from engram.support.files import read_bytes, sha256


class Evidence(NamedTuple):
    """A run's tuned answers, its comparison, and the names of its pattern files where the data is there."""

    tuned: dict[str, Any]
    comparison: dict[str, Any]
    patterns: tuple[str, ...]


class Source(NamedTuple):
    """What is exported: a model, its adapter and that one's hash, and the results (None: there are none of it)."""

    model: Model
    folder: Path
    sha256: str
    lora: Lora
    evidence: Evidence | None


def source(model: Model, adapter: Path, place: Path, data: Path, needed: bool) -> Source:
    """Everything that an export is made from; `place` is the folder of the run's results.

    Raises EngramError where the adapter cannot be read, where results are of another adapter or model, and, if they
    are needed, where they are missing.
    """
    if is_memory(adapter):
        what = "a memory is read by engram alone, so it cannot be exported"
        raise EngramError(
            what, where=str(adapter), fix="METHOD=lora exports the adapter; copy a memory's folder as it is"
        )
    digest = adapters.read_adapter(adapter)[1]
    lora = conversion.read(adapter)
    there = (place / "tuned.json").is_file() and (place / "comparison.json").is_file()
    return Source(model, adapter, digest, lora, _evidence(model, digest, place, data) if there or needed else None)


def _evidence(model: Model, digest: str, place: Path, data: Path) -> Evidence:
    tuned = documents.read(place / "tuned.json", "result", "make eval")
    comparison = documents.read(place / "comparison.json", "comparison", "make compare")
    problems = []
    if tuned["adapter"] is None or tuned["adapter"]["sha256"] != digest:
        problems.append("tuned.json: the answers of another adapter")
    if comparison["sources"]["tuned"] != sha256(place / "tuned.json"):
        problems.append("comparison.json: compares another tuned.json")
    if tuned["model"]["weights_sha256"] != model.weights_sha256:
        problems.append(f"tuned.json: of another model than {model.name}")
    if problems:
        what = "the results are not of this adapter, so nothing can be said of the export"
        raise EngramError(what, where=str(place), problems=problems, fix="make eval compare, with the same settings")
    return Evidence(tuned, comparison, _pattern_files(tuned, data))


def _pattern_files(tuned: dict[str, Any], data: Path) -> tuple[str, ...]:
    """The names of the pattern files, from the manifest that the results name."""
    path = data / "manifest.json"
    if not path.is_file() or sha256(path) != tuned["data"]["manifest_sha256"]:
        return ()
    return tuple(entry["file"] for entry in json.loads(read_bytes(path))["inputs"])
