"""Check a document against `schemas/<name>.schema.json` (JSON Schema 2020-12)."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.support.errors import EngramError
from engram.support.files import bundled
from engram.support.text import first, nearest, shorten, visible

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

Path = tuple[str | int, ...]

MOST = 1000  # problems that are looked for; a file may hold a million
_REFERRED = ("common", "comparison", "result")  # what other schemas refer to

_VALUES = {str: "text", bool: "a yes/no value", int: "a number", float: "a number", list: "a list", dict: "a mapping"}
_TYPES = {
    **{"string": "text", "array": "a list", "object": "a mapping", "integer": "a whole number", "number": "a number"},
    **{"boolean": "yes or no", "null": "nothing"},
}


class Problem(NamedTuple):
    """One thing that is wrong: the path into the document, what is wrong, and how to put it right."""

    path: Path
    message: str
    fix: str


def json_path(path: Path) -> str:
    """`('examples', 3, 'output')` as `$.examples[3].output`; a key that is no plain word stands in `['…']`."""
    parts = (f".{one}" if isinstance(one, str) and one.isidentifier() else f"[{one!r}]" for one in path)
    return "$" + "".join(parts)


def problems(document: object, name: str, texts: Mapping[Path, str] | None = None) -> list[Problem]:
    """The ways in which `document` breaks the schema `name`, each once, sorted by path; the first MOST of them.

    `texts` holds values as they stand in the file, by path, where that is not how Python writes them.
    """
    if accepts(name)(document):
        return []
    errors = _validator(name).iter_errors(document)
    found: dict[Problem, None] = {}
    for error in errors:
        found |= dict.fromkeys(itertools.islice(_explain(error, texts or {}), MOST))
        if len(found) >= MOST:
            break
    return sorted(found, key=lambda problem: [str(part).zfill(9) for part in problem.path])[:MOST]


def check(document: object, name: str, where: str, fix: str = "make it again with the stage that writes it") -> None:
    """Raise an EngramError that lists every problem of `document` if it breaks the schema `name`."""
    if found := problems(document, name):
        lines = [visible(f"{json_path(problem.path)}: {problem.message}; {problem.fix}") for problem in found]
        what = f"not a valid {name} document (schemas/{name}.schema.json)"
        raise EngramError(what, where=where, problems=first(lines), fix=fix)


@functools.cache
def accepts(name: str) -> Callable[[object], bool]:
    """The fast check of a schema (jsonschema-rs): a yes is final, a no is for `problems` to confirm and to word."""
    import jsonschema_rs

    is_valid = jsonschema_rs.Draft202012Validator(_read(name), registry=jsonschema_rs.Registry(_referred())).is_valid

    def check(document: object) -> bool:
        try:
            return bool(is_valid(document))
        except ValueError:  # a value that no JSON has: a date, a number that is not finite, half a character
            return False

    return check


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    registry: Registry[Any] = Registry().with_resources((id_, Resource.from_contents(one)) for id_, one in _referred())
    return Draft202012Validator(_read(name), registry=registry)


@functools.cache
def _read(name: str) -> Any:
    return json.loads((bundled("schemas") / f"{name}.schema.json").read_text("utf-8"))


def _referred() -> list[tuple[str, Any]]:
    """The schemas that others refer to, each with its `$id`."""
    return [(_read(name)["$id"], _read(name)) for name in _REFERRED]


def _explain(error: ValidationError, texts: Mapping[Path, str]) -> Iterator[Problem]:
    path: Path = tuple(error.absolute_path)
    value: Any = error.instance
    limit: Any = error.validator_value
    rules: Any = error.schema
    match error.validator:
        case "type":
            yield _wrong_type(path, value, limit if isinstance(limit, list) else [limit], texts.get(path))
        case "required":
            missing = [key for key in limit if key not in value]
            yield from (Problem(path, f"{key!r} is missing", f"add `{key}:`") for key in missing)
        case "additionalProperties" | "unevaluatedProperties":
            known = list(rules.get("properties", {}))
            for key in (str(key) for key in value if key not in known):
                hint = nearest(key, known) or f"; known are {', '.join(known)}"
                yield Problem((*path, key), f"unknown key {shorten(key, 60)!r}{hint}", "rename it or take it out")
        case "minLength" | "pattern" if isinstance(value, str) and not value.strip():
            yield Problem(path, "is empty", "write some text or take the entry out")
        case "maxLength":
            yield Problem(path, f"is {len(value)} characters long, at most {limit} fit", "shorten it")
        case "minItems" if not value:
            yield Problem(path, "is an empty list", "add an entry or take it out")
        case "minItems":
            yield Problem(path, f"holds {len(value)} of at least {limit} entries", "add the others")
        case "maxItems":
            yield Problem(path, f"holds {len(value)} entries, at most {limit} fit", "take the others out")
        case "anyOf" if all(one.validator == "required" for one in error.context or ()):
            keys = [key for form in limit for key in form["required"]]
            yield Problem(path, f"{' or '.join(map(repr, keys))} is missing", f"add `{keys[0]}:`")
        case _:
            message = shorten(" ".join(error.message.split()), 200)
            yield Problem(path, message, f"write {rules.get('description', 'what the schema says')}")


def _wrong_type(path: Path, value: object, wanted: list[str], text: str | None) -> Problem:
    has = "empty" if value is None else _VALUES.get(type(value), "a date")
    wants = " or ".join(_TYPES[one] for one in wanted)
    if "string" in wanted and not isinstance(value, (list, dict)):
        shown = str(value) if text is None else text
        if value is None and not text:
            return Problem(path, f"is empty, not {wants}", "write some text")
        taken = has if text is None else f"{has} for YAML"
        return Problem(path, f"is {taken}, not {wants}", f'write it in quotes: "{shorten(shown, 60)}"')
    quotes = ", in quotes if it begins with [ or {" if "string" in wanted else ""
    return Problem(path, f"is {has}, not {wants}", f"write {wants} here{quotes}")
