"""A folder that a command wrote whole, known again by its list of hashes: what is not on it is not ours to replace."""

from __future__ import annotations

from pathlib import Path

from engram.errors import EngramError
from engram.files import read_bytes, sha256, write_text

NAME = "SHA256SUMS"
_SHOWN = 20


def write(folder: Path) -> list[str]:
    """Write the list of every file in `folder`, as `sha256sum -c` reads it; return their names, the list's last."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_text(folder / NAME, "".join(f"{sha256(folder / name)}  {name}\n" for name in names))
    return [*names, NAME]


def refuse_other_files(out: Path, marker: str) -> None:
    """Raise an EngramError where `out` holds anything but unchanged files of a list that names the file `marker`."""
    if not out.is_dir():
        return
    found = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if not path.is_dir()}
    found = {name: path for name, path in found.items() if "__pycache__" not in path.parts}
    listed = _read(found.pop(NAME, None), marker)
    other = [f"{name}: not written by this command" for name in sorted(found) if name not in listed]
    other += [f"{name}: changed" for name in sorted(found) if name in listed and sha256(found[name]) != listed[name]]
    if other:
        more = [f"… and {len(other) - _SHOWN} more"] if len(other) > _SHOWN else []
        fix = "name another folder, or take these files away"
        raise EngramError("other files are in this folder", where=str(out), problems=other[:_SHOWN] + more, fix=fix)


def _read(path: Path | None, marker: str) -> dict[str, str]:
    """The hash of each file on a list; nothing where it does not name the marker."""
    text = read_bytes(path).decode("utf-8", "replace") if path else ""
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in text.split("\n") if line)}
    return sums if marker in sums else {}
