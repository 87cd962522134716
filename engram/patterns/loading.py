"""Pattern files: which files a PATTERNS value names, and YAML -> Pattern, refused with all problems at once."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.patterns import yaml_source
from engram.patterns.yaml_source import Fault, Place, Source
from engram.support import schema
from engram.support.errors import EngramError, readable_errors
from engram.support.files import bundled, sha256_text
from engram.support.text import first, nearest, normalise, shorten, visible

SHOWN_PROBLEMS = 100
Check = tuple[schema.Path, tuple[str, str] | None]  # a path, and the message and the fix where something is wrong
MAX_INPUT, MAX_OUTPUT, MAX_LABEL = 1000, 400, 60  # characters, of filled templates too; as in the schema
_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")  # of a template
FIX = "give a folder of .yaml files, or a pack's name: PATTERNS=DIR"


@dataclass(frozen=True, slots=True)
class Pattern:
    """One input → output pair that the user wants the model to know.

    `id` depends on the normalised input alone, `kind` is the pattern file's name, `place` is `file:line:column $.path`.
    `also` are rewordings of the input; which of them is kept for the test is drawn by `group`, the template or the
    input. A member of a rule has the rule's settings; None is a fact.
    """

    id: str
    input: str
    output: str
    kind: str
    category: str
    place: str
    also: tuple[str, ...] = ()
    group: str = ""
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A category whose members follow from each other, so that some are taught and the others are asked.

    `taught` is how many at most (0: the larger of 8 and a third). A `control` is one that can't be learned.
    """

    taught: int = 0
    control: bool = False


def pattern_id(text: str) -> str:
    """The identity of a pattern: 12 hexadecimal digits of the SHA-256 of its normalised input."""
    return sha256_text(normalise(text))[:12]


def packs() -> dict[str, Path]:
    """The file of each bundled pack by its name, in name order; a pack is taught only where it is named."""
    return {path.stem: path for path in sorted(bundled("patterns").joinpath("packs").glob("*.yaml"))}


def find_files(spec: str | None = None) -> list[Path]:
    """The pattern files of `spec`: a folder, a file, a pack's name, or several with commas; else the bundled ones.

    A file or folder wins over a pack of the same name. Raises EngramError if something named is neither, or where
    a folder holds no `.yaml` or `.yml` file.
    """
    spec = spec or "patterns"
    parts = [spec] if Path(spec).exists() else [part.strip() for part in spec.split(",") if part.strip()]
    if not parts:
        raise EngramError("no pattern file is named", where=spec, fix=FIX)
    return list(dict.fromkeys(path for part in parts for path in _named(part)))


def _named(part: str) -> list[Path]:
    path, known = Path(part), packs()
    folder = bundled(part) if part == "patterns" and not path.exists() else path
    if path.is_file() or (part in known and not path.exists()):
        return [path if path.is_file() else known[part]]
    if not folder.is_dir():
        bare = path.name == part and not path.suffix
        hint = (nearest(part, known) or f", nor a pack: those are {', '.join(known)}") if bare else ""
        raise EngramError(f"no such pattern file or folder{hint}", where=part, fix=FIX)
    with readable_errors(folder, "list this folder"):
        named = [p for p in folder.iterdir() if p.suffix.lower() in (".yaml", ".yml") and not p.name.startswith(".")]
    files = sorted(p for p in named if p.is_file())  # editors and macOS leave hidden ones behind
    if not files:
        fix = "put a pattern file there, see patterns/facts.yaml"
        raise EngramError("no .yaml file in this folder", where=str(folder), fix=fix)
    return files


def load_patterns(files: Sequence[Path]) -> list[Pattern]:
    """Read, validate and expand pattern files, in the order given.

    Raises EngramError with every problem of every file, each as `file:line:column $.path: what; fix`.
    Sound patterns are compared with each other even where something else is wrong.
    """
    patterns: list[Pattern] = []
    problems: list[str] = []
    for found, faults in map(_load, files):
        patterns += found
        problems += faults
    problems += duplicates(patterns)
    if problems:
        what = f"{counted(len(problems), 'problem')} in {counted(len(files), 'pattern file')}"
        fix = "correct these lines, then run `engram validate` again"
        raise EngramError(what, problems=first(problems, SHOWN_PROBLEMS), fix=fix)
    return patterns


def counted(count: int, noun: str) -> str:
    """`1 problem`, `2 problems`."""
    return f"{count} {noun}{'s' if count != 1 else ''}"


