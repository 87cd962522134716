"""Pattern files: YAML -> Pattern, refused with all their problems at once."""

from __future__ import annotations

import functools
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from engram.patterns import yaml_source
from engram.patterns.yaml_places import Place
from engram.patterns.yaml_source import Fault, Source
from engram.support import schema
from engram.support.errors import EngramError, readable_errors
from engram.support.files import bundled, sha256_text
from engram.support.marks import repeats
from engram.support.spool import Spool
from engram.support.text import nearest, normalise, shorten, visible

SHOWN_PROBLEMS = 100
Keep = Callable[[tuple[str, ...]], None]  # takes the fields of a pattern
MAX_INPUT, MAX_OUTPUT, MAX_LABEL = 1000, 400, 60  # characters, of templates once filled too; as in the schema


@dataclass(frozen=True, slots=True)
class Pattern:
    """One input → output pair that the user wants the model to know.

    `id` depends on the normalised input alone, `kind` is the pattern file's name, `place` is `file:line:column $.path`.
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


def load_patterns(files: Sequence[Path]) -> list[Pattern]:
    """The patterns of `stored_patterns` in memory."""
    return list(stored_patterns(files))


def stored_patterns(files: Sequence[Path]) -> Spool[Pattern]:
    """Read, validate and expand pattern files, in the order given, one in memory at a time.

    Raises EngramError with every problem of every file, each as `file:line:column $.path: what; fix`.
    Sound patterns are held against each other even where something else is wrong.
    """
    patterns = Spool(Pattern)
    found = itertools.chain(
        itertools.chain.from_iterable(_load_file(path, patterns) for path in files), duplicates(patterns)
    )
    shown = [str(problem) for problem in itertools.islice(found, SHOWN_PROBLEMS)]
    if shown:
        raise _refusal(shown, len(shown) + sum(1 for _ in found), len(files))
    return patterns


def _refusal(shown: list[str], count: int, files: int) -> EngramError:
    more = [f"… and {count - len(shown)} more"] if count > len(shown) else []
    return EngramError(
        f"{count} problem{'s' if count != 1 else ''} in {files} pattern file{'s' if files != 1 else ''}",
        problems=shown + more,
        fix="put these lines right, then run `engram validate` again",
    )


def _load_file(path: Path, patterns: Spool[Pattern]) -> list[Problem]:
    shown = visible(_relative(path))
    faults = _read(shown, path.stem, yaml_source.read(path), patterns.add)
    return [_problem(shown, fault) for fault in sorted(faults, key=lambda fault: fault.place)]


def _read(file: str, stem: str, source: Source, keep: Keep) -> list[Fault]:
    if source.document is None:
        return source.faults or [Fault(Place(1, 1), (), "the file is empty", "add `name:` and `examples:`")]
    if isinstance(source.document, list):  # the plan's bare form: a list of examples
        source = _wrapped(source, stem)
    wrong = schema.problems(source.document, "pattern-file", source.texts)
    faults = source.faults + [Fault(source.place(p.path), *p) for p in wrong if p.path not in source.broken]
    if not isinstance(source.document, dict) or len(wrong) >= schema.MOST:  # there may be more than were looked for
        return faults
    return faults + _expand(file, stem, source, {_entry(fault.path) for fault in faults}, keep)


def _entry(path: schema.Path) -> schema.Path:
    """The example, the table or the row of a table that a path leads into."""
    return path[:4] if path[:1] == ("tables",) and path[2:3] == ("rows",) and len(path) > 3 else path[:2]


def _wrapped(source: Source, name: str) -> Source:
    def moved(path: schema.Path) -> schema.Path:
        return ("examples", *path)

    return source._replace(
        document={"name": name, "examples": source.document},
        faults=[fault._replace(path=moved(fault.path)) for fault in source.faults],
        texts={moved(path): text for path, text in source.texts.items()},
        broken={moved(path) for path in source.broken},
        inside=("examples",),
    )


def _relative(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _where(file: str, place: Place, path: schema.Path) -> str:
    return f"{file}:{place.line}:{place.column} {visible(schema.json_path(path))}"


def _problem(file: str, fault: Fault) -> Problem:
    return Problem(_where(file, fault.place, fault.path), visible(fault.message), visible(fault.fix))


def _expand(file: str, stem: str, source: Source, bad: set[schema.Path], keep: Keep) -> list[Fault]:
    """Keeps the pattern of every entry that is not `bad`; what is wrong that a schema cannot see."""
    name = source.document["name"] if "name" in source.document and ("name",) not in bad else stem
    faults = _label_faults(source, ("name",), name)

    def add(path: schema.Path, texts: dict[str, str], category: str) -> None:
        if wrong := list(_text_faults(source, path, texts)):
            faults.extend(wrong)
            return
        where = _where(file, source.place(path), path)
        keep((pattern_id(texts["input"]), texts["input"], texts["output"], name, category, where))

    for path, example in _sound(source.document, ("examples",), bad):
        faults += _label_faults(source, (*path, "category"), example.get("category", ""))
        add((*path, "input"), example, example.get("category", name))
    for path, table in _sound(source.document, ("tables",), bad):
        faults += _label_faults(source, (*path, "category"), table.get("category", ""))
        wrong = list(_table_faults(source, path, table))
        faults += wrong
        for at, row in _sound(table, (*path, "rows"), bad) if not wrong else ():
            if unfit := list(_row_faults(source, at, row, table["columns"])):
                faults += unfit
                continue
            values = dict(zip(table["columns"], row, strict=True))
            add(at, {key: _fill(table[key], values) for key in ("input", "output")}, table.get("category", name))
    return faults


def _sound(parent: dict[str, Any], path: schema.Path, bad: set[schema.Path]) -> Iterator[tuple[schema.Path, Any]]:
    """The entries of `parent`'s list at `path` that are not bad, each with its path."""
    entries = parent.get(str(path[-1]), []) if path not in bad else []
    return (((*path, i), entry) for i, entry in enumerate(entries) if (*path, i) not in bad)


