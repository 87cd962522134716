"""The command line: parse, call, print. A file for each group of commands, imported with it: none is heavy."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, NoReturn

import click

from engram import __version__
from engram.cli import export, machine, memory, patterns, show, stages
from engram.support import console, signals
from engram.support.errors import EngramError
from engram.support.text import shorten, visible

# full or read-only disks, permissions, limits, failing hardware
SYSTEM = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG, errno.ESTALE),
)

# the Makefile's groups, in its order
GROUPS = {
    "see it": "demo record render report",
    "teach your own": "init import packs validate data train ask memory run",
    "look at the results": "eval compare gate results seeds",
    "take it away": "export export-eval adapter serve",
    "before a video": "video-prep",
    "this machine": "doctor models resolve-model verify-model",
}


class Commands(click.Group):
    """A user's mistake is printed without a traceback, exit code 2; a failure of ours keeps its own, exit code 1.

    An error of the system (SYSTEM), in a library's temporary folder too, counts as the user's. Ctrl-C and SIGTERM end a
    command with the shell's exit codes for them, 130 and 143.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; see the class."""
        console.settle()
        try:
            return super().main(*args, **kwargs)
        except EngramError as error:
            _refuse(error)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(0)
        except OSError as error:
            if error.errno not in SYSTEM:
                raise
            where = shorten(os.fsdecode(error.filename), 200) if error.filename else "the system"
            fix = "check the path, its permissions, the free disk space and TMPDIR"
            _refuse(EngramError(error.strerror or "cannot be used", where=where, fix=fix))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands in GROUPS, each with the first sentence of its help."""
        width = max(map(len, self.commands))
        for group, names in GROUPS.items():
            rows = [(name.ljust(width), self.commands[name].get_short_help_str(200)) for name in names.split()]
            with formatter.section(group):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is named; see the class."""
        try:
            with signals.listening():
                return super().invoke(ctx)
        except click.ClickException as error:  # click repeats whatever was typed
            vars(error)["message"] = shorten(error.message, 1000)
            raise
        except KeyboardInterrupt as stop:
            if str(stop):
                click.echo(f"engram: {stop}", err=True)
            sys.exit(stop.exit_code if isinstance(stop, signals.Stopped) else 130)


def _refuse(error: EngramError) -> NoReturn:
    click.echo("engram: " + "\n".join(visible(line) for line in str(error).split("\n")), err=True)
    sys.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="engram")
def main() -> None:
    """Teach a small chat model the patterns that never change, and show honestly what it learned."""


for _group in (patterns, stages, show, memory, export, machine):
    for _command in _group.COMMANDS:
        main.add_command(_command)
