"""Read YAML safely, with the place of every value and every problem of the text at once.

Built on PyYAML's events, which carry their places. (`yaml.compose` crashes the process on 20 KB of brackets, and takes
three times as long.) Only mappings, lists and plain scalars are constructed; aliases may repeat scalars only, so a
small file can't expand into a large document. Nesting, size and duplicate keys are checked on the way.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml

from engram.support.files import reading
from engram.support.schema import Path
from engram.support.text import end_of, shorten, visible

MAX_BYTES = 16 * 2**20
MAX_VALUES = 1_000_000  # of one file, keys not counted
MAX_DEPTH = 12
MAX_MESSAGE = 300  # characters: a quoted value or key may be a megabyte long

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# YAML 1.1, 5.1; and three line breaks that no editor shows
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MEANT = {"", *yaml.SafeLoader.yaml_implicit_resolvers}  # first characters of unquoted text that may be no text
_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp")}
_TAUGHT = {"input", "output", "also", "rows"}  # keys of an example or a table over what is taught or asked
_SPLIT = "split it into several files"
_SYNTAX = {  # part of the parser's message: what is wrong, how to correct it
    "mapping values are not allowed": ("a second `: ` in one line", "put the text that holds it in quotes"),
    "Unicode character escape": ("an escape of half a character", "write the character itself, or \\U and 8 digits"),
    "found unexpected end of stream": ("the file ends inside a quoted text or a bracket", "close it"),
    "unknown escape character": ("an unknown escape", "double the backslash, or use single quotes"),
}


class Place(NamedTuple):
    """Line and column, both from 1."""

    line: int
    column: int


class Fault(NamedTuple):
    """One problem of the YAML text."""

    place: Place
    path: Path
    message: str
    fix: str


@dataclass
class Source:
    """A document, the places of its values (the key's place for a mapping's entry), and the problems of its text.

    `texts` holds the plain scalars that YAML reads as something other than text (`no`, `1.50`), as written.
    `broken` holds the paths whose value couldn't be read; a fault says why, and the value in `document` is a stand-in.
    """

    document: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    texts: dict[Path, str] = field(default_factory=dict)
    broken: set[Path] = field(default_factory=set)

    def place(self, path: Path) -> Place:
        """The place of the value at `path`, or of the nearest value around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(1, 1))


class _StopError(Exception):
    """Reading can't continue after the fault that these are the fields of."""


def read(path: FilePath, name: str | None = None) -> Source:
    """`parse` a file; raises EngramError if it can't be opened."""
    with reading(path) as file:
        return parse(file.read(MAX_BYTES + 1), name)


def parse(content: bytes, name: str | None = None) -> Source:
    """Read one YAML document from bytes; never raises, the faults say what is wrong.

    With a `name`, a bare list is read as `{name: …, examples: the list}`, the pattern file's short form.
    """
    reader = _Reader(name)
    text = ""
    try:
        if len(content) > MAX_BYTES:
            raise _StopError(Place(1, 1), (), f"the file has more than {MAX_BYTES / 2**20:.0f} MiB", _SPLIT)
        text = content.decode("utf-8-sig")
        reader.faults += _character_faults(text)
        if not reader.faults:
            reader.read(text)
    except _StopError as stop:
        reader.faults.append(Fault(*stop.args))
    except UnicodeDecodeError as error:
        place = Place(*end_of(content[: error.start].decode("utf-8-sig")))
        what = f"not UTF-8: byte 0x{content[error.start]:02x}"
        reader.faults.append(Fault(place, (), what, "save the file as UTF-8"))
    except yaml.MarkedYAMLError as error:
        reader.faults.append(_syntax_fault(error, text))
    return reader


def _character_faults(text: str) -> list[Fault]:
    faults = []
    for found in itertools.islice(_FORBIDDEN.finditer(text), 20):
        what = "invisible line break" if found[0] in "\x85\u2028\u2029" else "control character"
        escaped = f', or write "\\u{ord(found[0]):04x}" in double quotes' if found[0] in "\u2028\u2029" else ""
        place = Place(*end_of(text[: found.start()]))
        faults.append(Fault(place, (), f"the {what} U+{ord(found[0]):04X} is not allowed", f"take it out{escaped}"))
    return faults


