"""The part of Go's text/template that a Modelfile of ours uses: range over .Messages, if eq .Role, .Content."""

from __future__ import annotations

import re
from collections.abc import Sequence


def evaluate(template: str, messages: Sequence[dict[str, str]]) -> str:
    """The text that Go would write; an action that is not known here fails."""
    pieces = re.split(r"({{.*?}})", template)
    text, rest = _run(pieces, messages, None)
    assert not rest, rest
    return text


def _run(pieces: list[str], messages: Sequence[dict[str, str]], dot: dict[str, str] | None) -> tuple[str, list[str]]:
    """Text up to the end of this block, and what follows its `{{ end }}`."""
    out = ""
    while pieces:
        piece, pieces = pieces[0], pieces[1:]
        action = piece[2:-2].strip() if piece.startswith("{{") else None
        if action is None:
            out += piece
        elif action == "end":
            return out, pieces
        elif action == "range .Messages":
            bodies = [_run(pieces, messages, message) for message in messages]
            out, pieces = out + "".join(body for body, _ in bodies), bodies[0][1]
        elif match := re.fullmatch(r'if eq \.Role "(\w+)"', action):
            assert dot is not None
            body, pieces = _run(pieces, messages, dot)
            out += body if dot["role"] == match[1] else ""
        elif action == ".Content":
            assert dot is not None
            out += dot["content"]
        else:
            raise AssertionError(f"not a known action: {piece}")
    return out, []
