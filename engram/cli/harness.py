"""The command that hands the test set to lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path

import click

from engram.cli.options import data_option, model_option, recipe_option, set_option


@click.command("export-eval")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@data_option
@model_option
@recipe_option
@set_option
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Longest answer; default: the recipe's.")
def export_eval(
    folder: Path, data: Path, model: str, recipe: str, settings: tuple[str, ...], max_new_tokens: int | None
) -> None:
    """Write the test set into DIR as the task `engram` of lm-evaluation-harness."""
    from engram.evaluation import harness
    from engram.models import model as models
    from engram.plan import config
    from engram.support import console
    from engram.support.text import visible

    chosen = models.resolve(model)
    console.note(chosen.reason or f"model: {chosen.name}")
    longest = (f"max_new_tokens={max_new_tokens}",) if max_new_tokens else ()
    known = config.load_config(recipe, chosen.parameters, 0, config.parse_overrides((*settings, *longest)))
    files = harness.export(data, folder, chosen, known)
    place, where = visible(str(folder)), visible(str(chosen.path))
    click.echo(f"{len(files)} files in {place}; README.md there has the commands, with MODEL={where}")


COMMANDS = (export_eval,)
