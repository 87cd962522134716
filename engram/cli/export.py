"""The commands that write for other programs: the model, its adapter's layout, and the test set."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import click

from engram.cli.options import Shared, path_option, shared, value_option
from engram.support import console
from engram.support.errors import EngramError
from engram.support.text import visible

FORMAT = "The adapter alone (peft, mlx), or the whole model."
DTYPE = "How fused stores its numbers: in the base model's precision, or in float32."


@click.command()
@click.option(
    *("--format", "form"), type=click.Choice(["peft", "mlx", "fused", "gguf", "ollama"]), required=True, help=FORMAT
)
@path_option("out", "Folder to write; default: exports/<format>.")
@value_option("quantize", "f16", "How gguf and ollama store matrices.", click.Choice(["f16", "q8_0"]))
@value_option("dtype", "base", DTYPE, click.Choice(["base", "float32"]))
@click.option("--unchecked", is_flag=True, help="Skip the check of the export's answers; the card says so.")
@shared("adapter", "method", "model_name", "backend_name", "data", "adapters", "results")
def export(use: Shared, form: str, out: Path | None, quantize: str, dtype: str, unchecked: bool) -> None:
    """Write the taught model for another program. A model card comes with it.

    A whole model (fused, gguf, ollama) must repeat at least 99 % of the answers of the last `engram eval` to the test
    set, in the program that will run it; else nothing is written.
    """
    from engram.export import card, stage

    use.announce_model()
    needed = form not in stage.ADAPTERS and not unchecked
    source = card.source(use.model, use.taught, use.run, use.data, needed)
    if source.evidence is None:
        console.note("no results of this adapter, so the card has no figures; make eval compare")
    place = out or Path("exports") / form
    document = stage.export(source, form, place, dtype if form == "fused" else quantize, unchecked, console.note)
    for check in document["checks"]:
        agreeing = f"{check['same']} of {check['n']} the same {console.interval(check['ci95'])}"
        click.echo(f"{check['program']}, {check['asked']}: {agreeing}")
    click.echo(f"{visible(str(place))}: {form}, {document['dtype']}" + (", not checked" if unchecked else ""))


@click.group()
def adapter() -> None:
    """Show a LoRA adapter, or convert it between PEFT and mlx-lm."""


@adapter.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["peft", "mlx"]), help="The layout to write; default: the one SRC is not in.")
def convert(source: Path, target: Path, to: str | None) -> None:
    """Write the adapter of folder SRC to the new folder DST in another layout.

    Converted back, its two files are the same byte by byte.
    """
    from engram.models import conversion

    layout = conversion.convert(source, target, to or "")
    click.echo(f"{visible(str(source))} → {visible(str(target))}, in {layout}'s layout")


@adapter.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
def show(source: Path) -> None:
    """Describe the adapter in SRC: layout, rank, scale, targets, parameters, hash."""
    from engram.models import conversion

    for name, value in conversion.describe(source).items():
        click.echo(f"{name:11}{visible(value)}")


@click.command("export-eval")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@shared("data", "model_name", "recipe", "settings")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Longest answer; default: the recipe's.")
def export_eval(use: Shared, folder: Path, max_new_tokens: int | None) -> None:
    """Write the test set into DIR for lm-evaluation-harness. The task is called `engram`."""
    from engram.evaluation import harness

    use.announce_model()
    longest = max_new_tokens or use.config.max_new_tokens
    files = harness.export(use.data, folder, use.model, dataclasses.replace(use.config, max_new_tokens=longest))
    place, where = visible(str(folder)), visible(str(use.model.path))
    click.echo(f"{len(files)} files in {place}; README.md there has the commands, with MODEL={where}")


@click.command()
@value_option("port", 8080, "Where to listen on this machine.", click.IntRange(1, 65535))
@shared("adapter", "method", "model_name", "backend_name", "data", "adapters", "results")
def serve(use: Shared, port: int) -> None:
    """Serve the taught model with OpenAI's protocol.

    It runs the server of mlx-lm on the backend mlx, else that of llama.cpp; on this machine alone.
    """
    from engram import backends

    use.announce_model()
    if not use.taught.is_dir():
        raise EngramError("nothing was taught yet", where=str(use.taught), fix="make train")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise EngramError("another program listens there", where=f"port {port}", fix=f"--port {port + 1}")
    asked = '{"messages": [{"role": "user", "content": "Port of billing"}], "max_tokens": 32}'
    click.echo(f"http://127.0.0.1:{port}/v1 (Ctrl-C stops it); once it listens:")
    click.echo(f"curl -H 'Content-Type: application/json' http://127.0.0.1:{port}/v1/chat/completions -d '{asked}'")
    if use.backend == "mlx":
        backends.check("mlx")
        from engram.backends.mlx import backend

        backend.serve(use.model, use.taught, port)
    else:
        from engram.export import card, stage

        stage.serve(card.source(use.model, use.taught, use.run, use.data, False), port)


COMMANDS = (export, adapter, export_eval, serve)
