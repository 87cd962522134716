"""JSON Lines or one JSON list -> rows: messages, prompt and completion, Alpaca, or named keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from engram.patterns.import_rows import CATEGORY, Read, UnfitError, Wanted, choose, extra, row
from engram.support.text import shorten

_SPACE = re.compile(r"[ \t\r\n]*")
_ROLES = ["user", "assistant"]


def read(name: str, text: str, wanted: Wanted) -> Read:
    """Every row of the file, or everything that is wrong with it."""
    rows, problems = [], []
    for line, found in _records(text):
        place = f"{name}:{line}"
        try:
            if isinstance(found, UnfitError):
                raise found
            one = _row(place, found, wanted)
        except UnfitError as reason:
            problems.append(f"{place}: {reason}")
            continue
        rows += one.rows
        problems += one.problems
    return Read(rows, problems)


def _row(place: str, record: object, wanted: Wanted) -> Read:
    if not isinstance(record, dict):
        raise UnfitError("not an object; write one in braces for each row")
    if "messages" in record and wanted.input is None:
        record = _asked(record, wanted)
    fields = choose([*record], wanted)
    extra(fields.extra, wanted)
    return row(place, record, fields)


def _asked(record: Mapping[str, Any], wanted: Wanted) -> dict[str, Any]:
    """A conversation of one question and one answer as a record with the keys `input` and `output`."""
    category = wanted.category or CATEGORY
    extra((key for key in record if key not in ("messages", category)), wanted)
    messages = record["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UnfitError("'messages' is not a list of objects; write role and content of each")
    roles = [message.get("role") for message in messages]
    if roles != _ROLES:
        listed = ", ".join(shorten(str(role), 20) for role in roles[:6]) + (", …" if len(roles) > 6 else "")
        raise UnfitError(f"a pattern is one user's and one assistant's message, not: {listed or 'none'}; take it out")
    extra(dict.fromkeys(key for message in messages for key in message if key not in ("role", "content")), wanted)
    question, answer = (message.get("content") for message in messages)
    kept = {category: record[category]} if category in record else {}
    return {"input": question, "output": answer, **kept}


def _records(text: str) -> Iterator[tuple[int, object]]:
    """Each record with its line, or an UnfitError in its place."""
    if text.lstrip()[:1] == "[":
        yield from _elements(text)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line, object_pairs_hook=_once)
            except (ValueError, RecursionError) as error:
                yield number, _unfit(error)


def _elements(text: str) -> Iterator[tuple[int, object]]:
    """The elements of one list; what is no JSON ends it."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    at, counted, line = _after_space(text, text.index("[") + 1), 0, 1
    closed = text[at : at + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, at), at
        try:
            element, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield line, _unfit(error)
            return
        yield line, element
        at = _after_space(text, end)
        closed = text[at : at + 1] == "]"
        if not closed and text[at : at + 1] != ",":
            yield line, UnfitError("no comma or ] after this element; write one")
            return
        at = at if closed else _after_space(text, at + 1)
    if text[at + 1 :].strip():
        yield line + text.count("\n", counted, at), UnfitError("something follows the list; take it out")


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(key for key in record if sum(key == other for other, _ in pairs) > 1)
        raise UnfitError(f"the key {shorten(twice, 40)!r} stands twice; keep one of them")
    return record


def _unfit(error: Exception) -> UnfitError:
    if isinstance(error, UnfitError):
        return error
    what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep, or a number too long"
    return UnfitError(f"not JSON: {what}; write one whole object here")
