"""The schemas are schemas, and what breaks one is said in words."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from packs import refusal

from engram.support import schema
from engram.support.files import bundled
from engram.support.schema import json_path, problems

FILES = {path.name.removesuffix(".schema.json"): path for path in sorted(bundled("schemas").glob("*.json"))}
READ = {f"engram:{name}": json.loads(path.read_text("utf-8")) for name, path in FILES.items()}


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (part["$ref"],) if "$ref" in part else ()
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_every_schema_has_its_name() -> None:
    assert {name: schema["$id"] for name, schema in READ.items()} == {name: name for name in READ}


@pytest.mark.parametrize("name", sorted(READ))
def test_every_schema_is_one_whose_references_lead_somewhere(name: str) -> None:
    assert READ[name]["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(READ[name])
    for reference in references(READ[name]):
        document, _, pointer = reference.partition("#")
        part = READ[document or name]
        for step in pointer.strip("/").split("/") if pointer else ():
            part = part[step]
        assert isinstance(part, dict)


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"common"}))
def test_every_schema_can_be_used_and_refuses_what_is_empty(name: str) -> None:
    assert problems({}, name) and problems(None, name) and problems([], name)


@pytest.mark.parametrize("name", sorted(READ))
def test_mappings_with_named_keys_say_what_else_they_take(name: str) -> None:
    """A misspelt key must not slip through: the few that stay open are those listed."""

    def open_mappings(part: Any, path: str) -> Iterator[str]:
        if isinstance(part, dict):
            if part.get("type") == "object" and not {"additionalProperties", "unevaluatedProperties"} & part.keys():
                yield path
            for key, value in part.items():
                yield from open_mappings(value, f"{path}/{key}")

    known = {
        "engram:common": ["/$defs/recipe", "/$defs/provenance/properties/hardware"],
        "engram:comparison": ["/$defs/score"],
        "engram:result": ["/$defs/score"],
        "engram:bench": ["/properties/parts/additionalProperties/properties/result"],
    }  # fmt: skip
    assert list(open_mappings(READ[name], "")) == known.get(name, [])


ROW = {
    "id": "a-bare", "pattern": "a", "kind": "k", "category": "c", "phrasing": "bare", "split_kind": "train",
    "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
}  # fmt: skip
PACK = {"name": "n", "examples": [{"input": "a", "output": "b"}]}
SAID: list[tuple[str, Any, list[str]]] = [
    ("data-row", ROW, []),
    ("pattern-file", PACK, []),
    ("pattern-file", [], ["$: is a list, not a mapping; write a mapping here"]),
    ("pattern-file", None, ["$: is empty, not a mapping; write a mapping here"]),
    ("pattern-file", {**PACK, "name": 7}, ['$.name: is a number, not text; write it in quotes: "7"']),
    ("pattern-file", {**PACK, "name": None}, ["$.name: is empty, not text; write some text"]),
    ("pattern-file", {**PACK, "version": True},
     ['$.version: is a yes/no value, not text or a number; write it in quotes: "True"']),
    ("pattern-file", {**PACK, "name": "\u2003\x85"}, ["$.name: is empty; write some text or take the entry out"]),
    ("data-row", {**ROW, "split_kind": "dev"},
     ["$.split_kind: 'dev' is not one of ['train', 'valid', 'recall', 'rewording', 'generalization', 'control']; "
      "write what the schema says"]),
    ("data-row", {**ROW, "messages": ROW["messages"][:1]},
     ["$.messages: holds 1 of at least 2 entries; add the others"]),
    ("data-row", {**ROW, "messages": [*ROW["messages"], {}]},
     ["$.messages: holds 3 entries, at most 2 fit; take the others out"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "document", "expected"), SAID)
def test_what_is_wrong_is_said_in_words(name: str, document: Any, expected: list[str]) -> None:
    found = [f"{json_path(p.path)}: {p.message}; {p.fix}" for p in problems(document, name)]
    assert sorted(found) == sorted(expected)


def test_an_endless_value_is_not_printed_whole() -> None:
    (problem,) = problems({**ROW, "split_kind": "x" * 10_000}, "data-row")
    assert len(problem.message) <= 200
    assert len(problems({**ROW, "k" * 10_000: 1}, "data-row")[0].message) < 250


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ((), "$"),
        (("examples", 3, "output"), "$.examples[3].output"),
        (("a b", "c.d", "1", ""), "$['a b']['c.d']['1']['']"),
        (("\x1b[2J",), "$['\\x1b[2J']"),
        (("für",), "$.für"),
    ],
)
def test_a_path_is_written_so_that_it_can_be_read_back(path: schema.Path, shown: str) -> None:
    assert json_path(path) == shown


def test_a_refused_document_names_file_schema_and_remedy() -> None:
    error = refusal(schema.check, {**ROW, "\x1b": 1, "kind": ""}, "data-row", "x.json")
    assert str(error) == (
        "x.json: not a valid data-row document (schemas/data-row.schema.json)\n"
        "  $['\\x1b']: unknown key '\\x1b'; known are id, pattern, kind, category, phrasing, split_kind, messages; "
        "rename it or take it out\n"
        "  $.kind: is empty; write some text or take the entry out\n"
        "  fix: make it again with the stage that writes it"
    )


def test_many_problems_are_cut_and_counted() -> None:
    error = refusal(schema.check, {**PACK, "examples": [{}] * 15}, "pattern-file", "x")
    assert len(error.problems) == 21 and error.problems[-1] == "… and 10 more"


@pytest.mark.parametrize("value", ["a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n"])
def test_a_hash_is_64_hexadecimal_digits(value: str) -> None:
    document = {"inputs": [{"file": "a", "sha256": value}]}
    assert any(p.path == ("inputs", 0, "sha256") for p in problems(document, "manifest"))


def test_no_more_problems_are_looked_for_than_anybody_reads() -> None:
    found = schema.problems({"name": "x", "examples": [{"inptu": "a"}] * 100_000}, "pattern-file")
    assert len(found) == schema.MOST


SOUND: dict[str, Any] = {
    "pattern-file": {
        "name": "facts", "description": "some", "version": "1.0",
        "examples": [{"input": "a", "output": "b", "category": "c"}, {"input": "d", "output": "e"}],
        "tables": [
            {"category": "k", "input": "{x}", "output": "{y}", "columns": ["x", "y"], "rows": [["1", "2"], ["3", "4"]]}
        ],
    },
    "data-row": ROW,
}  # fmt: skip
VALUES = (
    *(..., None, True, 0, 1.0, 1.5, float("nan"), [], {}, [["a"]], {"a": "b"}, " ", "\n", "\u2028", "\x1c", "\x85"),
    *("user", "recall", "a1_", "1a", "é", "x\n", *("x" * length for length in (1, 60, 61, 400, 401, 1000, 1001))),
)


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield document, key
        if isinstance(value, (dict, list)):
            yield from places(value)


@pytest.mark.parametrize("name", SOUND)
@settings(deadline=None, max_examples=300)
@given(seed=st.integers(0, 2**32))
def test_its_yes_is_jsonschemas_yes(name: str, seed: int) -> None:
    draw, document = random.Random(seed), copy.deepcopy(SOUND[name])
    for _ in range(draw.randint(0, 3)):
        container, key = draw.choice([*places(document)])
        container[key] = copy.deepcopy(draw.choice(VALUES))
        if container[key] is ...:
            del container[key]
    sound = next(schema._validator(name).iter_errors(document), None) is None
    assert sound or not schema.accepts(name)(document)


def test_a_sound_document_needs_no_jsonschema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_validator", lambda name: pytest.fail("jsonschema was asked"))
    assert [schema.problems(SOUND[name], name) for name in SOUND] == [[], []]
