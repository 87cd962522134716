"""Result documents: provenance, and reading and writing them whole and valid."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any

from engram import __version__, json_source, machine, schema
from engram.errors import EngramError
from engram.files import PACKAGE, sha256, write_text

SCHEMA_VERSION = 2


def provenance() -> dict[str, Any]:
    """What made a document: versions, commit, time (UTC), hardware; by allow-list, nothing personal."""
    import platform

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
    """What identifies the data a document speaks of."""
    return {"manifest_sha256": sha256(folder / "manifest.json"), "seed": manifest["seed"]}


def write(path: Path, document: dict[str, Any], name: str) -> None:
    """Check a document against its schema and write it, whole or absent; numbers are rounded to 6 digits."""
    written = rounded(document)
    schema.check(written, name, str(path))
    write_text(path, json.dumps(written, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read(path: Path, name: str, missing: str) -> dict[str, Any]:
    """Read a document and check it against its schema; `missing` is the command that makes it."""
    if not path.is_file():
        raise EngramError("no such result", where=str(path), fix=missing)
    document = json_source.read(path, f"rm {path} && {missing}")
    schema.check(document, name, str(path), f"rm {path} && {missing}")
    checked: dict[str, Any] = document
    return checked


def rounded(value: Any) -> Any:
    """The value with every number in it as it is written: six digits. Raises ValueError for one that is not finite."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"a result holds {value}")
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
