"""Small pattern packs and files for the tests of the data side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engram.dataset.build import write_data
from engram.dataset.rows import Example
from engram.patterns.loading import Pattern, load_patterns, pattern_id
from engram.support.errors import EngramError

COLOURS = ("green", "white", "black", "red", "blue", "grey", "pink", "brown", "gold", "teal")
THINGS = ("grass", "snow", "coal", "blood", "the sky", "ash", "a flamingo", "bark", "honey", "a duck's head")


def pattern(text: str, output: str, kind: str = "pack", category: str = "pack") -> Pattern:
    return Pattern(pattern_id(text), text, output, kind, category, "pack.yaml:1:1 $.examples[0].input")


def pack(count: int = 60) -> list[Pattern]:
    """Patterns that are no twins of each other: the answers differ."""
    return [pattern(f"What stands at place {i} of the list of {i * 7919} things", f"thing {i}") for i in range(count)]


def pack_yaml() -> str:
    rows = "\n".join(f"      - [{thing!r}, {colour}]" for thing, colour in zip(THINGS, COLOURS, strict=True))
    rows = rows.replace('"', "'").replace("'a duck's head'", '"a duck\'s head"')
    return (
        "name: colours\n"
        "tables:\n"
        "  - category: colour\n"
        '    input: "The colour of {thing}"\n'
        '    output: "{colour}"\n'
        "    columns: [thing, colour]\n"
        f"    rows:\n{rows}\n"
    )


def write_pack(folder: Path, seed: int = 0) -> Path:
    """A data folder made from a small pattern file beside it."""
    source = folder / "colours.yaml"
    source.write_text(pack_yaml(), "utf-8")
    write_data(load_patterns([source]), [source], folder / "data", seed)
    return folder / "data"


def refusal(function: Callable[..., Any], *arguments: Any) -> EngramError:
    with pytest.raises(EngramError) as caught:
        function(*arguments)
    return caught.value


def by_pattern(examples: list[Example]) -> dict[str, list[Example]]:
    return {e.pattern: [other for other in examples if other.pattern == e.pattern] for e in examples}
