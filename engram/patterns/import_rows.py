"""What an import reads: rows with their places, and which columns or keys of a record hold what."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from engram.patterns.loading import unfit
from engram.support.text import nearest, shorten

INPUTS = ("input", "prompt", "question")
OUTPUTS = ("output", "completion", "answer", "response")
CATEGORY = "category"


class Row(NamedTuple):
    """One input → output pair as it stands at `place` (`file:line`); no category means the pattern file's name."""

    place: str
    input: str
    output: str
    category: str | None


class Read(NamedTuple):
    """What a file gave: its sound rows, and every problem as `file:line: what; fix`."""

    rows: list[Row]
    problems: list[str]


@dataclass(frozen=True)
class Wanted:
    """What the caller says of the files: the columns' names, what may be left out, and how a table is written."""

    input: str | None = None
    output: str | None = None
    category: str | None = None
    ignore_extra: bool = False
    header: bool = True
    delimiter: str | None = None


class Fields(NamedTuple):
    """The columns or keys that hold the parts of the input, the output and the category; and what else there is."""

    inputs: tuple[str, ...]
    output: str
    category: str | None
    extra: tuple[str, ...]


class UnfitError(ValueError):
    """Why a record or a header cannot be used: `what; fix`."""


def choose(names: Sequence[str], wanted: Wanted) -> Fields:
    """Which of `names` hold what: those that are wanted, or else those that are known by their words.

    Alpaca's `instruction` and `input` are the input together. Raises UnfitError.
    """
    words = {name.strip().casefold(): name for name in names}
    if wanted.input is None and "instruction" in words:
        inputs = tuple(words[word] for word in ("instruction", "input") if word in words)
    else:
        inputs = (_one(names, words, wanted.input, "input", INPUTS),)
    output = _one(names, words, wanted.output, "output", OUTPUTS)
    category = words.get(CATEGORY)
    if wanted.category is not None:
        category = _one(names, words, wanted.category, CATEGORY, ())
    if category in (*inputs, output) or output in inputs:
        raise UnfitError("one column is to be two things; name another")
    used = {*inputs, output, category}
    return Fields(inputs, output, category, tuple(name for name in names if name not in used))


def extra(names: Iterable[str], wanted: Wanted) -> None:
    """Raise UnfitError where something would be lost that nobody said may be."""
    if (lost := [*names]) and not wanted.ignore_extra:
        listed = ", ".join(repr(shorten(name, 40)) for name in lost[:10])
        raise UnfitError(f"a pattern has no place for {listed}; leave them out with --ignore-extra")


def row(place: str, record: Mapping[str, object], fields: Fields) -> Read:
    """The row of one record, or everything that is wrong with it."""
    parts: dict[str, object] = {name: record.get(name) for name in (*fields.inputs, fields.output)}
    category = record.get(fields.category) if fields.category is not None else None
    problems = [_no_text(name, value) for name, value in parts.items() if not isinstance(value, str)]
    if category is not None and not isinstance(category, str):
        problems.append(_no_text(CATEGORY, category))
    if problems:
        return Read([], [f"{place}: {problem}" for problem in problems])
    texts = [str(parts[name]) for name in fields.inputs]
    question = "\n".join([texts[0], *(text for text in texts[1:] if text)])
    found = Row(place, question, str(parts[fields.output]), str(category) if category else None)
    problems = [f"{place}: {what}; {fix}" for what, fix in _faults(found)]
    return Read([] if problems else [found], problems)


def _faults(found: Row) -> list[tuple[str, str]]:
    checked = [unfit("input", found.input), unfit("output", found.output)]
    checked.append(unfit(CATEGORY, found.category) if found.category is not None else None)
    return [wrong for wrong in checked if wrong]


def _no_text(name: str, value: object) -> str:
    if value is None:
        return f"{name!r} is missing or empty; write some text or take the entry out"
    return f"{name!r} is {shorten(json.dumps(value), 40)}, not text; write it in quotes"


def _one(names: Sequence[str], words: Mapping[str, str], asked: str | None, what: str, known: Sequence[str]) -> str:
    if asked is not None:
        if asked in names:
            return asked
        raise UnfitError(f"there is no {asked!r}{nearest(asked, names) or _has(names)}; name one: --{what}")
    found = [words[word] for word in known if word in words]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnfitError(f"{' and '.join(map(repr, found))} may each be the {what}; name one: --{what}")
    raise UnfitError(f"no column is known as the {what}{_has(names)}; name it: --{what}")


def _has(names: Sequence[str]) -> str:
    return f": there is {', '.join(repr(shorten(name, 40)) for name in names[:10])}" if names else ""
