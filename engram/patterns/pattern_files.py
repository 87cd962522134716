"""Which files a PATTERNS value names: folders, files, and the bundled packs."""

from __future__ import annotations

from pathlib import Path

from engram.support.errors import EngramError, readable_errors
from engram.support.files import bundled
from engram.support.text import nearest

FIX = "give a folder of .yaml files, or a pack's name: PATTERNS=DIR"


def packs() -> dict[str, Path]:
    """The file of each bundled pack by its name, in name order; a pack is taught only where it is named."""
    return {path.stem: path for path in sorted(bundled("patterns").joinpath("packs").glob("*.yaml"))}


def find_files(spec: str | None = None) -> list[Path]:
    """The pattern files of `spec`: a folder, a file, a pack's name, or several with commas; else the bundled ones.

    What exists here wins over a pack of the same name. Raises EngramError where something named is neither, or where
    a folder holds no `.yaml` or `.yml` file.
    """
    spec = spec or "patterns"
    parts = [spec] if Path(spec).exists() else [part.strip() for part in spec.split(",") if part.strip()]
    if not parts:
        raise EngramError("no pattern file is named", where=spec, fix=FIX)
    return list(dict.fromkeys(path for part in parts for path in _named(part)))


def _named(part: str) -> list[Path]:
    path, known = Path(part), packs()
    if path.is_file():
        return [path]
    if path.is_dir():
        return _files_of(path)
    if part == "patterns":
        return _files_of(bundled("patterns"))
    if part in known:
        return [known[part]]
    bare = path.name == part and not path.suffix
    hint = (nearest(part, known) or f", nor a pack: those are {', '.join(known)}") if bare else ""
    raise EngramError(f"no such pattern file or folder{hint}", where=part, fix=FIX)


def _files_of(folder: Path) -> list[Path]:
    with readable_errors(folder, "list this folder"):
        named = [p for p in folder.iterdir() if p.suffix.lower() in (".yaml", ".yml") and not p.name.startswith(".")]
    files = sorted(p for p in named if p.is_file())  # hidden ones are what editors and macOS leave behind
    if not files:
        raise EngramError(
            "no .yaml file in this folder", where=str(folder), fix="put a pattern file there, see patterns/facts.yaml"
        )
    return files
