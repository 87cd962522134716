"""JSON read safely: what Python's own reader lets pass is refused, with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from packs import refusal

from engram.support import strict_json
from engram.support.strict_json import MAX_DEPTH, JSONError, parse

REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "1:1 Expecting value"),
    "cut off": (b'{\n "a": [1,', "2:10 Expecting value"),
    "a key twice": (b'{"a": [{"b": 1, "b": 2}]}', "$.a[0] the key 'b' stands twice"),
    "not a number": (b'{"a": NaN}', "$.a nan is no number that can be used"),
    "infinite": (b"[1, -Infinity]", "$[1] -inf is no number that can be used"),
    "infinite by its size": (b"[1e999]", "$[0] inf is no number that can be used"),
    "beyond 64 bits": (b'{"a": {"b": 9223372036854775808}}', "$.a.b the number does not fit into 64 bits"),
    "5,000 digits": (b"9" * 5000, "1:1 a number has too many digits"),
    "half a character": (b'["\\ud800"]', "$[0] the text holds half a character"),
    "half a character as bytes": (b'["\xed\xa0\x80"]', "1:3 not UTF-8: byte 0xed"),
    "half a character in a key": (b'{"\\udfff": 1}', "$ a key holds half a character"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "1:1 not UTF-8: byte 0xff"),
    "deep": (b"[" * 40 + b"]" * 40, f"$[{'0][' * 31}0] nested deeper than 32 levels"),
    "very deep": (b"[" * 100_000, "1:1 nested deeper than 32 levels"),
    "two documents": (b"{}\n{}", "2:1 Extra data"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nothing_after_it_could_use_is_refused_with_its_place(name: str) -> None:
    content, said = REFUSED[name]
    with pytest.raises(JSONError) as caught:
        parse(content)
    assert str(caught.value) == said


SOUND = (None, True, 0, -(2**63) + 1, 2**63 - 1, 1e308, 5e-324, "", "\x00", "\U0001f600", [], {"": [{"a": [1.5, "b"]}]})


@pytest.mark.parametrize("value", SOUND)
def test_what_is_sound_is_read_as_it_is(value: Any) -> None:
    assert parse(json.dumps(value).encode()) == value
    assert parse(b"\xef\xbb\xbf" + json.dumps(value, ensure_ascii=False).encode()) == value
    assert parse((b"[" * (MAX_DEPTH - 4)) + json.dumps(value).encode() + b"]" * (MAX_DEPTH - 4))


def test_a_file_is_named_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a":\n x}')
    assert str(refusal(strict_json.read, path, "make it")) == f"{path}:2:2: not JSON: Expecting value\n  fix: make it"
    path.write_bytes(b'{"a": [NaN]}')
    assert str(refusal(strict_json.read, path, "x")).startswith(f"{path} $.a[0]: not JSON: nan is no number")


def test_a_large_file_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    assert refusal(strict_json.read, path, "x").what == "cannot read this file: it is larger than 64 MiB"


def test_more_values_than_a_process_can_hold_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_json, "MAX_VALUES", 10)
    assert parse(b"[0,1,2,3,4,5,6,7,8]")
    with pytest.raises(JSONError, match="more than 10 values"):
        parse(b"[0,1,2,3,4,5,6,7,8,9,10]")
