"""Values, texts and bytes that break readers, and ways to spoil a sound document."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

TEXTS = (
    "", " ", "\n", "\t", "\r\n", "a\x00b", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b2J", "\x7f", "\ud800",
    "a\udfffb", "\u202egnp.exe", "\u2066x\u2069", "\u200b", "\ufeff", "\u2028", "\u00ad", "\ue000", "\uffff", "é",
    "e\u0301", "\U0001f469\u200d\U0001f680", "\u0301" * 50, "ﷺ" * 20, "\U000e0041", "İ", "ß", "中文", "א",
    "<zz onload=1>", "</script><zz>", "'\"><zz>", "{{7*7}}", "{% raw %}", "{0.__class__}", "{input}", "{", "}", "%s%n",
    "&amp;", "]]>", "[bold]x[/bold]", "[/]", ":smile:", "$.x", "../../x", "/", "\\", "~", "-", "--help", "a/b",
    "C:\\x", "null", "true", "no", "on", "1", "1e3", "0x1f", "0o17", "017", "1_000", "1:30", "2024-02-30", ".inf", "~",
    "x" * 61, "x" * 401, "x" * 1001, "x" * 70_000, "a b " * 300, "__proto__", "constructor", "__class__", "<<", "=",
)  # fmt: skip
INTEGERS = (0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30)
FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-320, 5e-324, 1e-9, 1e16, 1e300, 1.7976931348623157e308, -1e308, 3.0)


class Raw(NamedTuple):
    """Text that stands in a JSON document as it is."""

    text: str


class Twice(NamedTuple):
    """A mapping as a list of its entries, where a key may stand twice."""

    entries: list[tuple[str, Any]]


RAWS = tuple(map(Raw, (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 400, "1" * 5000, "-0", "01", "1.", ".5", "+1", "0x10",
    '"\\ud800"', '"\\udc00\\ud800"', '"\\x41"', "'a'", "True", "None", "undefined", "// x", "/**/1", "[1,]", "{,}",
    '{"a":1,"a":2}', '"\\u0000"', '"\\u001b[2J"', '"\t"', "[" * 2000, "[" * 40 + "]" * 40, "[" * 900 + "]" * 900,
    "[" * 100_000 + "]" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "1 2", "", "\\", "\ufeff1", "1E400", "1e-999",
)))  # fmt: skip


def texts() -> st.SearchStrategy[str]:
    """A text that is hard to read, show or write."""
    return st.one_of(st.sampled_from(TEXTS), st.text(max_size=12))


def numbers() -> st.SearchStrategy[Any]:
    """A number at some edge."""
    return st.one_of(st.sampled_from(INTEGERS), st.sampled_from(FLOATS), st.integers(), st.floats())


def values() -> st.SearchStrategy[Any]:
    """Any value of JSON, likely not the one that is wanted; texts that are no JSON among them."""
    plain = st.one_of(st.none(), st.booleans(), numbers(), texts(), st.sampled_from(RAWS))
    some = st.one_of(st.lists(plain, max_size=3), st.dictionaries(texts(), plain, max_size=3))
    return st.one_of(plain, some, st.sampled_from(([], {}, [[]], [{}], [None], {"": None})))


def paths(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path, *(found for key, value in inner for found in paths(value, (*path, key)))]


def dumps(value: Any) -> str:
    """JSON, with what is no JSON in it as it is."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, (dict, Twice)):
        entries = value.items() if isinstance(value, dict) else value.entries
        return "{" + ", ".join(f"{json.dumps(str(key))}: {dumps(item)}" for key, item in entries) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(dumps, value)) + "]"
    return json.dumps(value)


WAYS = ("replace", "delete", "rename", "twice", "wrap", "name", "nest", "swap", "repeat", "empty", "add", "lengthen")


