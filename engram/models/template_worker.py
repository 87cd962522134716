"""Renders one chat template, as transformers would, in a process of its own that `chat_template.py` starts and limits.

A template is a program of the model's author. Here it runs in Jinja's sandbox, in a process without environment or
further files, and where it takes too long or too much memory the system ends the process. This file runs alone, so it
imports nothing of engram's.

On standard input a line with the template and its constants, then lines of conversations to render; on standard output
a line in answer to each, all in JSON.
"""

from __future__ import annotations

import codecs
import contextlib
import datetime
import json
import resource
import signal
import sys
from typing import Any, TextIO

import jinja2
import jinja2.debug
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

codecs.lookup("unicode_escape")  # as `jinja2.debug`, needed when no file can be opened any more

SECONDS = 2  # of the processor, for one rendering
MEMORY = 512 * 2**20  # address space; macOS does not hold a process to it
OUTPUT = 1_000_000  # characters of one rendering
DAY = datetime.datetime(2024, 7, 26)  # the day of Llama 3's own templates where they cannot ask for today's


class Generation(Extension):
    """`{% generation %}` marks the answer for trainers that look for it; what is in it is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        """The block's own statements."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as transformers' filter writes it: unlike Jinja's own, nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> None:
    """What templates call where a conversation does not suit them."""
    raise jinja2.TemplateError(message)


def environment() -> ImmutableSandboxedEnvironment:
    """transformers' environment of chat templates, but that every day is the same."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = DAY.strftime
    return made


def limit() -> None:
    """No more memory than MEMORY, no file to open or write, no process to start; a limit that is not known is left."""
    limits = {"RLIMIT_AS": MEMORY, "RLIMIT_FSIZE": 0, "RLIMIT_NPROC": 0, "RLIMIT_NOFILE": 3, "RLIMIT_CORE": 0}
    for name, most in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (most, most))


def rendered(template: jinja2.Template, variables: dict[str, Any]) -> dict[str, str]:
    """`{"text": …}` or `{"error": …}`, within SECONDS: the timer's signal ends the process."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        text = template.render(variables)
    except MemoryError:
        return {"error": "it takes too much memory"}
    except Exception as error:  # a template may raise anything
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {"text": text} if len(text) <= OUTPUT else {"error": f"its text is longer than {OUTPUT} characters"}


def main(lines: TextIO, answers: TextIO) -> None:
    """Compile the template of the first line, then answer each line until there is no more."""
    limit()
    first = json.loads(lines.readline())
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        template, problem = environment().from_string(first["template"], first["constants"]), ""
    except (Exception, MemoryError) as error:
        template, problem = jinja2.Template(""), f"{type(error).__name__}: {error}"[:500]
    for line in lines:
        found = [{"error": problem} if problem else rendered(template, variables) for variables in json.loads(line)]
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