def _load(path: Path) -> tuple[list[Pattern], list[str]]:
    """The patterns of a file's sound entries, and its problems in the order of their places."""
    relative = os.path.relpath(path)
    shown = visible(str(path) if relative.startswith("..") else relative)
    source = yaml_source.read(path, path.stem)
    faults = source.faults
    patterns: list[Pattern] = []
    if source.document is None:
        faults = faults or [Fault(Place(1, 1), (), "the file is empty", "add `name:` and `examples:`")]
    else:
        wrong = schema.problems(source.document, "pattern-file", source.texts)
        faults = faults + [Fault(source.place(p.path), *p) for p in wrong if p.path not in source.broken]
        if isinstance(source.document, dict) and len(wrong) < schema.MOST:  # else there may be more than were listed
            entries = _Entries(shown, path.stem, source, {_entry(fault.path) for fault in faults})
            patterns, faults = entries.patterns, faults + entries.faults
    faults.sort(key=lambda fault: fault.place)
    return patterns, [f"{_where(shown, f.place, f.path)}: {visible(f.message)}; {visible(f.fix)}" for f in faults]


def _where(file: str, place: Place, path: schema.Path) -> str:
    return f"{file}:{place.line}:{place.column} {visible(schema.json_path(path))}"


def _entry(path: schema.Path) -> schema.Path:
    """The example, the table or the row of a table that a path leads into."""
    return path[:4] if path[:1] == ("tables",) and path[2:3] == ("rows",) and len(path) > 3 else path[:2]


class _Entries:
    """The patterns of a file's entries, but for the `bad` ones; and the faults that a schema can't express."""

    def __init__(self, file: str, stem: str, source: Source, bad: set[schema.Path]) -> None:
        self.patterns: list[Pattern] = []
        self.faults: list[Fault] = []
        self._file, self._source, self._bad = file, source, bad
        document = source.document
        self._name: str = document["name"] if "name" in document and ("name",) not in bad else stem
        self._fit([(("name",), unfit("name", self._name))])
        self._rules = self._declared(document)
        for path, example in self._sound(document, ("examples",)):
            also = tuple(example.get("also", ()))
            self._add((*path, "input"), (*path, "output"), example, self._category(path, example), also)
        for path, table in self._sound(document, ("tables",)):
            self._expand(path, table)

    def _sound(self, parent: dict[str, Any], path: schema.Path) -> Iterator[tuple[schema.Path, Any]]:
        """The entries of `parent`'s list at `path` that aren't bad, each with its path."""
        entries = parent.get(str(path[-1]), []) if path not in self._bad else []
        return (((*path, i), entry) for i, entry in enumerate(entries) if (*path, i) not in self._bad)

    def _fit(self, found: Iterable[Check]) -> bool:
        """Note the faults among what was found; whether there are none."""
        faults = [Fault(self._source.place(path), path, *wrong) for path, wrong in found if wrong]
        self.faults += faults
        return not faults

    def _category(self, path: schema.Path, entry: dict[str, Any]) -> str:
        category: str = entry.get("category", self._name)
        if "category" in entry:
            self._fit([((*path, "category"), unfit("category", category))])
        return category

    def _declared(self, document: dict[str, Any]) -> dict[str, Rule | None]:
        """What each category is said to be, by `categories` and by the tables; two that contradict are a fault."""
        listed = {} if ("categories",) in self._bad else document.get("categories", {})
        said: list[tuple[schema.Path, str, dict[str, Any]]] = [(("categories", n), n, one) for n, one in listed.items()]
        said += [(p, table.get("category", self._name), table) for p, table in self._sound(document, ("tables",))]
        found: dict[str, Rule | None] = {}
        for path, name, entry in said:
            if path in self._bad or not {"kind", "taught"} & set(entry):
                continue
            kind, most = entry.get("kind", "fact"), entry.get("taught", 0)
            if kind == "fact" and most:
                self._fit([((*path, "taught"), ("facts are all taught", "say `kind: rule`, or take `taught` out"))])
            rule = None if kind == "fact" else Rule(most, kind == "control")
            if found.setdefault(name, rule) != rule:
                what = f"the category {shorten(name, 60)!r} is declared in another way before"
                self._fit([((*path, "kind"), (what, "declare it once, or name another category"))])
        return found

    def _add(
        self, asked: schema.Path, answered: schema.Path, texts: dict[str, str], category: str,
        also: tuple[str, ...], group: str = "",
    ) -> None:  # fmt: skip
        """Add a pattern whose input is at the path `asked` and whose output is at `answered`, if all is fit."""
        question, answer = texts["input"], texts["output"]
        reworded = [((*asked[:-1], "also", i) if asked != answered else asked, unfit("input", text))
                    for i, text in enumerate(also)]  # fmt: skip
        if self._fit([(asked, unfit("input", question)), (answered, unfit("output", answer)), *reworded]):
            where = _where(self._file, self._source.place(asked), asked)
            identity, rule = pattern_id(question), self._rules.get(category)
            found = Pattern(identity, question, answer, self._name, category, where, also, group or identity, rule)
            self.patterns.append(found)

    def _expand(self, path: schema.Path, table: dict[str, Any]) -> None:
        """Add a pattern for each sound row of a table."""
        category, columns = self._category(path, table), table["columns"]
        for at, row in self._sound(table, (*path, "rows")) if self._fit(_table_faults(path, table)) else ():
            if self._fit(_row_faults(at, row, columns)):
                values = dict(zip(columns, row, strict=True))
                also = tuple(_fill(template, values) for template in table.get("also", ()))
                filled = {key: _fill(table[key], values) for key in ("input", "output")}
                self._add(at, at, filled, category, also, table["input"])


