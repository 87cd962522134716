"""Import CSV, TSV, JSON Lines or a JSON list: a pattern file with exactly their pairs, or every line it can't hold."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engram.patterns import yaml_source
from engram.patterns.loading import SHOWN_PROBLEMS, Pattern, counted, duplicates, pattern_id, unfit
from engram.patterns.writing import pattern_file, quoted
from engram.support import strict_json
from engram.support.errors import EngramError
from engram.support.files import read_bytes, write_text
from engram.support.strict_json import JSONError
from engram.support.text import first, nearest, shorten, visible

TABLES, RECORDS = (".csv", ".tsv"), (".jsonl", ".ndjson", ".json")
DELIMITERS = (",", ";", "\t", "|")
INPUTS = ("input", "prompt", "question")
OUTPUTS = ("output", "completion", "answer", "response")
CATEGORY = "category"


class Wanted(NamedTuple):
    """The caller's options: names of columns, whether extra ones may be dropped, and the form of a table."""

    input: str | None = None
    output: str | None = None
    category: str | None = None
    ignore_extra: bool = False
    no_header: bool = False
    delimiter: str | None = None
    quotes: bool | None = None  # whether fields may be in double quotes; None: in CSV


class Row(NamedTuple):
    """One input → output pair read at `place` (`file:line`); without a category it gets the pattern file's name."""

    place: str
    input: str
    output: str
    category: str | None


class _UnfitError(ValueError):
    """Why a record, or a table from `line` on, can't be used: `what; fix`."""

    def __init__(self, reason: str, line: int = 1) -> None:
        super().__init__(reason)
        self.line = line