def _syntax_fault(error: yaml.MarkedYAMLError, text: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
    problem = visible(" ".join(str(error.problem or error).split()))
    found = text[mark.index : mark.index + 1] if mark else ""
    if found == "\t":
        return Fault(place, (), "a tab is used where YAML needs spaces", "replace the tab by spaces")
    if "cannot start any token" in problem:
        return Fault(place, (), f"unquoted text cannot begin with {visible(found)}", "put the text in quotes")
    for part, (what, fix) in _SYNTAX.items():
        if part in problem:
            return Fault(place, (), f"not valid YAML: {what}", fix)
    return Fault(place, (), f"not valid YAML: {problem}", "check the quotes, colons and indentation of this line")


class _Reader(Source):
    """Turns the events of one document into plain values."""

    def __init__(self, name: str | None) -> None:
        super().__init__()
        self.name = name
        self.anchors: dict[str, Any] = {}
        self.values = 0
        self.resolver: Any = yaml.SafeLoader("")

    def read(self, text: str) -> None:
        loader = _LOADER(text)
        self.text = text
        self.next = loader.get_event
        try:
            while not isinstance(event := self.next(), yaml.StreamEndEvent):
                if isinstance(event, yaml.DocumentStartEvent):
                    if () in self.places:
                        message = "a second document starts here (`---`)"
                        raise _StopError(_place(event), (), message, "keep one document a file")
                    self.root(self.next())
        finally:
            loader.dispose()

    def root(self, event: Any) -> None:
        self.places[()] = _place(event)
        if self.name is not None and isinstance(event, yaml.SequenceStartEvent):
            self.document = {"name": self.name, "examples": self.value(event, ("examples",))}
        else:
            self.document = self.value(event, ())

    def value(self, event: Any, path: Path) -> Any:
        self.values += 1
        if self.values > MAX_VALUES:
            raise _StopError(_place(event), (), f"more than {MAX_VALUES:,} values in one file", _SPLIT)
        if (kind := event.__class__) is yaml.AliasEvent:
            return self.alias(event, path)
        if len(path) > MAX_DEPTH:
            raise _StopError(_place(event), (), f"nested deeper than {MAX_DEPTH} levels", "flatten it")
        if kind is yaml.ScalarEvent:
            value = self.scalar(event, path)
        elif kind is yaml.SequenceStartEvent:
            value = self.sequence(event, path)
        else:
            value = self.mapping(event, path)
        if event.anchor:
            self.anchors[event.anchor] = value
        return value

    def alias(self, event: Any, path: Path) -> Any:
        said, value = f"the alias *{event.anchor}", self.anchors.get(event.anchor, ...)
        if value is ...:
            return self.refuse(event, path, f"{said} has no anchor before it", "put the text in quotes")
        if isinstance(value, (list, dict)):
            what = f"{said} repeats a whole list or mapping; aliases may repeat text only"
            return self.refuse(event, path, what, "write it out")
        return value

    def scalar(self, event: Any, path: Path) -> Any:
        text: str = event.value
        taught = path[:1] in (("examples",), ("tables",)) and not _TAUGHT.isdisjoint(path)
        after = self.text[event.end_mark.index :][:80] if event.implicit[0] and taught else ""
        if comment := re.match(r"[ \t]+#.*", after):
            what = f"a comment ends this text: {shorten(comment[0].strip(), 40)}"
            return self.refuse(event, path, what, "put the text in quotes, or the comment on its own line")
        if not event.tag and (not event.implicit[0] or text[:1] not in _MEANT):
            return text  # in quotes, or nothing but text begins like this
        tag = event.tag or self.resolver.resolve(yaml.ScalarNode, text, event.implicit)
        if tag == "tag:yaml.org,2002:str" or (not event.tag and tag not in _SCALARS):  # `=`, `<<`: plain text here
            return text
        if tag not in _SCALARS:
            return self.refuse(event, path, f"the tag {tag!r} is not allowed", "take the tag out")
        try:
            value = self.resolver.construct_object(yaml.ScalarNode(tag, text))
        except (ValueError, LookupError, OverflowError, yaml.YAMLError, AttributeError):
            return self.refuse(event, path, f"{text!r} is not what its tag or form says", "write it in quotes")
        self.texts[path] = text
        return value

    def sequence(self, event: Any, path: Path) -> list[Any]:
        self.check_tag(event, path, "seq")
        items: list[Any] = []
        while not isinstance(child := self.next(), yaml.SequenceEndEvent):
            at = (*path, len(items))
            self.places[at] = _place(child)
            items.append(self.value(child, at))
        return items

    def mapping(self, event: Any, path: Path) -> dict[str, Any]:
        self.check_tag(event, path, "map")
        found: dict[str, Any] = {}
        while not isinstance(key_event := self.next(), yaml.MappingEndEvent):
            key = self.key(key_event, path)
            at = (*path, key)
            if key in found:
                self.fault(key_event, at, f"the key {key!r} is used twice", "keep one of them")
            self.places[at] = _place(key_event)
            found[key] = self.value(self.next(), at)
        return found

    def key(self, event: Any, path: Path) -> str:
        if isinstance(event, yaml.ScalarEvent):
            self.check_tag(event, path, "str")
            return str(event.value)
        fix = "use text as the key; text that holds { } : or starts with * & needs quotes"
        raise _StopError(_place(event), path, "a list, mapping or alias is used as a key", fix)

    def check_tag(self, event: Any, path: Path, kind: str) -> None:
        if event.tag and event.tag != f"tag:yaml.org,2002:{kind}":
            self.refuse(event, path, f"the tag {event.tag!r} is not allowed", "take the tag out")

    def refuse(self, event: Any, path: Path, message: str, fix: str) -> None:
        self.broken.add(path)
        self.fault(event, path, message, fix)

    def fault(self, event: Any, path: Path, message: str, fix: str) -> None:
        self.faults.append(Fault(_place(event), path, shorten(message, MAX_MESSAGE), fix))


def _place(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)
