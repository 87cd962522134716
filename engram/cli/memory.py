"""The commands that look into a memory and change it, a fact at a time."""

from __future__ import annotations

from pathlib import Path

import click

from engram.cli.options import adapters_option, backend_option, model_option, set_option, used

folder_option = click.option(
    "--memory",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the memory; default: adapters/<backend>-memory.",
)


@click.group()
def memory() -> None:
    """Facts one by one: put into a memory, taken out, listed, and why an answer came.

    A memory holds rows of numbers for each fact, which the model reads at that fact's answer and nowhere else.
    """


@memory.command()
@click.argument("input_")
@click.argument("output")
@folder_option
@model_option
@backend_option
@set_option
@adapters_option
def insert(
    input_: str,
    output: str,
    folder: Path | None,
    model: str,
    backend: str,
    settings: tuple[str, ...],
    adapters: Path,
) -> None:
    """Teach that OUTPUT answers INPUT; every other row of the memory stays as it is, bit for bit.

    The table is made where there is none. What is there already, or contradicts what is, is refused.
    """
    import time

    from engram import backends
    from engram.memory.adapter_folder import has_lora
    from engram.memory.facts import Fact
    from engram.models import model as models
    from engram.plan import config
    from engram.support import console
    from engram.training import teach_memory
    from engram.training.processes import Silent

    name, chosen = backends.choose(backend), models.resolve(model)
    place = folder or adapters / used(name, None, "memory")
    overrides = {"method": "memory", **config.parse_overrides(settings)}
    known = config.load_config("default", chosen.parameters, 0, overrides)
    at = teach_memory.desk(name, chosen, known, place if has_lora(place) else None)
    started = time.perf_counter()
    fitted = teach_memory.insert(at, place, [Fact(input_, output)], known, Silent())
    sure = "sure of every token" if not fitted.unsettled else "not sure of every token: --set memory_passes=40"
    console.note(f"{len(fitted.rows)} rows in {time.perf_counter() - started:.2f} s, {sure}: {place}")


@memory.command()
@click.argument("inputs", nargs=-1, required=True)
@folder_option
@backend_option
@adapters_option
def delete(inputs: tuple[str, ...], folder: Path | None, backend: str, adapters: Path) -> None:
    """Forget the facts of these INPUTS; the model answers them as if they had never been taught."""
    from engram import backends
    from engram.support import console
    from engram.training import teach_memory

    place = folder or adapters / used(backends.choose(backend), None, "memory")
    left = teach_memory.delete(place, inputs)
    console.note(f"{len(inputs)} forgotten, {left} left: {place}")


@memory.command("list")
@click.option("--containing", default="", help="Those alone whose input or output contains this text.")
@folder_option
@backend_option
@adapters_option
def list_(containing: str, folder: Path | None, backend: str, adapters: Path) -> None:
    """The facts of a memory, and the model that they were taught to."""
    from engram import backends
    from engram.evaluation import tables
    from engram.memory import table

    place = folder or adapters / used(backends.choose(backend), None, "memory")
    known = table.intact(place)
    tables.facts(known, table.read(place), containing)


@memory.command()
@click.argument("prompt")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="At most.")
@folder_option
@model_option
@backend_option
@adapters_option
def why(prompt: str, max_new_tokens: int, folder: Path | None, model: str, backend: str, adapters: Path) -> None:
    """Answer PROMPT, and say of each token which fact's row it came from, if any."""
    from engram import backends
    from engram.evaluation import attribution as why
    from engram.evaluation import tables
    from engram.models import model as models

    name, chosen = backends.choose(backend), models.resolve(model)
    place = folder or adapters / used(name, None, "memory")
    tables.why(why.explained(name, chosen, place, prompt, max_new_tokens))


@memory.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@model_option
def merge(first: Path, second: Path, out: Path, model: str) -> None:
    """Write the facts of the memories FIRST and SECOND, of one model and layer, to OUT.

    What both know is taken from FIRST; facts that contradict each other are refused.
    """
    from engram.memory import addresses
    from engram.models import model as models
    from engram.plan.encoding import load_encoder
    from engram.support import console
    from engram.training import teach_memory

    encoder = load_encoder(models.resolve(model))
    count = teach_memory.merge(encoder, addresses.frame(encoder), first, second, out)
    console.note(f"{count} facts: {out}")


COMMANDS = (memory,)
