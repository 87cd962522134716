"""Checksum lists: recognise a folder by the hashes written with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engram.support.errors import EngramError
from engram.support.files import read_bytes, sha256, write_text
from engram.support.text import first
from engram.support.untrusted import entries

NAME = "SHA256SUMS"


def write(folder: Path, suffixes: Sequence[str] = ()) -> list[str]:
    """List the files in `folder` (of these suffixes alone, if any), as `sha256sum -c` reads it; return the names.

    They are relative to the folder and sorted, the list's own stands last.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and (not suffixes or path.suffix in suffixes)]
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    write_text(folder / NAME, "".join(f"{sha256(folder / name)}  {name}\n" for name in names))
    return [*names, NAME]


def refuse_other_files(out: Path, marker: str) -> None:
    """Raise an EngramError if `out` holds anything but unchanged files of a list that names the file `marker`."""
    if not out.is_dir():
        return
    fix = "name another folder, or take these files away"
    found = {path.relative_to(out).as_posix(): path for path in entries(out, fix) if not path.is_dir()}
    found = {name: path for name, path in found.items() if "__pycache__" not in path.parts}
    listing = found.pop(NAME, None)
    listed = read(listing) if listing else {}
    listed = listed if marker in listed else {}
    other = [f"{name}: not written by this command" for name in sorted(found) if name not in listed]
    other += [f"{name}: changed" for name in sorted(found) if name in listed and sha256(found[name]) != listed[name]]
    if other:
        raise EngramError("other files are in this folder", where=str(out), problems=first(other), fix=fix)


def read(path: Path) -> dict[str, str]:
    """The hash of each file that a list in the form of `sha256sum` names."""
    lines = read_bytes(path).decode("utf-8", "replace").split("\n")
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines if line)}