def _table_faults(path: schema.Path, table: dict[str, Any]) -> Iterator[Check]:
    columns: list[str] = table["columns"]
    templates: dict[schema.Path, str] = {(key,): table[key] for key in ("input", "output")}
    templates |= {("also", i): template for i, template in enumerate(table.get("also", ()))}
    used: dict[schema.Path, set[str]] = {}
    for key, template in templates.items():
        used[key] = set()
        for match in _FIELD.finditer(template):
            whole, name = match[0], match[1]
            if whole in ("{", "}"):
                yield (*path, *key), (f"a single {whole!r} in a template", "double it to mean the character itself")
            elif name is not None and name not in columns:
                hint = nearest(name, columns) or f"; columns are {', '.join(columns)}"
                yield (*path, *key), (f"no column {shorten(name, 60)!r}{hint}", "name a column, or double the braces")
            elif name is not None:
                used[key].add(name)
        if key[0] == "also" and used[key] != used["input",]:
            asks = ", ".join(sorted(used["input",])) or "none"
            yield (*path, *key), ("a rewording asks with other columns than the input", f"use just these: {asks}")
    for column in dict.fromkeys(columns):
        at = (*path, "columns")
        if columns.count(column) > 1:
            yield at, (f"the column {column!r} is named twice", "rename one of them")
        if column not in used["input",] | used["output",]:
            yield at, (f"the column {column!r} is used in neither template", "use it or take it out")


def _row_faults(path: schema.Path, row: list[str], columns: list[str]) -> Iterator[Check]:
    if len(row) < len(columns):
        missing = ", ".join(columns[len(row) :])
        yield path, (f"the row misses a value for {missing}", f"give {len(columns)} values")
    elif len(row) > len(columns):
        yield path, (f"the row has {len(row)} values for {len(columns)} columns", "take the others out")
    for k, (value, column) in enumerate(zip(row, columns)):
        if not value.strip():
            yield (*path, k), (f"the value for {column!r} is empty", "write some text")


def _fill(template: str, values: dict[str, str]) -> str:
    return _FIELD.sub(lambda match: {"{{": "{", "}}": "}"}.get(match[0]) or values[match[1]], template)


def unfit(key: str, text: str) -> tuple[str, str] | None:
    """Why `text` can't be an `input`, `output`, `category` or `name` (the `key`), and the fix; None if it can."""
    odd = "" if text.isprintable() else text
    if half := next((one for one in odd if "\ud800" <= one <= "\udfff"), None):
        return f"the {key} holds half a character (U+{ord(half):04X})", "write the whole character"
    if all(unicodedata.category(character)[0] in "CZ" for character in text):
        return f"the {key} has nothing to be seen", "write some text or take the entry out"
    if control := next((c for c in odd if unicodedata.category(c) == "Cc" and c not in "\n\t"), None):
        fix = "take it out; in YAML's double quotes double each backslash, or use single quotes"
        return f"the {key} holds the control character U+{ord(control):04X}", fix
    limit = {"input": MAX_INPUT, "output": MAX_OUTPUT}.get(key, MAX_LABEL)
    if len(text) > limit:
        return f"the {key} is {len(text)} characters long, at most {limit} fit", "shorten it"
    if limit == MAX_LABEL and visible(text) != text:
        return f"the {key} holds a control or invisible character", "write plain text in one line"
    return None


def duplicates(patterns: Sequence[Pattern]) -> Iterator[str]:
    """A problem for each input or rewording that came before: with the same answer, or with another."""
    seen: dict[str, Pattern] = {}
    for pattern in patterns:
        for number, question in enumerate((pattern.input, *pattern.also)):
            key = normalise(question)
            earlier = seen.get(key)
            seen.setdefault(key, pattern)
            if earlier is None:
                continue
            said = f"{pattern.place}: the {'rewording' if number else 'input'} {visible(shorten(question, 60))!r}"
            if normalise(earlier.output) == normalise(pattern.output):
                yield f"{said} is already at {earlier.place}; keep one of them"
            else:
                answers = f"{visible(shorten(earlier.output, 40))!r} and {visible(shorten(pattern.output, 40))!r}"
                yield f"{said} contradicts {earlier.place}: {answers}; keep the one right answer"
