"""Read JSON strictly and within bounds; every refusal has its place.

Python's own reader takes NaN, a key that stands twice, half a character, UTF-16, and nesting that later code cannot
follow. What passes here can be walked, computed with and written again.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engram.support.errors import EngramError
from engram.support.files import reading
from engram.support.schema import json_path
from engram.support.text import end_of, shorten, visible

MAX_BYTES = 64 * 2**20
MAX_VALUES = 8_000_000
MAX_DEPTH = 32
MAX_INTEGER = 2**63 - 1

_CHECKED = (dict, list, str, float, int)

Keys = tuple[str | int, ...]


class JSONError(ValueError):
    """What is wrong, and where: `line:column`, or a path."""

    def __init__(self, what: str, place: str) -> None:
        super().__init__(f"{place} {what}")
        self.what, self.place = what, place


def read(path: Path, fix: str) -> Any:
    """The document in a file; raises EngramError as `file:line:column` or `file: $.path` where it is not sound."""
    with reading(path, MAX_BYTES) as file:
        content = file.read()
    try:
        return parse(content)
    except JSONError as error:
        separator = " " if error.place.startswith("$") else ":"
        raise EngramError(f"not JSON: {error.what}", where=f"{path}{separator}{error.place}", fix=fix) from error


def parse(content: bytes) -> Any:
    """The document that these bytes hold; raises JSONError.

    UTF-8 only (a byte order mark is skipped). Refused are keys that stand twice, NaN and infinities, integers beyond
    64 bits, half characters, nesting deeper than MAX_DEPTH and more than MAX_VALUES values.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"not UTF-8: byte 0x{content[error.start]:02x}"
        line, column = end_of(content[: error.start].decode("utf-8", "replace"))
        raise JSONError(what, f"{line}:{column}") from error
    if text.count(",") + text.count("[") + text.count("{") > MAX_VALUES:
        raise JSONError(f"more than {MAX_VALUES:,} values", "1:1")
    twice: dict[int, str] = {}
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: _mapping(pairs, twice))
    except json.JSONDecodeError as error:
        raise JSONError(error.msg, f"{error.lineno}:{error.colno}") from error
    except RecursionError as error:
        raise JSONError(f"nested deeper than {MAX_DEPTH} levels", "1:1") from error
    except ValueError as error:  # a number of more digits than Python converts
        raise JSONError("a number has too many digits", "1:1") from error
    for path, what in _unsound(value, (), twice):
        raise JSONError(what, visible(json_path(path)))
    return value


def _mapping(pairs: list[tuple[str, Any]], twice: dict[int, str]) -> dict[str, Any]:
    """A mapping; where a key stands twice, `twice` gets it by the mapping's identity."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice[id(made)] = Counter(key for key, _ in pairs).most_common(1)[0][0]
    return made


def _unsound(value: Any, path: Keys, twice: dict[int, str]) -> Iterator[tuple[Keys, str]]:
    """Find values that Python's reader accepts and nothing after it can use."""
    if isinstance(value, (dict, list)):
        if len(path) >= MAX_DEPTH:
            yield path, f"nested deeper than {MAX_DEPTH} levels"
            return
        if id(value) in twice:
            yield path, f"the key {shorten(twice[id(value)], 60)!r} stands twice"
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str) and not _whole(key):
                yield path, "a key holds half a character"
            elif item.__class__ in _CHECKED:
                yield from _unsound(item, (*path, key), twice)
    elif isinstance(value, str):
        if not _whole(value):
            yield path, "the text holds half a character"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield path, f"{value} is no number that can be used"
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        yield path, "the number does not fit into 64 bits"


def _whole(text: str) -> bool:
    """Whether a text can be written: no half of a surrogate pair."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
