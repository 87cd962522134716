"""YAML read safely, with the place of every value and every problem of the text at once.

Built on PyYAML's event stream: nothing is constructed but mappings, lists and plain scalars, aliases may only
repeat scalars (so nothing can explode), and nesting, size and duplicate keys are checked on the way.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml

from engram.patterns.yaml_places import Place, Places
from engram.support.errors import readable_errors
from engram.support.files import read_bytes
from engram.support.schema import Path
from engram.support.text import shorten, visible

MAX_BYTES = 16 * 1024 * 1024
MAX_VALUES = 1_000_000  # of one file, keys not counted
MAX_DEPTH = 12
MAX_MESSAGE = 300  # characters: a value or key that is quoted may be a megabyte
MAX_FAULTS = 1000  # nobody reads more

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # YAML 1.1, 5.1
_MEANT = {"", *yaml.SafeLoader.yaml_implicit_resolvers}  # with what unquoted text begins that may mean something else
_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp")}


class Fault(NamedTuple):
    """One problem of the YAML text itself."""

    place: Place
    path: Path
    message: str
    fix: str


class Source(NamedTuple):
    """The document, the places of its values (a mapping's entry: its key), and the text's own problems.

    `texts` holds plain scalars that YAML takes for something other than text (`no`, `1.50`), as they are written;
    `broken` the paths whose value could not be made, a fault says why: what stands there in `document` means nothing.
    Below `inside`, a path of keys that the file does not have, stands what it has.
    """

    document: Any
    places: Places
    faults: list[Fault]
    texts: dict[Path, str]
    broken: set[Path]
    inside: Path = ()

    def place(self, path: Path) -> Place:
        """The place of the value at `path`, or of the nearest thing around it."""
        depth = len(self.inside)
        if path[:depth] != self.inside:
            return Place(1, 1)
        document = self.document
        for part in self.inside:
            document = document[part]
        return self.places.find(document, path[depth:])


class _StopError(Exception):
    """Reading cannot go on past this fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def parse(content: bytes) -> Source:
    """Read one YAML document from bytes; never raises, the faults say what is wrong."""
    reader = _Reader()
    document: Any = None
    try:
        text = _decode(content)
        reader.faults += _character_faults(text)
        document = reader.read(text) if not reader.faults else None
    except _StopError as stop:
        reader.faults.append(stop.fault)
    except yaml.MarkedYAMLError as error:
        reader.faults.append(_syntax_fault(error, text))
    return Source(document, reader.places, reader.faults, reader.texts, reader.broken)


def read(path: FilePath) -> Source:
    """`parse` a file; one that is too large is not read at all. Raises EngramError where it cannot be opened."""
    with readable_errors(path, "read this file"):
        size = path.stat().st_size
    if fault := too_large(size):
        return Source(None, Places(), [fault], {}, set())
    return parse(read_bytes(path))


def too_large(size: int) -> Fault | None:
    """What is wrong with a file of `size` bytes, None where it is small enough to be read."""
    if size <= MAX_BYTES:
        return None
    message = f"the file has {size / 2**20:.1f} MiB, at most {MAX_BYTES / 2**20:.0f} MiB are read"
    return Fault(Place(1, 1), (), message, "split it into several files")


def _decode(content: bytes) -> str:
    if fault := too_large(len(content)):
        raise _StopError(fault)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place_after(content[: error.start].decode("utf-8-sig"))
        message = f"not UTF-8: byte 0x{content[error.start]:02x}"
        raise _StopError(Fault(place, (), message, "save the file as UTF-8")) from error


def _place_after(before: str) -> Place:
    return Place(before.count("\n") + 1, len(before) - before.rfind("\n"))


def _character_faults(text: str) -> list[Fault]:
    fix = 'take it out, or write it as an escape in double quotes ("\\x07")'
    return [
        Fault(_place_after(text[: m.start()]), (), f"the control character U+{ord(m.group()):04X} is not allowed", fix)
        for m in itertools.islice(_FORBIDDEN.finditer(text), 20)
    ]


_SYNTAX = {  # part of the parser's message: what is wrong, how to put it right
    "mapping values are not allowed": ("a second `: ` in one line", "put the text that holds it in quotes"),
    "Unicode character escape": ("an escape of half a character", "write the character itself, or \\U and 8 digits"),
    "found unexpected end of stream": ("the file ends inside a quoted text or a bracket", "close it"),
    "unknown escape character": ("an unknown escape", "double the backslash, or use single quotes"),
}


def _syntax_fault(error: yaml.MarkedYAMLError, text: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
    problem = visible(" ".join(str(error.problem or error).split()))
    found = _character_at(text, place)
    if found == "\t":
        return Fault(place, (), "a tab is used where YAML needs spaces", "replace the tab by spaces")
    if "cannot start any token" in problem:
        return Fault(place, (), f"unquoted text cannot begin with {visible(found)}", "put the text in quotes")
    for part, (what, fix) in _SYNTAX.items():
        if part in problem:
            return Fault(place, (), f"not valid YAML: {what}", fix)
    return Fault(place, (), f"not valid YAML: {problem}", "check the quotes, colons and indentation of this line")


def _character_at(text: str, place: Place) -> str:
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", text)  # YAML 1.1's line breaks, which its marks count
    return lines[place.line - 1][place.column - 1 : place.column] if place.line <= len(lines) else ""


class _Reader:
    """Turns the events of one document into plain values."""

    def __init__(self) -> None:
        self.places = Places()
        self.faults: list[Fault] = []
        self.texts: dict[Path, str] = {}
        self.broken: set[Path] = set()
        self.anchors: dict[str, Any] = {}
        self.values = 0
        self.resolver: Any = yaml.SafeLoader("")

    def read(self, text: str) -> Any:
        loader = _LOADER(text)
        try:
            self.next = loader.get_event
            return self.documents()
        finally:
            loader.dispose()

    def documents(self) -> Any:
        document: Any = None
        seen = 0
        while not isinstance(event := self.next(), yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                seen += 1
                if seen > 1:
                    message = "a second document starts here (`---`)"
                    raise _StopError(Fault(_place(event), (), message, "keep one document a file"))
                self.places.begin(_mark(first := self.next()))
                document = self.value(first, ())
        return document

    def value(self, event: Any, path: Path) -> Any:
        self.values += 1
        if self.values > MAX_VALUES:
            message = f"more than {MAX_VALUES:,} values in one file"
            raise _StopError(Fault(_place(event), (), message, "split it into several files"))
        if (kind := event.__class__) is yaml.AliasEvent:
            return self.alias(event, path)
        if len(path) > MAX_DEPTH:
            raise _StopError(Fault(_place(event), (), f"nested deeper than {MAX_DEPTH} levels", "flatten it"))
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
        if event.anchor not in self.anchors:
            message = f"the alias *{event.anchor} has no anchor before it"
            return self.refuse(event, path, message, "put the text in quotes")
        value = self.anchors[event.anchor]
        if isinstance(value, (list, dict)):
            message = f"the alias *{event.anchor} repeats a whole list or mapping; aliases may repeat text only"
            return self.refuse(event, path, message, "write it out")
        return value

    def scalar(self, event: Any, path: Path) -> Any:
        text: str = event.value
        if not event.tag and (not event.implicit[0] or text[:1] not in _MEANT):
            return text  # in quotes, or nothing but text begins so
        tag = event.tag or self.resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == "tag:yaml.org,2002:str" or (not event.tag and tag not in _SCALARS):  # `=` and `<<` mean nothing here
            return event.value
        if tag not in _SCALARS:
            return self.refuse(event, path, f"the tag {tag!r} is not allowed", "take the tag out")
        try:
            value = self.resolver.construct_object(yaml.ScalarNode(tag, event.value))
        except (ValueError, LookupError, OverflowError, yaml.YAMLError, AttributeError):
            return self.refuse(event, path, f"{event.value!r} is not what its tag or form says", "write it in quotes")
        self.texts[path] = event.value
        return value

    def sequence(self, event: Any, path: Path) -> list[Any]:
        self.check_tag(event, path, "seq")
        items: list[Any] = []
        marks: list[int] = []
        while not isinstance(child := self.next(), yaml.SequenceEndEvent):
            marks.append(_mark(child))
            items.append(self.value(child, (*path, len(items))))
        self.places.add(items, marks)
        return items

    def mapping(self, event: Any, path: Path) -> dict[str, Any]:
        self.check_tag(event, path, "map")
        found: dict[str, Any] = {}
        marks: dict[str, int] = {}
        while not isinstance(key_event := self.next(), yaml.MappingEndEvent):
            key = self.key(key_event, path)
            entry = (*path, key)
            if key in found:
                self.fault(key_event, entry, f"the key {key!r} stands twice", "keep one of them")
            marks[key] = _mark(key_event)
            known = len(self.faults)
            found[key] = self.value(self.next(), entry)
            if key == "<<" and not getattr(key_event, "style", None):
                del self.faults[known:], found[key], marks[key]  # what is wrong inside goes away with the key
                self.refuse(key_event, entry, "merge keys (`<<`) are not allowed", "write the entries out")
        self.places.add(found, marks.values())
        return found

    def key(self, event: Any, path: Path) -> str:
        if isinstance(event, yaml.ScalarEvent):
            if event.tag and event.tag != "tag:yaml.org,2002:str":
                self.fault(event, path, f"the tag {event.tag!r} is not allowed", "take the tag out")
            if event.anchor:
                self.anchors[event.anchor] = event.value
            return str(event.value)
        repeated = self.anchors.get(event.anchor or "") if isinstance(event, yaml.AliasEvent) else None
        if isinstance(repeated, str):
            return repeated
        fix = "use text as the key; text that holds { } : or starts with * & needs quotes"
        raise _StopError(Fault(_place(event), path, "a list, mapping or alias is used as a key", fix))

    def check_tag(self, event: Any, path: Path, kind: str) -> None:
        if event.tag and event.tag != f"tag:yaml.org,2002:{kind}":
            self.refuse(event, path, f"the tag {event.tag!r} is not allowed", "take the tag out")

    def refuse(self, event: Any, path: Path, message: str, fix: str) -> None:
        self.broken.add(path)
        self.fault(event, path, message, fix)

    def fault(self, event: Any, path: Path, message: str, fix: str) -> None:
        self.faults.append(Fault(_place(event), path, shorten(message, MAX_MESSAGE), fix))
        if len(self.faults) >= MAX_FAULTS:
            raise _StopError(Fault(_place(event), path, "reading stops here: too many problems", fix))


def _place(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


def _mark(event: Any) -> int:
    """The place of an event as one number: line, and in the lower 32 bits column."""
    return (event.start_mark.line + 1 << 32) + event.start_mark.column + 1  # type: ignore[no-any-return]
