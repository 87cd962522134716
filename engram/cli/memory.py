"""The commands that look into a memory and change it, a fact at a time."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import click

from engram.cli.options import Shared, label, path_option, shared, value_option
from engram.support import console

folder_option = path_option("memory", "Folder of the memory; default: adapters/<backend>-memory.")


def folder(use: Shared, memory: Path | None) -> Path:
    """The folder of the memory: the given one, or the backend's own."""
    return memory or use.adapters / label(use.backend, None, "memory")


@click.group("memory")
def group() -> None:
    """Insert, delete, list and explain the facts of a memory.

    A memory holds rows of numbers for each fact, which the model reads at that fact's answer and nowhere else.
    """


@group.command()
@click.argument("input_")
@click.argument("output")
@folder_option
@shared("model_name", "backend_name", "settings", "adapters")
def insert(use: Shared, input_: str, output: str, memory: Path | None) -> None:
    """Teach that OUTPUT answers INPUT; every other row of the memory keeps its bits.

    The table is made if it doesn't exist. A fact that is in the table, or contradicts one that is, is refused.
    """
    from engram.memory.facts import Fact
    from engram.memory.table import has_lora
    from engram.training import teach_memory
    from engram.training.processes import Silent

    place, config = folder(use, memory), dataclasses.replace(use, method="memory").config
    at = teach_memory.set_up(use.backend, use.model, config, place if has_lora(place) else None)
    started = time.perf_counter()
    fitted = teach_memory.insert(at, place, [Fact(input_, output)], config, Silent())
    sure = "sure of every token" if not fitted.unsettled else "not sure of every token: --set memory_passes=40"
    console.note(f"{len(fitted.rows)} rows in {time.perf_counter() - started:.2f} s, {sure}: {place}")


@group.command()
@click.argument("inputs", nargs=-1, required=True)
@folder_option
@shared("backend_name", "adapters")
def delete(use: Shared, inputs: tuple[str, ...], memory: Path | None) -> None:
    """Forget the facts of these INPUTS; the model answers them as if they had never been taught."""
    from engram.training import teach_memory

    place = folder(use, memory)
    left = teach_memory.delete(place, inputs)
    console.note(f"{len(inputs)} forgotten, {left} left: {place}")


@group.command("list")
@click.option("--containing", default="", help="List only facts whose input or output contains this text.")
@folder_option
@shared("backend_name", "adapters")
def list_(use: Shared, containing: str, memory: Path | None) -> None:
    """The facts of a memory, and the model that they were taught to."""
    from engram.evaluation import tables
    from engram.memory import table

    place = folder(use, memory)
    tables.facts(table.intact(place), table.read(place), containing)


@group.command()
@click.argument("prompt")
@value_option("max-new-tokens", 64, "Tokens of an answer, at most.", click.IntRange(min=1))
@folder_option
@shared("model_name", "backend_name", "adapters")
def why(use: Shared, prompt: str, max_new_tokens: int, memory: Path | None) -> None:
    """Answer PROMPT, and show which fact's row each token came from, if any."""
    from engram.evaluation import attribution, tables

    tables.why(attribution.explained(use.backend, use.model, folder(use, memory), prompt, max_new_tokens))


@group.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@shared("model_name")
def merge(use: Shared, first: Path, second: Path, out: Path) -> None:
    """Write the facts of the memories FIRST and SECOND, of one model and layer, to OUT.

    A fact that both have is taken from FIRST; facts that contradict each other are refused.
    """
    from engram.memory import addresses
    from engram.models.tokenizer import load_encoder
    from engram.training import teach_memory

    encoder = load_encoder(use.model)
    count = teach_memory.merge(encoder, addresses.frame(encoder), first, second, out)
    console.note(f"{count} facts: {out}")


COMMANDS = (group,)
