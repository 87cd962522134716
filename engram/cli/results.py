"""The commands about result documents that are there already."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from engram.cli.options import adapters_option, data_option, results_option


@click.group("results")
def group() -> None:
    """Look at result documents."""


@group.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--model", help="Name or folder of the model, where the document's own name is not enough.")
@data_option
@adapters_option
@results_option
def verify(files: tuple[Path, ...], model: str | None, data: Path, adapters: Path, results: Path) -> None:
    """Recompute every figure of FILES from their raw answers, and check the hashes of data, model and adapter.

    Without FILES: every document in the results folder. What cannot be checked here is said, and is no failure.
    """
    from engram.evaluation import tables
    from engram.evaluation import verify as checks

    chosen = files or tuple(checks.documents(results))
    places = checks.Places(data, adapters, model)
    passed = [tables.checked(str(file), checks.verify(file, places)) for file in chosen]
    if not all(passed):
        sys.exit(2)


COMMANDS = (group,)
