"""Read and write result documents, whole and valid, with their provenance."""

from __future__ import annotations

import datetime
import json
import math
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engram import __version__
from engram.dataset.build import read_manifest
from engram.support import machine, schema, strict_json
from engram.support.errors import EngramError
from engram.support.files import PACKAGE, sha256, sha256_text, write_text

SCHEMA_VERSION = 3  # 2: before rewordings, controls and the KL divergence
CHECKSUM = "checksum"


def provenance() -> dict[str, Any]:
    """Versions, commit, time (UTC) and hardware behind a document; by allow-list, nothing personal."""
    return {
        "engram": __version__,
        "git_commit": machine.git_commit(PACKAGE.parent),
        "created": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "python": platform.python_version(),
        "packages": machine.packages(),
        "hardware": machine.hardware(),
        "environment": machine.environment(),
    }


def data_identity(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The identity of a document's data."""
    return {"manifest_sha256": sha256(folder / "manifest.json"), "seed": manifest["seed"]}


def refuse_changed_data(identity: dict[str, Any], folder: Path) -> None:
    """Raise an EngramError if the data changed after their identity was taken: rows may be mixed."""
    if data_identity(read_manifest(folder), folder) != identity:
        what = "the data changed while they were read"
        raise EngramError(what, where=str(folder), fix="run this again when nothing writes them")


def write(path: Path, document: dict[str, Any], name: str) -> None:
    """Check a document against its schema and write it, whole or absent; numbers are rounded to 6 digits.

    Its last entry is the SHA-256 of the others as they are written, so that no damaged number is ever read.
    """
    written = {key: value for key, value in rounded(document).items() if key != CHECKSUM}
    schema.check(written, name, str(path))
    write_text(path, _dumps(written | {CHECKSUM: sha256_text(_dumps(written))}))


def read(path: Path, name: str, missing: str) -> dict[str, Any]:
    """Read a document and check it against its schema; `missing` is the command that makes it."""
    if not path.is_file():
        raise EngramError("no such result", where=str(path), fix=missing)
    fix = f"rm {path} && {missing}"
    document, problem = parsed(path, fix)
    schema.check(document, name, str(path), fix)
    if problem:
        raise EngramError(problem, where=f"{path} $.{CHECKSUM}", fix=fix)
    return dict(document)


def parsed(path: Path, fix: str) -> tuple[Any, str]:
    """Return a document without its checksum, and the problem with the checksum, if any."""
    document = strict_json.read(path, fix)
    known = document.pop(CHECKSUM, None) if isinstance(document, dict) else None
    intact = known is None or known == sha256_text(_dumps(document))
    return document, "" if intact else "changed since it was written: its checksum is of other content"


def _dumps(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def rounded(value: Any) -> Any:
    """Round every number in a value to the six digits that are written; raises ValueError for one that isn't finite."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"a result holds {value}")
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def differing(one: Mapping[str, Any], other: Mapping[str, Any], fields: Iterable[str]) -> list[str]:
    """Return a line for each field, one level deep, in which two documents differ."""
    lines = []
    for name in fields:
        left, right = one.get(name), other.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            keys = sorted(k for k in {*left, *right} if left.get(k) != right.get(k))
            lines += [f"{name}.{key}: {left.get(key)!r} and {right.get(key)!r}" for key in keys]
        elif left != right:
            lines.append(f"{name}: {left!r} and {right!r}")
    return lines
