"""The options that several commands share, and what a stage works with."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from engram.plan.config import MAX_SEED

if TYPE_CHECKING:
    from engram.models.model import Model
    from engram.plan.config import Config

F = TypeVar("F", bound=Callable[..., Any])
DATA, RESULTS, ADAPTERS = Path("data"), Path("results"), Path("adapters")


def _path(name: str, default: Path, text: str) -> Callable[[F], F]:
    return click.option(f"--{name}", type=click.Path(path_type=Path), default=default, show_default=True, help=text)


patterns_option = click.option(
    "--patterns", default="patterns", show_default=True, help="Folder, file or pack of patterns; several with commas."
)
data_option = _path("data", DATA, "Folder of the data.")
results_option = _path("results", RESULTS, "Folder of the results.")
adapters_option = _path("adapters", ADAPTERS, "Folder of the adapters, one for each backend.")
adapter_option = click.option(
    "--adapter", type=click.Path(path_type=Path), help="Use this adapter, of any backend, instead of the backend's own."
)
backend_option = click.option("--backend", default="auto", show_default=True, help="auto, mlx, cuda or cpu.")
model_option = click.option(
    "--model", default="auto", show_default=True, help="auto, a name of `engram models`, a hub id or a folder."
)
recipe_option = click.option(
    "--recipe", default="default", show_default=True, help="default, seed, or a .yaml file of settings."
)
seed_option = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, MAX_SEED), help="Seed of split, adapter and batches."
)
method_option = click.option(
    "--method",
    default="lora",
    show_default=True,
    type=click.Choice(["lora", "memory", "both"]),
    help="What is taught: a LoRA adapter, a memory, or a memory on top of the backend's adapter.",
)
set_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override one setting of the recipe."
)


nproc_option = click.option(
    "--nproc",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes on this machine that train as one (docs/distributed.md).",
)


def several_processes(command: F) -> F:
    """Add --nproc to a training command: with it, the command starts itself in several processes."""

    @functools.wraps(command)
    def launched(nproc: int, **others: Any) -> None:
        from engram import backends
        from engram.plan import sharding
        from engram.training import processes

        name = backends.choose(others["backend"])
        if nproc == 1:
            with processes.member(sharding.place(name)[0]):
                command(**others)
            return
        log = others["results"] / used(name, None, others["method"]) / "training.json"
        processes.launch(name, nproc, [*_typed(click.get_current_context()), "--backend", name], log)

    return nproc_option(launched)  # type: ignore[return-value]


def _typed(context: click.Context) -> list[str]:
    """The words of this command as they were typed, without the number of processes and the backend."""
    words = [str(context.info_name)]
    for option in context.command.params:
        name = str(option.name)
        typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not typed or name in ("nproc", "backend"):
            continue
        value = context.params[name]
        for one in value if option.multiple else (value,):
            words += [option.opts[0]] if one is True else [option.opts[0], str(one)]
    return words


def used(backend: str, adapter: Path | None, method: str = "lora") -> str:
    """The name of the results' folder: `<backend>`, `<backend>-<method>` where that is not LoRA, or
    `<backend>-with-<folder>` where another adapter is used."""
    if adapter:
        return f"{backend}-with-{Path(os.path.abspath(adapter)).name}"  # noqa: PTH100
    return backend if method == "lora" else f"{backend}-{method}"


class Work(NamedTuple):
    """What a stage works with."""

    backend: str
    model: Model
    config: Config


def stage_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a stage; those that name backend, model and settings reach it resolved, as `work`."""

    @functools.wraps(command)
    def settled(
        model: str, backend: str, method: str, recipe: str, seed: int, settings: tuple[str, ...], **others: Any
    ) -> None:
        from engram import backends
        from engram.models import model as models
        from engram.plan import config
        from engram.support import console

        name = backends.choose(backend)
        chosen = models.resolve(model)
        named = {"method": method} if method != "lora" else {}
        known = config.load_config(recipe, chosen.parameters, seed, {**named, **config.parse_overrides(settings)})
        console.announce(chosen, name, known)
        command(work=Work(name, chosen, known), **others)

    options = (model_option, backend_option, method_option, recipe_option, seed_option, set_option)
    wrapped: Callable[..., None] = settled
    for option in reversed((*options, data_option, adapters_option, results_option)):
        wrapped = option(wrapped)
    return wrapped
