"""Pattern files: YAML -> Pattern, refused with all their problems at once."""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from engram import schema
from engram.errors import EngramError
from engram.files import bundled, read_bytes, sha256_text
from engram.text import nearest, normalise, shorten, visible
from engram.yaml_source import MAX_BYTES, Place, Source, parse

SHOWN_PROBLEMS = 100


@dataclass(frozen=True)
class Pattern:
    """One input → output pair that the user wants the model to know.

    `id` depends on the normalised input alone, `kind` is the pattern file's name, `place` is `file:line:column`.
    """

    id: str
    input: str
    output: str
    kind: str
    category: str
    place: str


class Problem(NamedTuple):
    """One line of the refusal: where, what, how to put it right."""

    where: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}; {self.fix}"


def pattern_id(text: str) -> str:
    """The identity of a pattern: 12 hexadecimal digits of the SHA-256 of its normalised input."""
    return sha256_text(normalise(text))[:12]


def find_files(spec: str | None = None) -> list[Path]:
    """The pattern files of `spec`: a folder, a file, or several with commas between; the bundled ones by default.

    Raises EngramError where one does not exist or a folder holds no `.yaml` or `.yml` file.
    """
    if not spec or spec == "patterns" and not Path(spec).exists():
        return _files_of(bundled("patterns"))
    return [path for part in spec.split(",") if part.strip() for path in _files_of(Path(part.strip()))]


def load_patterns(files: Sequence[Path]) -> list[Pattern]:
    """Read, validate and expand pattern files, in the order given.

    Raises EngramError with every problem of every file, each as `file:line:column $.path: what; fix`.
    """
    patterns: list[Pattern] = []
    problems: list[Problem] = []
    for path in files:
        found, wrong = _load_file(path)
        patterns += found
        problems += wrong
    problems += _duplicates(patterns)
    if problems:
        raise _refusal(problems, len(files))
    return patterns


def near_duplicate(one: str, other: str) -> bool:
    """Whether two inputs with the same answer say the same but for a character or two (difflib ratio ≥ 0.94)."""
    matcher = difflib.SequenceMatcher(None, _folded(one), _folded(other), autojunk=False)
    return matcher.real_quick_ratio() >= 0.94 and matcher.quick_ratio() >= 0.94 and matcher.ratio() >= 0.94


@functools.lru_cache(maxsize=65536)
def _folded(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold())) or normalise(text)


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise EngramError("no such pattern file or folder", where=str(path), fix="give a folder of .yaml files: PATTERNS=DIR")
    files = sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml") and p.is_file())
    if not files:
        raise EngramError("no .yaml file in this folder", where=str(path), fix="put a pattern file there, see patterns/facts.yaml")
    return files


