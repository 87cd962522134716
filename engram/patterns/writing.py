"""Write pattern files: text that reads back exactly, and a folder of patterns to begin with."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from engram.support.errors import EngramError, readable_errors
from engram.support.files import BUNDLED, writing
from engram.support.text import shorten, visible

SCAFFOLD = ("patterns.yaml", "README.md")


def quoted(text: str) -> str:
    """`text` as a double-quoted YAML scalar in one line, with invisible characters as escapes.

    JSON's escapes are YAML's as well, and what YAML forbids, folds or takes for a line break is not printable.
    """
    line = json.dumps(text, ensure_ascii=False)
    return "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in line)


def pattern_file(name: str, source: str, rows: Iterable[tuple[str, str, str | None]]) -> str:
    """A pattern file of examples: each row is input, output and category (or None); `source` is named on top."""
    lines = [f"# Imported from {source}", f"name: {quoted(name)}", "examples:"]
    for text, answer, category in rows:
        lines += [f"  - input: {quoted(text)}", f"    output: {quoted(answer)}"]
        if category is not None:
            lines.append(f"    category: {quoted(category)}")
    return "\n".join(lines) + "\n"


def write_scaffold(folder: Path) -> list[Path]:
    """Write a first pattern file and a README into a new or empty folder; return their paths.

    Raises EngramError if the folder holds something, naming it, or where it can't be written.
    """
    fix = "name a new or an empty folder"
    with readable_errors(folder, "write this folder"):
        if os.path.lexists(folder) and not folder.is_dir():
            raise EngramError("this is no folder", where=str(folder), fix=fix)
        if names := sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []:
            listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            raise EngramError(f"the folder is not empty: {listed}", where=str(folder), fix=fix)
    title = visible(folder.resolve().name).strip() or "patterns"
    values = {"__NAME__": quoted(shorten(title, 60)), "__TITLE__": title, "__DIR__": visible(shlex.quote(str(folder)))}
    with ExitStack() as stack:
        for name in SCAFFOLD:
            text = (BUNDLED / "scaffold" / name).read_text("utf-8")
            for mark, value in values.items():
                text = text.replace(mark, value)
            stack.enter_context(writing(folder / name)).write_text(text, "utf-8")
    return [folder / name for name in SCAFFOLD]
