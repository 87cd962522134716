"""The command that takes the model away."""

from __future__ import annotations

from pathlib import Path

import click

from engram.cli.options import (
    adapter_option,
    adapters_option,
    backend_option,
    data_option,
    method_option,
    model_option,
    results_option,
    used,
)


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["peft", "mlx", "fused", "gguf", "ollama"]),
    required=True,
    help="The adapter alone (peft, mlx), or the whole model.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write; default: exports/<format>.")
@click.option(
    "--quantize",
    type=click.Choice(["f16", "q8_0"]),
    default="f16",
    show_default=True,
    help="How gguf and ollama store matrices.",
)
@click.option(
    "--dtype",
    type=click.Choice(["base", "float32"]),
    default="base",
    show_default=True,
    help="How fused stores its numbers: rounded as the base model's are, or not at all.",
)
@click.option("--unchecked", is_flag=True, help="Ask the export nothing; the card says so.")
@adapter_option
@method_option
@model_option
@backend_option
@data_option
@adapters_option
@results_option
def export(
    form: str,
    out: Path | None,
    quantize: str,
    dtype: str,
    unchecked: bool,
    adapter: Path | None,
    method: str,
    model: str,
    backend: str,
    data: Path,
    adapters: Path,
    results: Path,
) -> None:
    """Write the taught model in the form that another program loads, with a card of what is known of it.

    A whole model (fused, gguf, ollama) has to give the answers of the last `engram eval` to the test set again, 99 %
    of them at least, in the program that will run it; else nothing is written.
    """
    from engram import backends
    from engram.export import evidence, stage
    from engram.models import model as models
    from engram.support import console
    from engram.support.text import visible

    name = backends.choose(backend)
    chosen = models.resolve(model)
    console.note(chosen.reason or f"model: {chosen.name}")
    needed = form not in stage.ADAPTERS and not unchecked
    folder = adapter or adapters / used(name, None, method)
    source = evidence.source(chosen, folder, results / used(name, adapter, method), data, needed)
    if source.evidence is None:
        console.note("no results of this adapter, so the card has no figures; make eval compare")
    place = out or Path("exports") / form
    document = stage.export(source, form, place, dtype if form == "fused" else quantize, unchecked, console.note)
    for check in document["checks"]:
        low, high = check["ci95"]
        click.echo(
            f"{check['program']}, {check['asked']}: {check['same']} of {check['n']} the same "
            f"[{100 * low:.1f}, {100 * high:.1f}]"
        )
    click.echo(f"{visible(str(place))}: {form}, {document['dtype']}" + (", not checked" if unchecked else ""))


COMMANDS = (export,)
