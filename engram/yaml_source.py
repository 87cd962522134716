"""YAML read safely, with the place of every value and every problem of the text at once.

Built on PyYAML's event stream: nothing is constructed but mappings, lists and plain scalars, aliases may only
repeat scalars (so nothing can explode), and nesting, size and duplicate keys are checked on the way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

from engram.schema import Path

MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 12

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp")}


class Place(NamedTuple):
    """Line and column, both from 1."""

    line: int
    column: int


class Fault(NamedTuple):
    """One problem of the YAML text itself."""

    place: Place
    path: Path
    message: str
    fix: str


class Source(NamedTuple):
    """The document, the place of each value by its path, and the text's own problems."""

    document: Any
    places: dict[Path, Place]
    faults: list[Fault]

    def place(self, path: Path) -> Place:
        """The place of the value at `path`, or of the nearest thing around it."""
        while path not in self.places and path:
            path = path[:-1]
        return self.places.get(path, Place(1, 1))


class _Stop(Exception):
    """Reading cannot go on past this fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def parse(content: bytes) -> Source:
    """Read one YAML document from bytes; never raises, the faults say what is wrong."""
    reader = _Reader()
    try:
        text = _decode(content)
        document = reader.read(text)
    except _Stop as stop:
        return Source(None, reader.places, [*reader.faults, stop.fault])
    except yaml.MarkedYAMLError as error:
        return Source(None, reader.places, [*reader.faults, _syntax_fault(error)])
    except yaml.reader.ReaderError as error:
        fault = _character_fault(content.decode("utf-8"), error)
        return Source(None, reader.places, [*reader.faults, fault])
    return Source(document, reader.places, reader.faults)


def _decode(content: bytes) -> str:
    if len(content) > MAX_BYTES:
        size = f"{len(content) / 2**20:.0f} MiB"
        raise _Stop(Fault(Place(1, 1), (), f"the file has {size}, at most 64 MiB are read", "split it into several files"))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        place = Place(before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        message = f"not UTF-8: byte 0x{content[error.start]:02x}"
        raise _Stop(Fault(place, (), message, "save the file as UTF-8")) from error


def _syntax_fault(error: yaml.MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
    problem = " ".join(str(error.problem or error).split())
    if "'\\t'" in problem or "tab character" in problem:
        return Fault(place, (), "a tab is used where YAML needs spaces", "replace the tab by spaces")
    if "control characters" in problem or "special characters" in problem:
        return Fault(place, (), "a control character that YAML does not allow", "write it as an escape in double quotes")
    fix = "check the quotes, colons and indentation of this line"
    return Fault(place, (), f"not valid YAML: {problem}", fix)


def _character_fault(text: str, error: yaml.reader.ReaderError) -> Fault:
    position = error.position if isinstance(error.position, int) and error.position >= 0 else 0
    before = text[:position]
    place = Place(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
    code = error.character if isinstance(error.character, int) else ord(str(error.character)[0])
    message = f"the control character U+{code:04X} is not allowed in YAML"
    return Fault(place, (), message, 'take it out, or write it as an escape in double quotes ("\\u0007")')


class _Reader:
    """Turns the events of one document into plain values."""

    def __init__(self) -> None:
        self.places: dict[Path, Place] = {}
        self.faults: list[Fault] = []
        self.anchors: dict[str, Any] = {}
        self.resolver = yaml.SafeLoader("")

    def read(self, text: str) -> Any:
        self.events = iter(yaml.parse(text, Loader=_LOADER))
        document: Any = None
        seen = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                seen += 1
                if seen > 1:
                    message = "a second document starts here (`---`)"
                    raise _Stop(Fault(_place(event), (), message, "keep one document a file"))
                document = self.value(next(self.events), ())
        return document

    def value(self, event: Any, path: Path) -> Any:
        self.places[path] = _place(event)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, path)
        if len(path) > MAX_DEPTH:
            raise _Stop(Fault(_place(event), (), f"nested deeper than {MAX_DEPTH} levels", "flatten it"))
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self.sequence(event, path)
        else:
            value = self.mapping(event, path)
        if event.anchor:
            self.anchors[event.anchor] = value
        return value

    def alias(self, event: Any, path: Path) -> Any:
        if event.anchor not in self.anchors:
            self.fault(event, path, f"the alias *{event.anchor} has no anchor before it", f"define &{event.anchor} first")
            return None
        value = self.anchors[event.anchor]
        if isinstance(value, (list, dict)):
            message = f"the alias *{event.anchor} repeats a whole list or mapping; aliases may repeat text only"
            self.fault(event, path, message, "write it out")
            return None
        return value

    def scalar(self, event: Any, path: Path) -> Any:
        tag = event.tag or self.resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag not in _SCALARS:
            self.fault(event, path, f"the tag {tag!r} is not allowed", "take the tag out")
            return None
        if tag == "tag:yaml.org,2002:str":
            return event.value
        try:
            return self.resolver.construct_object(yaml.ScalarNode(tag, event.value))
        except (ValueError, yaml.YAMLError, AttributeError):
            self.fault(event, path, f"{event.value!r} is not what its tag or form says", "write it in quotes")
            return None

    def sequence(self, event: Any, path: Path) -> list[Any]:
        self.check_tag(event, path, "seq")
        items: list[Any] = []
        while not isinstance(child := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(child, (*path, len(items))))
        return items

    def mapping(self, event: Any, path: Path) -> dict[str, Any]:
        self.check_tag(event, path, "map")
        found: dict[str, Any] = {}
        while not isinstance(key_event := next(self.events), yaml.MappingEndEvent):
            key = self.key(key_event, path)
            value = self.value(next(self.events), (*path, key))
            if key in found:
                self.fault(key_event, (*path, key), f"the key {key!r} stands twice", "keep one of them")
            found[key] = value
            self.places[(*path, key)] = _place(key_event) if isinstance(value, (list, dict)) else self.places[(*path, key)]
        return found

    def key(self, event: Any, path: Path) -> str:
        if isinstance(event, yaml.ScalarEvent):
            if event.value == "<<" and not event.style:
                self.fault(event, path, "merge keys (`<<`) are not allowed", "write the entries out")
            return str(event.value)
        if isinstance(event, yaml.AliasEvent) and isinstance(self.anchors.get(event.anchor), str):
            return str(self.anchors[event.anchor])
        fix = "use text as the key; text that holds { } : or starts with * & needs quotes"
        raise _Stop(Fault(_place(event), path, "a list, mapping or alias is used as a key", fix))

    def check_tag(self, event: Any, path: Path, kind: str) -> None:
        if event.tag and event.tag != f"tag:yaml.org,2002:{kind}":
            self.fault(event, path, f"the tag {event.tag!r} is not allowed", "take the tag out")

    def fault(self, event: Any, path: Path, message: str, fix: str) -> None:
        self.faults.append(Fault(_place(event), path, message, fix))


def _place(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)
