"""A folder of patterns to begin with: the two files beside this one, with its name in them."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from engram.patterns.yaml_text import quoted
from engram.support.errors import EngramError, readable_errors
from engram.support.files import BUNDLED, write_text
from engram.support.text import shorten, visible

FILES = ("patterns.yaml", "README.md")


def write(folder: Path) -> list[Path]:
    """Write the files into a folder that is new or empty: all of them, or none; return their paths.

    Raises EngramError where something stands there, naming it, or where it cannot be written.
    """
    texts = {name: _filled(name, folder) for name in FILES}
    with readable_errors(folder, "write this folder"):
        if os.path.lexists(folder):
            _refuse_what_is_there(folder)
            _fill(folder, texts)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _make(folder, texts)
    return [folder / name for name in texts]


def _filled(name: str, folder: Path) -> str:
    title = visible(folder.resolve().name).strip() or "patterns"
    values = {"__NAME__": quoted(shorten(title, 60)), "__TITLE__": title, "__DIR__": visible(shlex.quote(str(folder)))}
    text = (BUNDLED / "scaffold" / name).read_text("utf-8")
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text


def _refuse_what_is_there(folder: Path) -> None:
    fix = "name a new or an empty folder"
    if not folder.is_dir():
        raise EngramError("something that is no folder stands there", where=str(folder), fix=fix)
    if names := sorted(path.name for path in folder.iterdir()):
        listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        raise EngramError(f"the folder is not empty: {listed}", where=str(folder), fix=fix)


def _fill(folder: Path, texts: dict[str, str]) -> None:
    """Into the folder itself: it may be somebody's working folder, and another in its place would not."""
    try:
        for name, text in texts.items():
            write_text(folder / name, text)
    except BaseException:
        for name in texts:
            (folder / name).unlink(missing_ok=True)
        raise


def _make(folder: Path, texts: dict[str, str]) -> None:
    work = folder.parent / f".{folder.name}.{os.getpid()}.part"
    work.mkdir()
    try:
        for name, text in texts.items():
            write_text(work / name, text)
        work.rename(folder)  # fails where something stands there by now, unless it is an empty folder
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
