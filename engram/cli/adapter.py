"""The commands about an adapter's folder."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def adapter() -> None:
    """Look at a LoRA adapter, and convert it between the layouts of PEFT and mlx-lm."""


@adapter.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["peft", "mlx"]), help="The layout to write; default: the one SRC is not in.")
def convert(source: Path, target: Path, to: str | None) -> None:
    """Write the adapter of folder SRC to the new folder DST in another layout.

    Converted back, its two files are the same byte by byte.
    """
    from engram.models import conversion
    from engram.support.text import visible

    layout = conversion.convert(source, target, to or "")
    click.echo(f"{visible(str(source))} → {visible(str(target))}, in {layout}'s layout")


@adapter.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
def show(source: Path) -> None:
    """Say what the adapter in SRC is: layout, rank, scale, targets, parameters, hash."""
    from engram.models import conversion
    from engram.support.text import visible

    for name, value in conversion.describe(source).items():
        click.echo(f"{name:11}{visible(value)}")


COMMANDS = (adapter,)
