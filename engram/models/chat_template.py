"""Chat templates, rendered by a process of their own: bounded in time, memory and length, whatever they do."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.support.errors import EngramError
from engram.support.text import visible

WORKER = Path(__file__).resolve().with_name("template_worker.py")  # run, not imported: Jinja is for that process alone
SOURCE = 100_000  # characters of a template; those in use have 20,000 at most
TOGETHER = 64  # conversations that the process is asked for at once: what waits for one line waits for all of them
CONSTANTS = {"tools": None, "documents": None, "enable_thinking": False}


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]], generation: bool) -> str:
    """The conversation as the tokenizer's chat template writes it, with or without what asks for an answer.

    Raises EngramError where the template fails or goes beyond a limit.
    """
    return render_all(tokenizer, [messages], generation)[0]


def render_all(tokenizer: Any, conversations: Sequence[Sequence[Mapping[str, str]]], generation: bool) -> list[str]:
    """Many conversations, each as `render` writes it, for fewer words with the process."""
    tokens = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str | list)}
    renderer = _renderer(_template(tokenizer), json.dumps({**tokens, **CONSTANTS}), os.getpid())
    asked = [
        {"messages": [dict(message) for message in messages], "add_generation_prompt": generation}
        for messages in conversations
    ]
    portions = (asked[i : i + TOGETHER] for i in range(0, len(asked), TOGETHER))
    return [text for portion in portions for text in renderer.render(portion)]


def asks_for_the_day(tokenizer: Any) -> bool:
    """Whether the chat template writes today's date elsewhere; here every day is template_worker.DAY."""
    return "strftime_now" in _template(tokenizer)


def _template(tokenizer: Any) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:  # several, and none of them is the default
        raise _refused(str(error).split(".")[0]) from error


class _Renderer:
    """One template in its process, which starts at the first rendering and ends with this object."""

    def __init__(self, template: str, constants: Mapping[str, Any]) -> None:
        self.first = json.dumps({"template": template, "constants": constants})
        self.process: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()

    def render(self, variables: Sequence[Mapping[str, Any]]) -> list[str]:
        """The texts; raises EngramError with the template's own error, or where the process has ended."""
        with self.lock:
            answers = self._ask(json.dumps(variables))
        if errors := [answer["error"] for answer in answers if "error" in answer]:
            raise _refused(errors[0])
        return [answer["text"] for answer in answers]

    def _ask(self, line: str) -> list[dict[str, str]]:
        if self.process is None:
            self.process = _started()
            weakref.finalize(self, _end, self.process, os.getpid())
            line = f"{self.first}\n{line}"
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answers: list[dict[str, str]] = json.loads(self.process.stdout.readline())
        except (OSError, ValueError):  # it has ended: nothing could be written, or no line came back
            from engram.models import template_worker

            _end(self.process, os.getpid())
            self.process = None
            return [{"error": f"it takes more than {template_worker.SECONDS} seconds, or too much memory"}]
        return answers


@functools.lru_cache(maxsize=4)
def _renderer(template: str, constants: str, _owner: int) -> _Renderer:
    """A fork of this process gets one of its own: two cannot read from one pipe."""
    if len(template) > SOURCE:
        raise _refused(f"it has {len(template)} characters, more than {SOURCE}")
    return _Renderer(template, json.loads(constants))


def _started() -> subprocess.Popen[str]:
    """The process: isolated from the working folder, and told nothing of the environment."""
    command = [sys.executable, "-I", str(WORKER)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env={"LC_ALL": "C.UTF-8"}, text=True, bufsize=1
    )


def _end(process: subprocess.Popen[str], owner: int) -> None:
    if os.getpid() == owner:  # a fork of the process that started it must neither end it nor wait for it
        process.kill()
        process.communicate()


def _refused(reason: str) -> EngramError:
    return EngramError(
        f"the chat template does not work: {visible(reason)}", where="chat template", fix="take another MODEL"
    )
