"""Text that is on every machine with Python: the standard library's sources and docstrings."""

from __future__ import annotations

import ast
import builtins
import inspect
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "_bundled", "ensurepip"}
    # Lookup tables of thousands of near-identical lines, and a generated copy of the language reference
    # (which `topics` gives as prose).
    | {"encodings", "pydoc_data", "lib2to3", "turtledemo"}
)
SKIPPED_FILES = frozenset({"entities.py", "mimetypes.py", "python-config.py", "this.py"})
HELD_OUT_EVERY = 40  # documents
LONGEST_LINE = 200  # characters; longer lines are tables, not code that a person would read
BUILTIN_TYPES = (str, list, dict, set, frozenset, tuple, bytes, bytearray, int, float, complex, range, slice)


@dataclass(frozen=True)
class Entry:
    """One documented name: `shutil.copy`, "function", `src, dst`, and the first sentence of its docstring."""

    name: str
    kind: str
    parameters: str
    summary: str


@dataclass(frozen=True)
class Library:
    """What the recipe takes from the standard library; every field in a fixed order for one Python release."""

    documents: tuple[str, ...]
    held_out: tuple[str, ...]
    entries: tuple[Entry, ...]
    lines: tuple[str, ...]
    words: tuple[str, ...]


def read_library(folder: Path | None = None) -> Library:
    """Read the standard library of the running Python, or the `.py` files below `folder`.

    `documents` are whole files and reference topics (some 10 million characters). Every 40th of them is kept apart
    in `held_out`, and nothing else comes from it. `entries` are the documented names, `lines` single
    lines of code of 15 to 70 characters, `words` plain English words of the docstrings.
    """
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    named = [(module_name(path.relative_to(root)), _read(path)) for path in source_files(root)]
    if folder is None:
        named.extend(("", topic) for topic in _topics())
    named = [(name, text) for name, text in named if text.strip()]
    held_out = tuple(text for _, text in named[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    del named[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    entries = [entry for name, text in named if name for entry in _entries_of(name, text)]
    if folder is None:
        entries.extend(_builtin_entries())
    documents = tuple(text for _, text in named)
    return Library(documents, held_out, tuple(_unique(entries)), _code_lines(documents), _plain_words(entries))


def source_files(root: Path) -> list[Path]:
    """The library's own `.py` files in sorted order, without tests, tables and installed packages."""

    found: list[Path] = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in SKIPPED_FOLDERS]
        found.extend(Path(folder, name) for name in names if name.endswith(".py") and name not in SKIPPED_FILES)
    # `_sysconfigdata…` holds the paths and flags of one build, not library text.
    wanted = (path for path in found if not path.name.startswith("_sysconfigdata"))
    return sorted(wanted, key=lambda path: path.as_posix())


def module_name(inside: Path) -> str:
    """`json/decoder.py` -> `json.decoder`, `json/__init__.py` -> `json`."""
    parts = list(inside.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read(path: Path) -> str:
    """One file's text without over-long lines; files in another encoding than UTF-8 count as empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""
    return "\n".join(line for line in text.split("\n") if len(line) <= LONGEST_LINE)


def _topics() -> list[str]:
    from pydoc_data.topics import topics

    return [str(topics[name]) for name in sorted(topics)]


def _entries_of(module: str, text: str) -> list[Entry]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    if any(part.startswith("_") for part in module.split(".")):
        return []
    found = [_entry(module, "module", "", ast.get_docstring(tree))]
    found.extend(_entries_in(tree, module, "function"))
    return [entry for entry in found if entry is not None]


def _entries_in(tree: ast.Module | ast.ClassDef, prefix: str, kind: str) -> list[Entry | None]:
    """The public functions and classes of a module, and the methods of its classes."""
    found: list[Entry | None] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            parameters = ", ".join(argument.arg for argument in node.args.args)
            found.append(_entry(f"{prefix}.{node.name}", kind, parameters, ast.get_docstring(node)))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            name = f"{prefix}.{node.name}"
            found.append(_entry(name, "class", "", ast.get_docstring(node)))
            found.extend(_entries_in(node, name, "method"))
    return found


def _builtin_entries() -> list[Entry]:
    """Built-in functions and the methods of the built-in types, which have no Python source to parse."""
    found = [
        _entry(name, "built-in function", "", inspect.getdoc(getattr(builtins, name)))
        for name in sorted(vars(builtins))
        if name[0].islower() and callable(getattr(builtins, name))
    ]
    for owner in BUILTIN_TYPES:
        for name in sorted(vars(owner)):
            if not name.startswith("_"):
                found.append(_entry(f"{owner.__name__}.{name}", "method", "", inspect.getdoc(getattr(owner, name))))
    return [entry for entry in found if entry is not None]


def _entry(name: str, kind: str, parameters: str, docstring: str | None) -> Entry | None:
    summary = first_sentence(docstring or "")
    return Entry(name, kind, parameters, summary) if 15 <= len(summary) <= 160 else None


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring's first paragraph on one line, with a full stop at its end."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    if "->" in paragraph or ">>>" in paragraph or "(" in paragraph[:25]:
        return ""  # a signature, not a sentence
    sentence = re.split(r"(?<=[a-z)])\. ", paragraph)[0].rstrip(" .:")
    return f"{sentence}." if sentence else ""


def _unique(entries: list[Entry]) -> list[Entry]:
    return list({entry.name: entry for entry in entries}.values())


def _code_lines(documents: Sequence[str]) -> tuple[str, ...]:
    """Single lines of code that stand on their own, each once, in the order of the files."""
    kept: dict[str, None] = {}
    for text in documents:
        for line in text.split("\n"):
            code = line.strip()
            if 15 <= len(code) <= 70 and _stands_alone(code):
                kept[code] = None
    return tuple(kept)


def _stands_alone(code: str) -> bool:
    """Begins like a statement, ends like one, and leaves no bracket open."""
    begins = re.match(r"[A-Za-z_][\w.]*( =|\(| \w)", code) is not None
    return begins and code[-1] in ")]:'\"}w" and "`" not in code and code.count("(") == code.count(")")


def _plain_words(entries: list[Entry]) -> tuple[str, ...]:
    counts = Counter(word for entry in entries for word in re.findall(r"\b[a-z]{3,10}\b", entry.summary))
    return tuple(sorted(word for word, count in counts.items() if count >= 4))
