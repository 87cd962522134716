"""A JSON Schema as one quick yes or no: Python made of it, for the keywords that schemas of many documents use.

What a compiled check accepts, `jsonschema` accepts too. What it refuses goes to `jsonschema`, which alone says whether
and why. A schema with a keyword that does not stand here is not compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]

_SAID_ONLY = {"$schema", "$id", "$defs", "$comment", "title", "description"}
_CLASSES: dict[str, tuple[type, ...]] = {
    **{"string": (str,), "array": (list,), "object": (dict,), "boolean": (bool,), "null": (type(None),)},
    **{"integer": (int,), "number": (int, float)},  # a bool is of a class of its own, so it is no number
}
_KEYWORDS: dict[type, set[str]] = {
    str: {"minLength", "maxLength", "pattern"},
    list: {"items", "prefixItems", "minItems", "maxItems"},
    dict: {"properties", "required", "additionalProperties"},
}
_ANY = {"type", "enum", "const", "anyOf", "$ref"}


class UnknownKeywordError(ValueError):
    """A schema says something that is not compiled."""


def compile_schema(schema: Mapping[str, Any]) -> Check:
    """The check of a whole schema; raises UnknownKeywordError where it says more than is compiled here."""
    writer = _Writer(schema)
    name = writer.function(schema)
    exec("\n".join(writer.lines), writer.names)  # our own schemas; every text of theirs stands in it by its repr
    check: Check = writer.names[name]
    return check


class _Writer:
    """Writes functions of one value that give False at the first thing that the rules do not allow, else True."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"missing": object()}
        self.count = 0

    def function(self, rules: Any) -> str:
        name, value = self.fresh(), self.fresh()
        before, self.lines = self.lines, [f"def {name}({value}):"]
        self.rules(rules, value, 1)
        self.line(1, "return True")
        self.lines += before
        return name

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def refuse(self, depth: int, condition: str) -> None:
        self.line(depth, f"if {condition}: return False")

    def rules(self, rules: Any, value: str, depth: int) -> None:
        if not isinstance(rules, dict):
            raise UnknownKeywordError(f"{rules!r} for a schema")
        if unknown := set(rules) - _SAID_ONLY - _ANY - set().union(*_KEYWORDS.values()):
            raise UnknownKeywordError(", ".join(sorted(unknown)))
        wanted = rules.get("type", [])
        classes = {one for name in ([wanted] if isinstance(wanted, str) else wanted) for one in _CLASSES[name]}
        if "type" in rules:
            known = " or ".join(f"{value}.__class__ is {_name(one)}" for one in sorted(classes, key=str))
            self.refuse(depth, f"not ({known})")
        self.any_class(rules, value, depth)
        for one, write in ((str, self.text), (list, self.items), (dict, self.entries)):
            if _KEYWORDS[one] & set(rules) and classes == {one}:
                write(rules, value, depth)
            elif _KEYWORDS[one] & set(rules) and (one in classes or "type" not in rules):
                self.line(depth, f"if {value}.__class__ is {_name(one)}:")
                self.line(depth + 1, "pass")
                write(rules, value, depth + 1)

    def any_class(self, rules: Mapping[str, Any], value: str, depth: int) -> None:
        if "$ref" in rules:
            self.rules(self.referred(rules["$ref"]), value, depth)
        if "anyOf" in rules:
            forms = [self.function(form) for form in rules["anyOf"]]
            self.refuse(depth, f"not ({' or '.join(f'{form}({value})' for form in forms)})")
        for known in [*([rules["enum"]] if "enum" in rules else []), *([[rules["const"]]] if "const" in rules else [])]:
            if not all(isinstance(one, str) for one in known):  # 1, 1.0 and True are one or several, as one sees it
                raise UnknownKeywordError("enum or const of something that is no text")
            self.refuse(depth, f"{value}.__class__ is not str or {value} not in {tuple(known)!r}")

    def referred(self, reference: str) -> Any:
        if not reference.startswith("#/"):
            raise UnknownKeywordError(f"$ref to {reference}")
        found: Any = self.root
        for part in reference[2:].split("/"):
            found = found[part]
        return found

    def size(self, value: str, depth: int, least: int, most: int | None) -> None:
        if least > 0:
            self.refuse(depth, f"len({value}) < {least!r}")
        if most is not None:
            self.refuse(depth, f"len({value}) > {most!r}")

    def text(self, rules: Mapping[str, Any], value: str, depth: int) -> None:
        self.size(value, depth, rules.get("minLength", 0), rules.get("maxLength"))
        if "pattern" in rules:
            name = self.fresh()
            self.names[name] = re.compile(rules["pattern"]).search
            self.refuse(depth, f"{name}({value}) is None")

    def items(self, rules: Mapping[str, Any], value: str, depth: int) -> None:
        self.size(value, depth, rules.get("minItems", 0), rules.get("maxItems"))
        first = rules.get("prefixItems", [])
        for place, one in enumerate(first):
            item = self.fresh()
            self.line(depth, f"if len({value}) > {place}:")
            self.line(depth + 1, f"{item} = {value}[{place}]")
            self.rules(one, item, depth + 1)
        if "items" in rules:
            item = self.fresh()
            self.line(depth, f"for {item} in {value}{f'[{len(first)}:]' if first else ''}:")
            self.line(depth + 1, "pass")
            self.rules(rules["items"], item, depth + 1)

    def entries(self, rules: Mapping[str, Any], value: str, depth: int) -> None:
        known, required = rules.get("properties", {}), rules.get("required", [])
        closed = not rules.get("additionalProperties", True)
        if rules.get("additionalProperties", True) not in (True, False):
            raise UnknownKeywordError("additionalProperties with a schema")
        for key in (key for key in required if key not in known):
            self.refuse(depth, f"{key!r} not in {value}")
        found = self.fresh()
        self.line(depth, f"{found} = {sum(key in required for key in known)}")
        for key, one in known.items():
            item = self.fresh()
            self.line(depth, f"{item} = {value}.get({key!r}, missing)")
            if key in required:
                self.refuse(depth, f"{item} is missing")
                self.rules(one, item, depth)
                continue
            self.line(depth, f"if {item} is not missing:")
            self.line(depth + 1, f"{found} += 1")
            self.rules(one, item, depth + 1)
        if closed:
            self.refuse(depth, f"len({value}) != {found}")


def _name(one: type) -> str:
    return "None.__class__" if one is type(None) else one.__name__
