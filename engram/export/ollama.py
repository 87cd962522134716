"""A Modelfile for ollama: the chat template as a Go template, its default system message, and the end of an answer.

A Go template cannot run Jinja. The text around each message is found by rendering marked messages; a template whose
parts do not reproduce whole conversations is refused.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from engram.models.tokenizer import Encoder, render
from engram.support.errors import EngramError

Messages = Sequence[Mapping[str, str]]
_S, _U, _A, _V = "SYSTEMMARK", "USERMARK", "ANSWERMARK", "SECONDMARK"


class Pieces(NamedTuple):
    """The text before and after each role's message, the prompt for an answer, and the default system message."""

    around: Mapping[str, tuple[str, str]]
    asks: str
    default: str | None


def pieces(encoder: Encoder, name: str) -> Pieces:
    """The model's chat template in pieces; raises EngramError if it cannot be split so."""
    try:
        found = _pieces(encoder)
    except Exception as error:  # a template is a program of the model's author: it may raise anything
        raise _refused(name, f"it does not take these messages ({error})") from error
    for messages in _CONVERSATIONS:
        if rendered(found, messages) != render(encoder.tokenizer, messages, True):
            raise _refused(name, f"{len(messages)} messages are not rendered by their parts")
    texts = [*itertools.chain(*found.around.values()), found.asks, found.default or ""]
    if any("{{" in text or "}}" in text or '"""' in text for text in texts):
        raise _refused(name, "its text holds a Modelfile's own syntax")
    return found


def rendered(parts: Pieces, messages: Messages) -> str:
    """The prompt that these pieces make of messages, as ollama puts them together."""
    given = list(messages)
    if parts.default is not None and given[0]["role"] != "system":
        given.insert(0, {"role": "system", "content": parts.default})
    return "".join(m["content"].join(parts.around[m["role"]]) for m in given) + parts.asks


def modelfile(parts: Pieces, file: str, stops: Sequence[str], context: int) -> str:
    """The Modelfile of the GGUF file named `file`: greedy answers, as engram measures them."""
    lines = [f"FROM ./{file}", f'TEMPLATE """{template(parts)}"""']
    if parts.default is not None:
        lines.append(f'SYSTEM """{parts.default}"""')
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1", f"PARAMETER num_ctx {context}"]
    return "\n".join([*lines, *(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops)]) + "\n"


def template(parts: Pieces) -> str:
    """The Go template that ollama fills with `.Messages`."""
    bodies = {role: "{{ .Content }}".join(texts) for role, texts in parts.around.items()}
    inner = "".join(f'{{{{ if eq .Role "{role}" }}}}{body}{{{{ end }}}}' for role, body in bodies.items())
    return f"{{{{ range .Messages }}}}{inner}{{{{ end }}}}{parts.asks}"


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


_CONVERSATIONS: Sequence[Messages] = (
    [_message("user", "What is “x”?\n\n  <b>")],
    [_message("system", "Be brief."), _message("user", "Why?")],
    [_message("user", "One"), _message("assistant", "1"), _message("user", "Two"), _message("assistant", "2"),
     _message("user", "Three")],
    [_message("system", "Be brief."), _message("user", "One"), _message("assistant", "1"), _message("user", "Two")],
)  # fmt: skip


def _pieces(encoder: Encoder) -> Pieces:
    turn = [_message("user", _U), _message("assistant", _A)]
    alone, asked = (render(encoder.tokenizer, turn[:1], asks) for asks in (False, True))
    ended = render(encoder.tokenizer, turn, False)
    twice = render(encoder.tokenizer, [*turn, _message("user", _V)], False)
    told = render(encoder.tokenizer, [_message("system", _S), turn[0]], False)
    after_user = alone.split(_U)[1]
    asks = asked.split(_U)[1].removeprefix(after_user)
    after_answer = ended.split(_A)[1]
    before_answer = ended.split(_U)[1].split(_A)[0].removeprefix(after_user)
    before_user = twice.split(_A)[1].split(_V)[0].removeprefix(after_answer)
    before_system, between = told.split(_S)[0], told.split(_S)[1].split(_U)[0]
    after_system = between.removesuffix(before_user)
    head = alone.split(_U)[0].removesuffix(before_user)
    default = head.removeprefix(before_system).removesuffix(after_system) if head else None
    around = {"system": (before_system, after_system), "user": (before_user, after_user)}
    return Pieces(around | {"assistant": (before_answer, after_answer)}, asks, default)


def _refused(name: str, reason: str) -> EngramError:
    fix = "export --format gguf: llama.cpp renders the template itself"
    what = f"{name}'s chat template cannot be written as a Modelfile: {reason}"
    return EngramError(what, where="--format ollama", fix=fix)
