"""A row of a data file: made of a pattern, written as a line, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.dataset import phrasing
from engram.patterns.loading import Pattern
from engram.support import schema, strict_json
from engram.support.errors import EngramError
from engram.support.files import reading
from engram.support.text import first, visible

SPLITS = ("train", "valid", "test")
TEST_KINDS = {  # of the rows in `test`, each measured separately
    "recall": "taught, in a phrasing never trained on",
    "rewording": "taught, in other words never trained on",
    "generalization": "members of rules, never taught",
    "control": "from a random mapping, never taught",
}
ASKED = ("id", "pattern", "kind", "category", "phrasing", "split_kind", "prompt")  # of a row, in result documents
LARGEST_DATA = 1 << 36  # bytes of a data file


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data file: a pattern's input in one phrasing, or one of its rewordings, and the answer.

    `split_kind` is `train`, `valid`, `recall` (a taught pattern in an unseen phrasing), `rewording` (in a rewording
    never trained on), `generalization` (a rule's member never taught) or `control` (of a rule that can't be learned).
    """

    id: str
    pattern: str
    kind: str
    category: str
    phrasing: str
    split_kind: str
    prompt: str
    answer: str

    @property
    def input(self) -> str:
        """The pattern's input, without the phrasing's words."""
        return phrasing.unphrase(self.phrasing, self.prompt) or self.prompt

    def row(self) -> dict[str, Any]:
        """The row as a JSON object, with its messages as mlx-lm and TRL read them."""
        return {**{name: getattr(self, name) for name in ASKED[:-1]}, "messages": self.messages()}

    def messages(self) -> list[dict[str, str]]:
        """The question and its answer, as chat messages."""
        return [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.answer}]


def example(pattern: Pattern, name: str, split_kind: str, reworded: int | None = None) -> Example:
    """The row that asks for a pattern in the phrasing `name`, or in its rewording of that number."""
    text = pattern.input if reworded is None else pattern.also[reworded]
    row_id = f"{pattern.id}-{name}" + ("" if reworded is None else f"-{reworded}")
    prompt = phrasing.phrase(name, text)
    return Example(row_id, pattern.id, pattern.kind, pattern.category, name, split_kind, prompt, pattern.output)


def read_rows(path: Path) -> Iterator[Example]:
    """The rows of a data file; raises EngramError, at the end, with every line that is not a valid row."""
    if not path.is_file():
        raise EngramError("the data is missing", where=str(path), fix="make data")
    problems: list[str] = []
    with reading(path, LARGEST_DATA) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            row = _read_line(line.removesuffix(b"\n"))
            if isinstance(row, list):
                problems += [f"{path}:{number} {problem}" for problem in row]
            elif not problems:
                yield row
            if len(problems) >= schema.MOST:
                break
    if problems:
        what, fix = f"{len(problems)} problems in a data file", "make data (after taking the broken file away)"
        raise EngramError(what, where=str(path), problems=first(problems), fix=fix)


def _read_line(line: bytes) -> Example | list[str]:
    """The row that a line holds, or its problems; `strict_json` words them, and judges where escapes may hide some."""
    if b"\\u" not in line:
        try:
            row = json.loads(line)
            if schema.accepts("data-row")(row) and row["phrasing"] in phrasing.ALL:
                return _example(row)
        except (ValueError, RecursionError):
            pass
    try:
        row = strict_json.parse(line)
    except strict_json.JSONError as error:
        return [f"not JSON: {error.what} ({error.place.replace('1:', 'column ', 1)})"]
    if wrong := schema.problems(row, "data-row"):
        return [f"{schema.json_path(p.path)}: {visible(p.message)}" for p in wrong]
    return _example(row) if row["phrasing"] in phrasing.ALL else [f"$.phrasing: unknown phrasing {row['phrasing']!r}"]


def _example(row: dict[str, Any]) -> Example:
    user, assistant = row["messages"]
    identity = row["id"], row["pattern"], row["kind"], row["category"], row["phrasing"], row["split_kind"]
    return Example(*identity, user["content"], assistant["content"])
