"""Small pattern packs and files for the tests of the data side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engram.dataset.build import write_data
from engram.dataset.rows import Example
from engram.patterns.loading import Pattern, Rule, load_patterns, pattern_id
from engram.support.errors import EngramError

A_RULE = Rule()
COLOURS = ("green", "white", "black", "red", "blue", "grey", "pink", "brown", "gold", "teal")
THINGS = ("grass", "snow", "coal", "blood", "the sky", "ash", "a flamingo", "bark", "honey", "a duck's head")


def pattern(
    text: str, output: str, kind: str = "pack", category: str = "pack", also: tuple[str, ...] = (), **more: Any
) -> Pattern:
    identity = pattern_id(text)
    return Pattern(identity, text, output, kind, category, "pack.yaml:1:1 $.examples[0].input", also, identity, **more)


def pack(count: int = 60, rule: Rule | None = A_RULE) -> list[Pattern]:
    """The members of a rule, no twins of each other: the answers differ. They are facts where `rule` is None."""
    texts = (f"What stands at place {i} of the list of {i * 7919} things" for i in range(count))
    return [pattern(text, f"thing {i}", rule=rule) for i, text in enumerate(texts)]


def pack_yaml() -> str:
    rows = "\n".join(f"      - [{thing!r}, {colour}]" for thing, colour in zip(THINGS, COLOURS, strict=True))
    rows = rows.replace('"', "'").replace("'a duck's head'", '"a duck\'s head"')
    return (
        "name: colours\n"
        "tables:\n"
        "  - category: colour\n"
        "    kind: rule\n"
        "    taught: 7\n"
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