def _refusal(problems: list[Problem], files: int) -> EngramError:
    lines = [str(problem) for problem in problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        lines.append(f"… and {len(problems) - SHOWN_PROBLEMS} more")
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    return EngramError(
        f"{count} in {files} pattern file{'s' if files != 1 else ''}",
        problems=lines,
        fix="put these lines right, then run `engram validate` again",
    )


def _load_file(path: Path) -> tuple[list[Pattern], list[Problem]]:
    shown = visible(_relative(path))
    if path.stat().st_size > MAX_BYTES:
        size = f"{path.stat().st_size / 2**20:.0f} MiB"
        return [], [Problem(f"{shown}:1:1 $", f"the file has {size}, at most 64 MiB are read", "split it into several files")]
    source = parse(read_bytes(path))
    problems = [_at(shown, f.place, f.path, f.message, f.fix) for f in source.faults]
    if source.document is None and problems:
        return [], problems
    document = source.document
    if isinstance(document, list):  # the plan's bare form: a list of examples
        source = _wrapped(source, path.stem)
        document = source.document
    wrong = schema.problems(document, "pattern-file")
    problems += [_at(shown, source.place(p.path), p.path, p.message, p.fix) for p in wrong]
    if problems or not isinstance(document, dict):
        return [], problems or [Problem(f"{shown}:1:1 $", "the file is empty", "add `name:` and `examples:`")]
    patterns, wrong_rows = _expand(shown, source)
    return patterns, wrong_rows + [p for pattern in patterns for p in _encodable(pattern)]


def _wrapped(source: Source, name: str) -> Source:
    def moved(path: schema.Path) -> schema.Path:
        return ("examples", *path)

    places = {moved(path): place for path, place in source.places.items()}
    return Source({"name": name, "examples": source.document}, places, source.faults)


def _relative(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _at(file: str, place: Place, path: schema.Path, message: str, fix: str) -> Problem:
    where = f"{file}:{place.line}:{place.column} {visible(schema.json_path(path))}"
    return Problem(where, visible(message), visible(fix))


def _expand(file: str, source: Source) -> tuple[list[Pattern], list[Problem]]:
    document = source.document
    patterns, problems = [], []
    for i, example in enumerate(document.get("examples", ())):
        patterns.append(_pattern(file, source, ("examples", i), document["name"], example, example))
    for i, table in enumerate(document.get("tables", ())):
        wrong = list(_table_problems(file, source, ("tables", i), table))
        problems += wrong
        if not wrong:
            for j, row in enumerate(table["rows"]):
                values = dict(zip(table["columns"], row, strict=True))
                filled = {key: _fill(table[key], values) for key in ("input", "output")}
                patterns.append(_pattern(file, source, ("tables", i, "rows", j), document["name"], table, filled))
    return patterns, problems


def _pattern(
    file: str, source: Source, path: schema.Path, name: str, entry: dict[str, Any], texts: dict[str, Any]
) -> Pattern:
    place = source.place((*path, "input"))
    category = entry.get("category", name)
    where = f"{file}:{place.line}:{place.column}"
    return Pattern(pattern_id(texts["input"]), texts["input"], texts["output"], name, category, where)


_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def _fill(template: str, values: dict[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        whole = match.group(0)
        return {"{{": "{", "}}": "}"}.get(whole) or values[match.group(1)]

    return _FIELD.sub(replace, template)


def _table_problems(file: str, source: Source, path: schema.Path, table: dict[str, Any]) -> Iterator[Problem]:
    columns: list[str] = table["columns"]

    def problem(tail: schema.Path, message: str, fix: str) -> Problem:
        return _at(file, source.place((*path, *tail)), (*path, *tail), message, fix)

    for column in sorted({c for c in columns if columns.count(c) > 1}):
        yield problem(("columns",), f"the column {column!r} stands twice", "rename one of them")
    used: set[str] = set()
    for key in ("input", "output"):
        for match in _FIELD.finditer(table[key]):
            name = match.group(1)
            if match.group(0) in "{}":
                yield problem((key,), f"a single {match.group(0)!r} in a template", "double it to mean the character itself")
            elif name is not None and name not in columns:
                hint = nearest(name, columns) or f"; columns are {', '.join(columns)}"
                yield problem((key,), f"no column {name!r}{hint}", "name a column, or double the braces")
            elif name is not None:
                used.add(name)
    for column in columns:
        if column not in used:
            yield problem(("columns",), f"the column {column!r} is used in neither template", "use it or take it out")
    for j, row in enumerate(table["rows"]):
        if len(row) < len(columns):
            missing = ", ".join(columns[len(row) :])
            yield problem(("rows", j), f"the row misses a value for {missing}", f"give {len(columns)} values")
        elif len(row) > len(columns):
            yield problem(("rows", j), f"the row has {len(row)} values for {len(columns)} columns", "take the others out")
        for k, value in enumerate(row[: len(columns)]):
            if not value.strip():
                yield problem(("rows", j, k), f"the value for {columns[k]!r} is empty", "write some text")


def _encodable(pattern: Pattern) -> Iterator[Problem]:
    for key, text in (("input", pattern.input), ("output", pattern.output), ("category", pattern.category)):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            yield Problem(pattern.place, f"the {key} holds half a character (U+{code:04X})", "write the whole character")


def _duplicates(patterns: Sequence[Pattern]) -> list[Problem]:
    seen: dict[str, Pattern] = {}
    problems = []
    for pattern in patterns:
        first = seen.setdefault(normalise(pattern.input), pattern)
        if first is pattern:
            continue
        text = visible(shorten(pattern.input, 60))
        if normalise(first.output) == normalise(pattern.output):
            message, fix = f"the input {text!r} stands already at {first.place}", "keep one of them"
        else:
            answers = f"{visible(shorten(first.output, 40))!r} and {visible(shorten(pattern.output, 40))!r}"
            message = f"the input {text!r} contradicts {first.place}: {answers}"
            fix = "keep the one right answer"
        problems.append(Problem(pattern.place, message, fix))
    return problems
