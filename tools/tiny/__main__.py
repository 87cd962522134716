"""`make base-model`: train the bundled model `tiny` again (under an hour on two cores; needs torch)."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from engram.support.errors import EngramError
from engram.support.files import BUNDLED
from tools.tiny import build


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=BUNDLED / "tiny", help="Where the model goes.")
@click.option("--steps", type=click.IntRange(min=1), help="Optimizer steps; default: the recipe's.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of text and weights.")
def main(out: Path, steps: int | None, seed: int) -> None:
    """Train the bundled model `tiny` and write its folder."""
    try:
        build.build(out, steps=steps, seed=seed, report=click.echo)
    except EngramError as error:
        sys.exit(f"engram: {error}")


main()
