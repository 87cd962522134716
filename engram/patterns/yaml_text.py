"""Pattern files written as YAML, so that what is read back is what was given."""

from __future__ import annotations

import json
from collections.abc import Iterable


def quoted(text: str) -> str:
    """`text` as a double-quoted YAML scalar in one line; whatever cannot be seen is an escape.

    JSON's escapes are YAML's as well, and what YAML forbids, folds or takes for a line break is not printable.
    """
    line = json.dumps(text, ensure_ascii=False)
    return line if line.isprintable() else "".join(map(_escaped, line))


def pattern_file(name: str, source: str, rows: Iterable[tuple[str, str, str | None]]) -> str:
    """A pattern file of examples: each row's input, output and category, or no category; `source` is said on top."""
    lines = [f"# Imported from {source}", f"name: {quoted(name)}", "examples:"]
    for text, answer, category in rows:
        lines += [f"  - input: {quoted(text)}", f"    output: {quoted(answer)}"]
        if category is not None:
            lines.append(f"    category: {quoted(category)}")
    return "\n".join(lines) + "\n"


def _escaped(character: str) -> str:
    code = ord(character)
    if character.isprintable():
        return character
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