def bring_in(files: Sequence[Path], out: Path, wanted: Wanted) -> list[Pattern]:
    """Write the pairs of `files` to the new pattern file `out`; return its patterns.

    Raises EngramError, and writes nothing, if `out` exists, with every line that a pattern file can't hold, and
    with every input that comes twice. The file is written only after its text was read back to the same pairs.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise EngramError("a pattern file's name ends in .yaml", where=str(out), fix="give such a name: --out")
    if os.path.lexists(out):
        raise EngramError("this file exists already and is left unchanged", where=str(out), fix="name another: --out")
    if wrong := unfit("name", out.stem):
        raise EngramError(wrong[0], where=str(out), fix="give another name: --out")
    found = [one for file in files for one in _read(file, wanted)]
    rows = [one for one in found if isinstance(one, Row)]
    patterns = [Pattern(pattern_id(r.input), *r[1:3], out.stem, r.category or out.stem, r.place) for r in rows]
    problems = [one for one in found if isinstance(one, str)] + [*duplicates(patterns)]
    listed = ", ".join(visible(str(file)) for file in files)
    if problems:
        what, fix = counted(len(problems), "problem"), "correct these lines, or take them out; nothing was written"
        raise EngramError(f"{what} in {listed}", problems=first(problems, SHOWN_PROBLEMS), fix=fix)
    if not rows:
        raise EngramError("nothing to import: there is no row", where=listed, fix="give files that hold rows")
    text = pattern_file(out.stem, quoted(", ".join(file.name for file in files)), [row[1:4] for row in rows])
    source = yaml_source.parse(text.encode())
    if source.faults:  # of its size alone
        what = f"as one pattern file, {source.faults[0].message}"
        raise EngramError(what, where=listed, fix="import them in parts")
    read = [(entry["input"], entry["output"], entry.get("category")) for entry in source.document["examples"]]
    if read != [row[1:4] for row in rows]:
        raise RuntimeError(f"{out}: reading the text back gives other pairs")
    write_text(out, text)
    return patterns


def _read(file: Path, wanted: Wanted) -> Iterator[Row | str]:
    """Each row of a file, or in its place `file:line: what; fix`."""
    suffix, name = file.suffix.lower(), visible(str(file))
    if suffix not in (*TABLES, *RECORDS):
        yield f"{name}: no known kind of file; known are {', '.join((*TABLES, *RECORDS))}"
        return
    content = read_bytes(file)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield f"{name}:{line}: not UTF-8: byte 0x{content[error.start]:02x}; save the file as UTF-8"
    else:
        yield from _table(name, text, wanted, suffix) if suffix in TABLES else _records(name, text, wanted)


def _row(place: str, record: Mapping[str, object], fields: _Fields) -> Iterator[Row | str]:
    category = fields.category if fields.category and record.get(fields.category) is not None else None
    problems: list[Row | str] = []
    for name in (*fields.inputs, fields.output, *([category] if category else [])):
        value = record.get(name)
        if value is None:
            problems.append(f"{place}: {name!r} is missing or empty; write some text or take the entry out")
        elif not isinstance(value, str):
            problems.append(f"{place}: {name!r} is {shorten(json.dumps(value), 40)}, not text; write it in quotes")
    if not problems:
        head, *more = (str(record[name]) for name in fields.inputs)
        kind = str(record[category]) if category else ""
        found = Row(place, "\n".join([head, *filter(None, more)]), str(record[fields.output]), kind or None)
        wrong = [unfit(key, text) for key, text in zip(("input", "output", CATEGORY), found[1:4]) if text is not None]
        problems = [f"{place}: {one[0]}; {one[1]}" for one in wrong if one] or [found]
    yield from problems


class _Fields(NamedTuple):
    """The columns or keys that hold the parts of the input, the output and the category."""

    inputs: tuple[str, ...]
    output: str
    category: str | None


def _choose(names: Sequence[str], wanted: Wanted) -> _Fields:
    """The fields among `names`: the wanted ones, or else those with a known name.

    Alpaca's `instruction` and `input` make the input together. Raises _UnfitError, also where a column would be lost.
    """
    words = {name.strip().casefold(): name for name in names}
    if wanted.input is None and "instruction" in words:
        inputs = tuple(words[word] for word in ("instruction", "input") if word in words)
    else:
        inputs = (_one(names, words, wanted.input, "input", INPUTS),)
    output = _one(names, words, wanted.output, "output", OUTPUTS)
    category = words.get(CATEGORY)
    if wanted.category is not None:
        category = _one(names, words, wanted.category, CATEGORY, ())
    if category in (*inputs, output) or output in inputs:
        raise _UnfitError("one column can't be two things; name another")
    _refuse_extra([name for name in names if name not in {*inputs, output, category}], wanted)
    return _Fields(inputs, output, category)


def _one(names: Sequence[str], words: Mapping[str, str], asked: str | None, what: str, known: Sequence[str]) -> str:
    has = f": there is {', '.join(repr(shorten(name, 40)) for name in names[:10])}" if names else ""
    if asked is not None:
        if asked in names:
            return asked
        raise _UnfitError(f"there is no {asked!r}{nearest(asked, names) or has}; name one: --{what}")
    found = [words[word] for word in known if word in words]
    if len(found) == 1:
        return found[0]
    if found:
        raise _UnfitError(f"{' and '.join(map(repr, found))} may each be the {what}; name one: --{what}")
    raise _UnfitError(f"no column is known as the {what}{has}; name it: --{what}")


def _refuse_extra(names: Sequence[str], wanted: Wanted) -> None:
    if names and not wanted.ignore_extra:
        listed = ", ".join(repr(shorten(name, 40)) for name in names[:10])
        raise _UnfitError(f"a pattern has no place for {listed}; leave them out with --ignore-extra")


def _table(name: str, text: str, wanted: Wanted, suffix: str) -> Iterator[Row | str]:
    """The rows of a table, which the standard library's csv module reads strictly."""
    try:
        plain = suffix == ".tsv" if wanted.quotes is None else not wanted.quotes
        delimiter, names, fields = _layout(text, wanted, ("\t",) if suffix == ".tsv" else DELIMITERS, plain)
        lines = _lines(text, delimiter, plain)
        if not wanted.no_header:
            next(lines)
        for line, values in lines:
            if wanted.quotes is None and plain and any(len(v) > 1 and v[0] == v[-1] == '"' for v in values):
                yield f"{name}:{line}: a field in quotes, which TSV has none of; say --quotes or --no-quotes"
            elif len(values) == len(names):
                yield from _row(f"{name}:{line}", dict(zip(names, values, strict=True)), fields)
            else:
                what = f"{len(values)} fields, and the table has {len(names)} columns"
                yield f"{name}:{line}: {what}; quote a text that holds {delimiter!r}, or add what is missing"
    except _UnfitError as reason:
        yield f"{name}:{reason.line}: {reason}"


