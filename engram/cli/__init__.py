"""The command line: parse, call, print. A file for each group of commands, imported with it: none is heavy."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from engram import __version__
from engram.cli import adapter, harness, machine, prep, report, results, stages, video
from engram.errors import EngramError
from engram.text import shorten, visible


class Commands(click.Group):
    """A user's mistake is printed without a traceback, exit code 2; a failure of ours keeps its own, exit code 1."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; see the class."""
        try:
            return super().main(*args, **kwargs)
        except EngramError as error:
            _refuse(error)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(0)
        except OSError as error:  # of a path that no code asks about before it uses it: too long, forbidden, a loop
            if not isinstance(error.filename, (str, bytes)):
                raise
            name = shorten(os.fsdecode(error.filename), 200)
            reason = error.strerror or "cannot be used"
            _refuse(EngramError(reason, where=name, fix="check the path, its permissions and the free disk space"))


def _refuse(error: EngramError) -> NoReturn:
    click.echo("engram: " + "\n".join(visible(line) for line in str(error).split("\n")), err=True)
    sys.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="engram")
def main() -> None:
    """Teach a small chat model the patterns that never change, and show honestly what it learned."""


for _group in (stages, adapter, results, report, video, prep, harness, machine):
    for _command in _group.COMMANDS:
        main.add_command(_command)
