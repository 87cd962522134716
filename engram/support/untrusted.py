"""Check folders from others: required files, and no links or names that lead out of them."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path

from engram.support.errors import EngramError
from engram.support.files import read_bytes
from engram.support.text import visible

INDEX = "model.safetensors.index.json"
MOST = 10_000  # entries of a folder that is looked through; a model's or an adapter's has a few


def refuse_links(folder: Path, fix: str) -> None:
    """Raise an EngramError if a file of this folder is a link that leads out of it, or it has over MOST entries.

    Else a model or an adapter could name a private file of this machine as its own text. The hub's cache keeps the
    files of `snapshots/<revision>` in `blobs`, so there these count as the folder's own.
    """
    try:
        home = folder.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads round in a circle, before Python 3.13
        raise EngramError("this folder cannot be reached", where=str(folder), fix=fix) from error
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    out = [path for path in sorted(entries(home, fix)) if path.is_symlink() and not _within(path, homes)]
    if out:
        names = [visible(path.relative_to(home).as_posix()) for path in out]
        raise EngramError("links lead out of this folder", where=str(folder), problems=names[:20], fix=fix)


def entries(folder: Path, fix: str) -> list[Path]:
    """The files and folders in a folder and below it; what goes away meanwhile, or may not be read, is passed over.

    Raises EngramError if there are more than MOST: it may be a whole disk.
    """
    below = (Path(at, name) for at, folders, files in os.walk(folder) for name in (*folders, *files))
    found = list(islice(below, MOST + 1))
    if len(found) > MOST:
        raise EngramError(f"more than {MOST:,} files and folders in this folder", where=str(folder), fix=fix)
    return found


def missing_files(folder: Path) -> list[str]:
    """What a model's folder lacks; the files that its index names count. Raises EngramError for names that lead out."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        missing.append("tokenizer.json")
    if (folder / INDEX).is_file():
        return missing + [name for name in shards(folder) if not (folder / name).is_file()]
    if not (folder / "model.safetensors").is_file():
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        missing.append("model.safetensors" + (" (pickled weights are never loaded)" if pickled else ""))
    return missing


def shards(folder: Path) -> list[str]:
    """The weight files that a model's index names, in name order.

    Raises EngramError if the index cannot be read or names anything but a safetensors file of this folder.
    """
    try:
        names = sorted(set(json.loads(read_bytes(folder / INDEX))["weight_map"].values()))
        wrong = [name for name in names if not name.endswith(".safetensors") or Path(name).name != name]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EngramError("not an index of weights", where=INDEX, fix="take another MODEL") from error
    if wrong or not names:
        what = "names of weight files that are none of this folder"
        raise EngramError(what, where=INDEX, problems=[visible(name) for name in wrong[:20]], fix="take another MODEL")
    return names


def _within(path: Path, homes: list[Path]) -> bool:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # it leads nowhere, or round in a circle
        return True
    return any(target.is_relative_to(home) for home in homes)