def _layout(text: str, wanted: Wanted, delimiters: tuple[str, ...], plain: bool) -> tuple[str, list[str], _Fields]:
    """The delimiter under which the first record has the wanted columns, with their names and fields."""
    found: list[tuple[str, list[str], _Fields]] = []
    reasons: list[tuple[int, _UnfitError]] = []
    for delimiter in (wanted.delimiter,) if wanted.delimiter else delimiters:
        head: list[str] = []
        try:
            _, head = next(_lines(text, delimiter, plain), (0, head))
            found.append((delimiter, *_columns(head, wanted)))
        except _UnfitError as reason:
            reasons.append((len(head), reason))
    if len(found) == 1:
        return found[0]
    if found:
        listed = " and ".join(repr(delimiter) for delimiter, *_ in found)
        raise _UnfitError(f"{listed} may each separate the columns; say which: --delimiter")
    raise max(reasons, key=lambda reason: reason[0])[1]


def _columns(head: list[str], wanted: Wanted) -> tuple[list[str], _Fields]:
    if not head:
        raise _UnfitError("there is no row; write a line that names the columns, and rows")
    names = [str(number) for number in range(1, len(head) + 1)] if wanted.no_header else head
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _UnfitError(f"the column {twice[0]!r} is named twice; rename one of them")
    if wanted.no_header:
        category = wanted.category or ("3" if len(names) > 2 else None)
        wanted = wanted._replace(input=wanted.input or "1", output=wanted.output or "2", category=category)
    return names, _choose(names, wanted)


def _lines(text: str, delimiter: str, plain: bool) -> Iterator[tuple[int, list[str]]]:
    """Each record that isn't a blank line, with its first line; in `plain` text quotes are characters."""
    source = io.StringIO(text, newline="")
    quoting: Any = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    reader = csv.reader(source, delimiter=delimiter, strict=True, quoting=quoting)
    line = 1
    try:
        for values in reader:
            if values:
                yield line, values
            line = reader.line_num + 1
    except csv.Error as error:
        what = f"no valid table: {error}; check the quotes from this line on"
        if "field limit" in str(error):
            what = f"a field of more than {csv.field_size_limit():,} characters; shorten it, or close its quotes"
        raise _UnfitError(what, line) from error


def _records(name: str, text: str, wanted: Wanted) -> Iterator[Row | str]:
    """The rows of JSON Lines or one JSON list: messages, prompt and completion, Alpaca, or named keys."""
    if text.lstrip()[:1] == "[":
        try:
            for number, record in enumerate(strict_json.parse(text.encode())):
                yield from _record(f"{name} $[{number}]", record, wanted)
        except JSONError as error:
            separator = " " if error.place.startswith("$") else ":"
            yield f"{name}{separator}{error.place}: not JSON: {error.what}; correct this list"
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield from _record(f"{name}:{number}", strict_json.parse(line.encode()), wanted)
            except JSONError as error:
                yield f"{name}:{number}: not JSON: {error.what}; write one whole object here"


def _record(place: str, record: object, wanted: Wanted) -> Iterator[Row | str]:
    try:
        if not isinstance(record, dict):
            raise _UnfitError("not an object; write one in braces for each row")
        if "messages" in record and wanted.input is None:
            record = _asked(record, wanted)
        yield from _row(place, record, _choose([*record], wanted))
    except _UnfitError as reason:
        yield f"{place}: {reason}"


def _asked(record: Mapping[str, Any], wanted: Wanted) -> dict[str, Any]:
    """A conversation of one question and one answer as a record with the keys `input` and `output`."""
    category = wanted.category or CATEGORY
    _refuse_extra([key for key in record if key not in ("messages", category)], wanted)
    messages = record["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _UnfitError("'messages' is not a list of objects; write role and content of each")
    roles = [message.get("role") for message in messages]
    if roles != ["user", "assistant"]:
        listed = ", ".join(shorten(str(role), 20) for role in roles[:6]) + (", …" if len(roles) > 6 else "")
        raise _UnfitError(f"a pattern is one user's and one assistant's message, not: {listed or 'none'}; take it out")
    keys = dict.fromkeys(key for message in messages for key in message if key not in ("role", "content"))
    _refuse_extra([*keys], wanted)
    question, answer = (message.get("content") for message in messages)
    kept = {category: record[category]} if category in record else {}
    return {"input": question, "output": answer, **kept}
