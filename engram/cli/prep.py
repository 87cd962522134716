"""The command of the checklist before a video is recorded."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from engram.cli.options import (
    adapters_option,
    backend_option,
    data_option,
    model_option,
    patterns_option,
    results_option,
)

SCRIPT = Path("docs/video_script.md")


@click.command("video-prep")
@click.option("--yes", is_flag=True, help="Answer yes to all that only a person can see.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (schemas/video-prep.schema.json); ask nothing.")
@click.option("--public", multiple=True, metavar="TEXT", help="A name or address that may be seen; may be repeated.")
@click.option(
    "--script",
    type=click.Path(path_type=Path),
    default=SCRIPT,
    show_default=True,
    help="The talking points: a heading for each section of the demo.",
)
@backend_option
@model_option
@patterns_option
@data_option
@adapters_option
@results_option
def video_prep(
    yes: bool,
    as_json: bool,
    public: tuple[str, ...],
    script: Path,
    backend: str,
    model: str,
    patterns: str,
    data: Path,
    adapters: Path,
    results: Path,
) -> None:
    """Go through the checklist before a video of the demo is recorded; train, fetch and write nothing.

    What no machine can see is asked, once each, where somebody is there to answer. Exit code 0: nothing fails and
    nothing is left to ask; else 2.
    """
    from engram import backends
    from engram.show.prep import checklist, table, terminal
    from engram.show.prep.finding import Situation
    from engram.show.video import encode
    from engram.support import schema

    encode.require()
    name = backends.choose(backend)
    at = Situation(name, model, patterns, data, adapters, results, script)
    found = checklist.examine(at, os.environ, public)
    if yes:
        found = checklist.answered(found, lambda _: True)
    elif not as_json and terminal.interactive():
        found = checklist.answered(found, lambda one: click.confirm(one.text))
    if as_json:
        document = checklist.document(found, name)
        schema.check(document, "video-prep", "the checklist")
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        table.show(found)
    if not checklist.ready(found):
        sys.exit(2)


COMMANDS = (video_prep,)
