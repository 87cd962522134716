"""Check a document against `schemas/<name>.schema.json` (JSON Schema 2020-12)."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.errors import EngramError
from engram.files import bundled
from engram.text import nearest, shorten

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

Path = tuple[str | int, ...]

NAMES = ("pattern-file", "data-row", "manifest", "training", "result", "comparison", "comparisons")
_REFERRED = ("common", "comparison")  # what other schemas refer to

_TYPE_NAMES = {str: "text", bool: "a yes/no value", int: "a number", float: "a number", list: "a list", dict: "a mapping"}


class Problem(NamedTuple):
    """One thing that is wrong: the path into the document, what is wrong, and how to put it right."""

    path: Path
    message: str
    fix: str


def json_path(path: Path) -> str:
    """`('examples', 3, 'output')` as `$.examples[3].output`."""
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def problems(document: object, name: str) -> list[Problem]:
    """Every way in which `document` breaks the schema `name`, in document order."""
    found = [problem for error in _validator(name).iter_errors(document) for problem in _explain(error)]
    return sorted(found, key=lambda problem: [str(part).zfill(9) for part in problem.path])


def check(document: object, name: str, where: str) -> None:
    """Raise an EngramError that lists every problem of `document` if it breaks the schema `name`."""
    if found := problems(document, name):
        lines = [f"{json_path(problem.path)}: {problem.message}; {problem.fix}" for problem in found[:20]]
        more = [f"… and {len(found) - 20} more"] if len(found) > 20 else []
        raise EngramError(
            f"not a valid {name} document (schemas/{name}.schema.json)",
            where=where,
            problems=lines + more,
            fix="make this file anew with the stage that writes it (`make help` lists the stages)",
        )


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    folder = bundled("schemas")
    read = {n: json.loads((folder / f"{n}.schema.json").read_text("utf-8")) for n in {name, *_REFERRED}}
    registry: Registry[Any] = Registry().with_resources(
        (document["$id"], Resource.from_contents(document)) for document in read.values()
    )
    return Draft202012Validator(read[name], registry=registry)


def _explain(error: ValidationError) -> Iterator[Problem]:
    path: Path = tuple(error.absolute_path)
    rule, value = error.validator, error.instance
    match rule:
        case "type":
            yield _wrong_type(path, value, error.validator_value)
        case "required":
            missing = [key for key in error.validator_value if key not in value]
            yield from (Problem(path, f"{key!r} is missing", f"add `{key}:`") for key in missing)
        case "additionalProperties" | "unevaluatedProperties":
            known = list(error.schema.get("properties", {}))
            unknown = [str(key) for key in value if key not in known]
            for key in unknown:
                hint = nearest(key, known) or f"; known are {', '.join(known)}"
                yield Problem((*path, key), f"unknown key {key!r}{hint}", "rename it or take it out")
        case "minLength" | "pattern" if isinstance(value, str) and not value.strip():
            yield Problem(path, "is empty", "write some text or take the entry out")
        case "maxLength":
            limit = error.validator_value
            yield Problem(path, f"is {len(value)} characters long, at most {limit} fit", "shorten it")
        case "minItems":
            yield Problem(path, "is an empty list", "add an entry or take it out")
        case "anyOf" | "oneOf" if error.context:
            yield Problem(path, _one_line(error.message), "see the schema for the forms allowed")
        case _:
            yield Problem(path, _one_line(error.message), "see the schema")


def _wrong_type(path: Path, value: object, wanted: object) -> Problem:
    if wanted == "string" and not isinstance(value, (list, dict)):
        shown = "empty" if value is None else f"{_TYPE_NAMES.get(type(value), 'a date')} for YAML"
        quoted = "" if value is None else f'"{value}"'
        return Problem(path, f"is {shown}, not text", f"write it in quotes: {quoted}" if quoted else "write some text")
    has = "empty" if value is None else _TYPE_NAMES.get(type(value), type(value).__name__)
    names = {"string": "text", "array": "a list", "object": "a mapping", "integer": "a whole number"}
    wants = " or ".join(names.get(str(w), str(w)) for w in (wanted if isinstance(wanted, list) else [wanted]))
    return Problem(path, f"is {has}, not {wants}", f"write {wants} here")


def _one_line(message: str) -> str:
    return shorten(" ".join(message.split()), 200)