def _label_faults(source: Source, path: schema.Path, label: str) -> list[Fault]:
    wrong = _unfit_label(str(path[-1]), label) if label else None
    return [Fault(source.place(path), path, *wrong)] if wrong else []


@functools.lru_cache(maxsize=1024)
def _unfit_label(key: str, text: str) -> tuple[str, str] | None:
    return unfit(key, text)


def unfit(key: str, text: str) -> tuple[str, str] | None:
    """What makes `text` no `input`, `output`, `category` or `name` (the `key`), and the fix; else None."""
    half = None if text.isascii() else next((one for one in text if "\ud800" <= one <= "\udfff"), None)
    if half:
        return f"the {key} holds half a character (U+{ord(half):04X})", "write the whole character"
    if all(unicodedata.category(character)[0] in "CZ" for character in text):
        return f"the {key} has nothing to be seen", "write some text or take the entry out"
    limit = {"input": MAX_INPUT, "output": MAX_OUTPUT}.get(key, MAX_LABEL)
    if len(text) > limit:
        return f"the {key} is {len(text)} characters long, at most {limit} fit", "shorten it"
    if limit == MAX_LABEL and visible(text) != text:
        return f"the {key} holds a control or invisible character", "write plain text in one line"
    return None


def _text_faults(source: Source, path: schema.Path, texts: dict[str, str]) -> Iterator[Fault]:
    for key in ("input", "output"):
        at = (*path[:-1], key) if path[-1] == "input" else path
        if wrong := unfit(key, texts[key]):
            yield Fault(source.place(at), at, *wrong)


_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def _fill(template: str, values: dict[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        whole = match.group(0)
        return {"{{": "{", "}}": "}"}.get(whole) or values[match.group(1)]

    return _FIELD.sub(replace, template)


def _table_faults(source: Source, path: schema.Path, table: dict[str, Any]) -> Iterator[Fault]:
    columns: list[str] = table["columns"]
    used: set[str] = set()
    for key in ("input", "output"):
        yield from _template_faults(source, (*path, key), table[key], columns, used)
    at = (*path, "columns")
    for column in dict.fromkeys(columns):
        if columns.count(column) > 1:
            yield Fault(source.place(at), at, f"the column {column!r} stands twice", "rename one of them")
        if column not in used:
            message = f"the column {column!r} is used in neither template"
            yield Fault(source.place(at), at, message, "use it or take it out")


def _template_faults(
    source: Source, path: schema.Path, template: str, columns: list[str], used: set[str]
) -> Iterator[Fault]:
    for match in _FIELD.finditer(template):
        name = match.group(1)
        if match.group(0) in ("{", "}"):
            message, fix = f"a single {match.group(0)!r} in a template", "double it to mean the character itself"
        elif name is not None and name not in columns:
            hint = nearest(name, columns) or f"; columns are {', '.join(columns)}"
            message, fix = f"no column {shorten(name, 60)!r}{hint}", "name a column, or double the braces"
        else:
            used.update({name} if name is not None else ())
            continue
        yield Fault(source.place(path), path, message, fix)


def _row_faults(source: Source, path: schema.Path, row: list[str], columns: list[str]) -> Iterator[Fault]:
    if len(row) < len(columns):
        missing = ", ".join(columns[len(row) :])
        yield Fault(source.place(path), path, f"the row misses a value for {missing}", f"give {len(columns)} values")
    elif len(row) > len(columns):
        message = f"the row has {len(row)} values for {len(columns)} columns"
        yield Fault(source.place(path), path, message, "take the others out")
    for k, (value, column) in enumerate(zip(row, columns)):
        if not value.strip():
            at = (*path, k)
            yield Fault(source.place(at), at, f"the value for {column!r} is empty", "write some text")


def duplicates(patterns: Sequence[Pattern]) -> Iterator[Problem]:
    """Each pattern whose input stands before, in the order given: with the same answer, or with another."""

    def keys() -> Iterator[str]:
        return (normalise(pattern.input) for pattern in patterns)

    for index, earlier in repeats(keys, len(patterns), lambda at: normalise(patterns[at].input)):
        first, pattern = patterns[earlier], patterns[index]
        text = visible(shorten(pattern.input, 60))
        if normalise(first.output) == normalise(pattern.output):
            message, fix = f"the input {text!r} stands already at {first.place}", "keep one of them"
        else:
            answers = f"{visible(shorten(first.output, 40))!r} and {visible(shorten(pattern.output, 40))!r}"
            message = f"the input {text!r} contradicts {first.place}: {answers}"
            fix = "keep the one right answer"
        yield Problem(pattern.place, message, fix)


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
