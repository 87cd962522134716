"""The commands about models and this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from engram.cli.ask import MAX_NEW_TOKENS
from engram.cli.options import backend_option, model_option
from engram.show import ask_side


@click.command()
def models() -> None:
    """List the model names, and which of them are on this disk."""
    from engram.models import hub
    from engram.models import model as registry

    for name, hub_id in registry.REGISTRY.items():
        place = "bundled" if not hub_id else "on this disk" if hub.cached(hub_id) else "on the hub"
        click.echo(f"{name:15} {hub_id or 'made by `make base-model`':40} {place}")


@click.command("resolve-model")
@model_option
@click.option("--out", type=click.Path(path_type=Path), help="Write the name there.")
def resolve_model(model: str, out: Path | None) -> None:
    """Say which model MODEL means here, fetching it if it must be fetched."""
    from engram.models import model as models
    from engram.support.files import write_text
    from engram.support.text import visible

    chosen = models.resolve(model)
    spec = chosen.name if model == "auto" else model
    click.echo(visible(chosen.reason or f"model: {chosen.name}"))
    if out:
        write_text(out, spec + "\n")


@click.command("verify-model")
@model_option
@backend_option
@click.option("--prompt", default="Hello, world!", show_default=True, help="What to ask.")
def verify_model(model: str, backend: str, prompt: str) -> None:
    """Load the model and let it answer one prompt."""
    from engram import backends
    from engram.models import model as models
    from engram.show import ask
    from engram.support import console

    name = backends.choose(backend)
    chosen = models.resolve(model)
    console.note(chosen.reason or f"model: {chosen.name}")
    settings = ask_side.Settings(MAX_NEW_TOKENS, chosen.context)
    ask.once(ask.open_sides(name, chosen, {"answer": None}, settings), prompt)


@click.command()
@backend_option
def doctor(backend: str) -> None:
    """Say what this machine has: Python, packages, backend, BLAS or GPU, models, disk."""
    from engram.cli import doctor as checks
    from engram.support import console

    if not console.findings(checks.examine(backend)):
        sys.exit(2)


COMMANDS = (models, resolve_model, verify_model, doctor)