@st.composite
def spoiled(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """A document with up to `most` things wrong with it, in any way that a hand or a program spoils one."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(paths(made)))
        made = _spoil(draw, made, path, draw(st.sampled_from(WAYS)))
    return made


def _spoil(draw: st.DrawFn, document: Any, path: tuple[Any, ...], way: str) -> Any:
    if not path:
        return draw(values()) if way == "replace" else [document] if way == "wrap" else document
    *around, key = path
    parent = document
    for step in around:
        parent = parent[step]
    value = parent[key]
    if way == "delete":
        del parent[key]
    elif way in ("rename", "twice") and isinstance(parent, dict):
        known = list(parent)
        name = draw(st.one_of(texts(), st.sampled_from([f"{key}s", str(key).upper(), *known])))
        entries = [(name if k == key and way == "rename" else k, v) for k, v in parent.items()]
        if way == "twice":
            entries.append((str(key), draw(values())))
        document = _put(document, around, Twice(entries))
    elif way == "swap":
        *others, last = draw(st.sampled_from(paths(document)[1:]))
        other = document
        for step in others:
            other = other[step]
        parent[key], moved = copy.deepcopy(other[last]), value
        document = _put(document, [*others, last], moved) if others[: len(path)] != list(path) else document
    else:
        parent[key] = _changed(draw, value, way)
    return document


def _changed(draw: st.DrawFn, value: Any, way: str) -> Any:
    match way:
        case "wrap":
            return [value]
        case "name":
            return {draw(texts()): value}
        case "nest":
            depth = draw(st.sampled_from((5, 12, 13, 31, 33, 500, 990, 3000)))
            return Raw("[" * depth + "1" + "]" * depth)
        case "repeat" if isinstance(value, list) and value:
            return value * draw(st.sampled_from((2, 3, 40)))
        case "empty":
            return type(value)() if isinstance(value, (list, dict, str, int, float)) else None
        case "add" if isinstance(value, dict):
            return value | {draw(texts()): draw(values())}
        case "add" if isinstance(value, list):
            return [*value, draw(values())]
        case "lengthen" if isinstance(value, str):
            return value + draw(texts())
        case "lengthen" if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value * draw(st.sampled_from((-1, 2, 1000, 10**6)))
    return draw(values())


def _put(document: Any, path: Sequence[Any], value: Any) -> Any:
    if not path:
        return value
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    try:
        parent[path[-1]] = value
    except IndexError:  # what stood there was moved
        parent.append(value)
    return document


INSERTED = (
    b"\x00", b"\xff", b"\xfe", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\t", b"\x0b", b"\x85", b"\xc2\x85",
    b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\xf4\x90\x80\x80", b"{", b"}", b"[", b"]", b'"', b"'", b":", b": ", b"- ",
    b"&a ", b"*a", b"!!python/name:os.system ", b"!!binary ", b"<<: ", b"%YAML 9.9\n", b"---\n", b"...\n", b"#",
    b"|\n", b">", b"? ", b"@", b"`", b",", b"\\", b"\\ud800", b"1e999", b"NaN", b"\n\n", b"\x1b[2J", b"0" * 5000,
    b"x" * 70_000, b"[" * 3000,
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes as a disk, an editor or a network may leave them: cut, flipped, inserted into, spliced, recoded."""
    made = content
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(made), 1) - 1)) if made else 0
        length = draw(st.sampled_from((1, 2, 7, 64, 1000)))
        match draw(st.sampled_from(("cut", "flip", "insert", "remove", "splice", "zero", "recode", "crlf"))):
            case "cut":
                made = made[:at]
            case "flip" if made:
                made = made[:at] + bytes([made[at] ^ (1 << draw(st.integers(0, 7)))]) + made[at + 1 :]
            case "insert":
                made = made[:at] + draw(st.sampled_from(INSERTED)) + made[at:]
            case "remove":
                made = made[:at] + made[at + length :]
            case "splice":
                start = draw(st.integers(0, len(made)))
                made = made[:at] + made[start : start + length] + made[at:]
            case "zero":
                made = made[:at] + b"\0" * min(length, len(made) - at) + made[at + length :]
            case "recode":
                code = draw(st.sampled_from(("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "latin-1")))
                made = made.decode("utf-8", "replace").encode(code, "replace")
            case "crlf":
                made = made.replace(b"\n", draw(st.sampled_from((b"\r\n", b"\r", b"\xe2\x80\xa8", b"\n\n", b""))))
    return made
