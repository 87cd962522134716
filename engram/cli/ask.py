"""The command that answers questions of one's own."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from engram.cli.options import adapter_option, adapters_option, backend_option, method_option, model_option, used
from engram.show import ask_side

MAX_NEW_TOKENS = 128


@click.command()
@click.argument("question", required=False)
@click.option("--only", type=click.Choice(["baseline", "tuned"]), help="Let one model answer alone.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=MAX_NEW_TOKENS,
    show_default=True,
    help="Tokens of an answer, at most.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 5),
    default=0.0,
    show_default=True,
    help="Draw answers; 0 is greedy, always the same.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of drawn answers.")
@click.option(
    "--quantize",
    type=click.Choice(["none", "4bit"]),
    default="none",
    show_default=True,
    help="4bit: backend cuda alone.",
)
@adapter_option
@method_option
@model_option
@backend_option
@adapters_option
def ask(
    question: str | None,
    only: str | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    quantize: str,
    adapter: Path | None,
    method: str,
    model: str,
    backend: str,
    adapters: Path,
) -> None:
    """Answer QUESTION with the base model and with the tuned one, side by side, as the tokens come.

    Without QUESTION a conversation: each model keeps its own answers, /new starts over, /quit leaves. Through a pipe
    every line is a question of its own. Nothing that is asked or answered is written anywhere.
    """
    from engram import backends
    from engram.models import model as models
    from engram.show import ask as asking
    from engram.support import console

    name, chosen = backends.choose(backend), models.resolve(model)
    folder = adapter or adapters / used(name, None, method)
    both: dict[str, Path | None] = {"baseline": None, "tuned": folder}
    answering = {one: place for one, place in both.items() if only in (None, one)}
    taught = f" · {'adapter' if method == 'lora' else method}: {folder}" if "tuned" in answering else ""
    console.note(f"model: {chosen.name} · backend: {name}{taught}")
    settings = ask_side.Settings(max_new_tokens, chosen.context, temperature, seed)
    sides = asking.open_sides(name, chosen, answering, settings, quantize)
    if question is not None:
        asking.once(sides, question)
    elif sys.stdin.isatty():
        asking.talk(sides)
    else:
        asking.each(sides, (line.decode("utf-8", "replace") for line in sys.stdin.buffer))


COMMANDS = (ask,)
