"""The model card of an export: its sources, its measured figures, and how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from engram.memory.table import is_memory
from engram.models import adapters, conversion
from engram.models.adapters import Lora
from engram.models.model import REGISTRY, Model
from engram.models.tokenizer import Encoder
from engram.plan import documents
from engram.support import console
from engram.support.errors import EngramError
from engram.support.files import read_bytes, sha256
from engram.support.text import filled

TEMPLATE = Path(__file__).with_name("card.md.j2")


class Evidence(NamedTuple):
    """A run's tuned answers, its comparison, and the names of its pattern files if the data is there."""

    tuned: dict[str, Any]
    comparison: dict[str, Any]
    patterns: tuple[str, ...]


class Source(NamedTuple):
    """What is exported: a model, its adapter with its hash, and the run's results, None without results."""

    model: Model
    folder: Path
    sha256: str
    lora: Lora
    evidence: Evidence | None


def source(model: Model, adapter: Path, place: Path, data: Path, needed: bool) -> Source:
    """Read everything that an export is made from; `place` is the folder of the run's results.

    Raises EngramError for an unreadable adapter, results of another adapter or model, and missing ones if `needed`.
    """
    if is_memory(adapter):
        what = "a memory is read by engram alone, so it cannot be exported"
        fix = "METHOD=lora exports the adapter; copy a memory's folder instead"
        raise EngramError(what, where=str(adapter), fix=fix)
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
        what = "the results are not of this adapter, so the export has no evidence"
        raise EngramError(what, where=str(place), problems=problems, fix="make eval compare, with the same settings")
    manifest = data / "manifest.json"
    known = manifest.is_file() and sha256(manifest) == tuned["data"]["manifest_sha256"]
    files = [entry["file"] for entry in json.loads(read_bytes(manifest))["inputs"]] if known else []
    return Evidence(tuned, comparison, tuple(files))


def text(source: Source, document: Mapping[str, Any], encoder: Encoder) -> str:
    """The card, Markdown with YAML front matter, of the export that `document` describes."""
    differing = {row["id"]: row for check in document["checks"] for row in check["differing"]}
    return filled(
        TEMPLATE,
        document=document,
        source=source,
        base=REGISTRY.get(source.model.name) or source.model.name,
        known=licence(source.model),
        differing=[*differing.values()],
        ends=encoder.tokenizer.convert_ids_to_tokens(sorted(encoder.stop_ids)),
        quoted=_quoted,
        **{shown.__name__: shown for shown in (console.percent, console.interval, console.number, console.bounds)},
    )


def licence(model: Model) -> str:
    """The licence in the base model's card; empty where there is none."""
    path = model.path / "README.md"
    if not path.is_file():
        return ""
    found = re.match(r"---\n(.*?)\n---\n", read_bytes(path).decode("utf-8", "replace"), re.S)
    named = re.search(r"^license: *([\w.-]+) *$", found[1], re.M) if found else None
    return named[1] if named else ""


def _quoted(answer: str) -> str:
    """An answer as JSON text in a code span, so that nothing in it is read as Markdown."""
    return "`" + json.dumps(answer, ensure_ascii=False).replace("`", "'") + "`"
