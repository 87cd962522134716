"""Pattern files written as YAML, so that what is read back is what was given."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path

from engram.support.errors import EngramError, readable_errors
from engram.support.files import BUNDLED, write_text
from engram.support.text import shorten, visible


def quoted(text: str) -> str:
    """`text` as a double-quoted YAML scalar in one line; whatever cannot be seen is an escape.

    JSON's escapes are YAML's as well, and what YAML forbids, folds or takes for a line break is not printable.
    """
    line = json.dumps(text, ensure_ascii=False)
    return line if line.isprintable() else "".join(map(_escaped, line))


def pattern_file(name: str, source: str, rows: Iterable[tuple[str, str, str | None]]) -> str:
    """A pattern file of examples: each row's input, output and category, or no category; `source` is said on top."""
    lines = [f"# Imported from {source}", f"name: {quoted(name)}", "examples:"]
    for text, answer, category in rows:
        lines += [f"  - input: {quoted(text)}", f"    output: {quoted(answer)}"]
        if category is not None:
            lines.append(f"    category: {quoted(category)}")
    return "\n".join(lines) + "\n"


def _escaped(character: str) -> str:
    code = ord(character)
    if character.isprintable():
        return character
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


FILES = ("patterns.yaml", "README.md")


def write_scaffold(folder: Path) -> list[Path]:
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
