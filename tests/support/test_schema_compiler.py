"""The compiled checks against `jsonschema`, which has the last word."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.support import schema
from engram.support.files import bundled
from engram.support.schema_compiler import UnknownKeywordError, compile_schema

SOUND: dict[str, Any] = {
    "pattern-file": {
        "name": "facts", "description": "some", "version": "1.0",
        "examples": [{"input": "a", "output": "b", "category": "c"}, {"input": "d", "output": "e"}],
        "tables": [
            {"category": "k", "input": "{x}", "output": "{y}", "columns": ["x", "y"], "rows": [["1", "2"], ["3", "4"]]}
        ],
    },
    "data-row": {
        "id": "a-bare", "pattern": "a", "kind": "k", "category": "c", "phrasing": "bare", "split_kind": "train",
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    },
}  # fmt: skip
LENGTHS = (0, 1, 60, 61, 400, 401, 1000, 1001)
VALUES = (
    *(None, True, False, 0, 1, 1.0, 1.5, float("nan"), [], {}, [[]], [["a"]], {"a": "b"}, " ", "\n", "\u2028", "\x1c"),
    *("user", "assistant", "recall", "generalization", "valid", "a1_", "1a", "é", "x\n"),
    *("x" * length for length in LENGTHS),
    *([{"role": "user", "content": "q"}] * count for count in (1, 2, 3)),
)
KEYS = ("name", "input", "output", "category", "rows", "columns", "messages", "role", "content", "id", "x")


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield document, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def spoiled(sound: Any, draw: random.Random) -> Any:
    """The document with up to three values changed, taken out or put in."""
    document = copy.deepcopy(sound)
    for _ in range(draw.randint(0, 3)):
        found = list(places(document))
        if not found:
            break
        container, key = draw.choice(found if draw.random() < 0.6 else [one for one in found if one[0] is document])
        change = draw.randrange(4)
        if change == 0:
            del container[key]
        elif change == 1 and isinstance(container, dict):
            container[draw.choice(KEYS)] = copy.deepcopy(draw.choice(VALUES))
        elif change == 2 and isinstance(container, list):
            container.append(copy.deepcopy(draw.choice([*VALUES, container[key]])))
        else:
            container[key] = copy.deepcopy(draw.choice(VALUES))
    return document if draw.random() < 0.98 else draw.choice(VALUES)


def judged(name: str, document: Any) -> bool:
    return next(schema._validator(name).iter_errors(document), None) is None


@pytest.mark.parametrize("name", schema.COMPILED)
@settings(deadline=None, max_examples=300)
@given(seed=st.integers(0, 2**32))
def test_it_accepts_what_jsonschema_accepts_and_nothing_else(name: str, seed: int) -> None:
    document = spoiled(SOUND[name], random.Random(seed))
    assert schema.accepts(name)(document) == judged(name, document)


@pytest.mark.parametrize("name", schema.COMPILED)
def test_with_any_rule_left_out_the_two_would_not_agree(name: str) -> None:
    """So that the documents above try every keyword of the schema."""
    draw = random.Random(1)
    documents = [spoiled(SOUND[name], draw) for _ in range(20_000)]
    verdicts = [schema.accepts(name)(document) for document in documents]
    assert 0.1 < sum(verdicts) / len(verdicts) < 0.9
    whole = json.loads((bundled("schemas") / f"{name}.schema.json").read_text("utf-8"))
    without = list(rules_left_out(whole))
    assert len(without) > 20
    for keyword, rules in without:
        check = compile_schema(rules)
        assert any(check(document) != verdict for document, verdict in zip(documents, verdicts)), keyword


def rules_left_out(whole: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema without each one of its keywords."""
    said_only = ("$schema", "$id", "$defs", "title", "description", "properties")
    for number, (container, key) in enumerate(places(whole)):
        names = container if isinstance(container, dict) else {}
        is_keyword = isinstance(key, str) and ("type" in names or "$ref" in names or "enum" in names)
        covered = key == "minLength" and "pattern" in names  # what has a character to be seen has one
        if is_keyword and key not in said_only and not covered and isinstance(container, dict):
            rules = copy.deepcopy(whole)
            same, _ = list(places(rules))[number]
            del same[key]
            yield key, rules


@pytest.mark.parametrize(
    "rules",
    [
        {"format": "date"},
        {"type": "object", "properties": {"a": {"multipleOf": 2}}},
        {"$ref": "engram:common#/$defs/rate"},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"const": 1},
        {"items": False},
    ],
)
def test_what_it_does_not_know_it_does_not_compile(rules: dict[str, Any]) -> None:
    with pytest.raises(UnknownKeywordError):
        compile_schema(rules)


def test_a_rule_counts_for_its_own_kind_of_value_only() -> None:
    check = compile_schema({"minLength": 2, "required": ["a"], "maxItems": 1, "additionalProperties": False})
    good: list[Any] = ["ab", 1, None, [1]]
    bad: list[Any] = ["a", {}, [1, 2], {"a": 1}]
    assert [check(value) for value in (*good, *bad)] == [True] * 4 + [False] * 4


def test_a_sound_document_needs_no_jsonschema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_validator", lambda name: pytest.fail("jsonschema was asked"))
    assert [schema.problems(SOUND[name], name) for name in schema.COMPILED] == [[], []]
