"""The code of the lm_eval task: `engram export-eval` copies this file into an export, as `utils.py`.

It runs inside lm_eval, where engram need not be installed, so it imports nothing of engram's.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

COLUMNS = ("id", "prompt", "expected", "category", "kind")


def rows(file: str, **_: Any) -> dict[str, Any]:
    """The rows of `file`, which is next to this module, as the split `test`; every column is text.

    lm_eval would read `data_files` relative to where it was started, and datasets' JSON reader guesses types: a
    column of ISO dates becomes timestamps. Further keywords are the task's metadata, which lm_eval passes on.
    """
    import datasets

    with (Path(__file__).parent / file).open(encoding="utf-8", newline="\n") as lines:
        found = [json.loads(line) for line in lines]
    features = datasets.Features({name: datasets.Value("string") for name in COLUMNS})
    return {"test": datasets.Dataset.from_list(found, features=features)}


def comparable(text: str, expected: str) -> str:
    """NFC, every run of white space one blank, none at the ends; case and punctuation count.

    Where the expected answer has several lines, line breaks and indentation count too.
    """
    text = unicodedata.normalize("NFC", text)
    if "\n" not in expected.strip():
        return " ".join(text.split())
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def process_results(doc: dict[str, str], results: list[str]) -> dict[str, int]:
    """Exact match of one answer, 0 or 1.

    Not lm_eval's own `exact_match`: none of its filters does NFC, and it compares NumPy strings, which drop NULs at
    the end.
    """
    expected = doc["expected"]
    return {"exact_match": int(comparable(expected, expected) == comparable(results[0], expected))}
