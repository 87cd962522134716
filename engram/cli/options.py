"""The options that several commands share, and the values that follow from them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from engram.plan.config import MAX_SEED

if TYPE_CHECKING:
    from engram.models.model import Model
    from engram.plan.config import Config

Command = Callable[..., None]


@dataclass(frozen=True)
class Shared:
    """The values of the shared options; backend, model and configuration are resolved when a command asks for them."""

    patterns: str = ""
    data: Path = Path("data")
    adapters: Path = Path("adapters")
    results: Path = Path("results")
    adapter: Path | None = None
    model_name: str = "auto"
    backend_name: str = "auto"
    method: str = "lora"
    recipe: str = "default"
    seed: int = 0
    settings: tuple[str, ...] = ()

    @functools.cached_property
    def backend(self) -> str:
        """The backend's name, `auto` resolved."""
        from engram import backends

        return backends.choose(self.backend_name)

    @functools.cached_property
    def model(self) -> Model:
        """The model, fetched where it must be."""
        from engram.models import model as models

        return models.resolve(self.model_name)

    @functools.cached_property
    def config(self) -> Config:
        """The recipe with the command's settings on top."""
        return self.configured(self.seed)

    def configured(self, seed: int, **overrides: str) -> Config:
        """The recipe of another seed; `overrides` go between the recipe and the command's own settings."""
        from engram.plan import config

        named = {"method": self.method} if self.method != "lora" else {}
        overrides = {**named, **overrides, **config.parse_overrides(self.settings)}
        return config.load_config(self.recipe, self.model.parameters, seed, overrides)

    @property
    def run(self) -> Path:
        """The folder of this run's results."""
        return self.results / label(self.backend, self.adapter, self.method)

    @property
    def taught(self) -> Path:
        """The folder of the adapter or memory: the given one, or the backend's own."""
        return self.adapter or self.adapters / label(self.backend, None, self.method)

    def announce(self) -> None:
        """Print which model, backend and recipe a stage works with."""
        from engram.support import console

        if self.model.reason:
            console.note(self.model.reason)
        recipe = f"recipe: {self.config.name} · seed: {self.config.seed}"
        console.note(f"model: {self.model.name} · backend: {self.backend} · {recipe}")

    def announce_model(self) -> None:
        """Print which model a command works with, and why where it was chosen."""
        from engram.support import console

        console.note(self.model.reason or f"model: {self.model.name}")


def label(backend: str, adapter: Path | None, method: str = "lora") -> str:
    """The name of a run's folder: `<backend>`, `<backend>-<method>` for a method other than LoRA, or
    `<backend>-with-<folder>` for another adapter."""
    if adapter:
        return f"{backend}-with-{Path(os.path.abspath(adapter)).name}"  # noqa: PTH100
    from engram.training.methods import METHODS

    return METHODS[method].label(backend)


def path_option(name: str, text: str, default: Path | None = None) -> Callable[[Command], Command]:
    """An option that takes a path."""
    kind = click.Path(path_type=Path)
    return click.option(f"--{name}", type=kind, default=default, show_default=default is not None, help=text)


def value_option(name: str, default: Any, text: str, kind: Any = None, **more: Any) -> Callable[[Command], Command]:
    """An option whose default is shown."""
    return click.option(f"--{name}", type=kind, default=default, show_default=True, help=text, **more)


# by the field of `Shared`
OPTIONS: dict[str, Callable[[Command], Command]] = {
    "patterns": value_option("patterns", "patterns", "Folder, file or pack of patterns; several with commas."),
    "data": path_option("data", "Folder of the data.", Path("data")),
    "adapters": path_option("adapters", "Folder of the adapters, one for each backend.", Path("adapters")),
    "results": path_option("results", "Folder of the results.", Path("results")),
    "adapter": path_option("adapter", "Use this adapter, of any backend, instead of the backend's own."),
    "model_name": click.option(
        *("--model", "model_name"),
        default="auto",
        show_default=True,
        help="auto, a name of `engram models`, a hub id or a folder.",
    ),
    "backend_name": click.option(
        *("--backend", "backend_name"), default="auto", show_default=True, help="auto, mlx, cuda or cpu."
    ),
    "method": value_option(
        "method",
        "lora",
        "A LoRA adapter, a memory, or a memory on top of the backend's adapter.",
        click.Choice(["lora", "memory", "both"]),
    ),
    "recipe": value_option("recipe", "default", "default, seed, or a .yaml file of settings."),
    "seed": value_option("seed", 0, "Seed of split, adapter and batches.", click.IntRange(0, MAX_SEED)),
    "settings": click.option(
        *("--set", "settings"), multiple=True, metavar="KEY=VALUE", help="Override one setting of the recipe."
    ),
}
STAGE = ("model_name", "backend_name", "method", "recipe", "seed", "settings", "data", "adapters", "results")


def shared(*names: str) -> Callable[[Command], Command]:
    """Add these options to a command, which gets their values as one `Shared`, its first argument."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def gathered(**given: Any) -> None:
            use = Shared(**{name: given.pop(name) for name in names})
            command(use, **given)

        wrapped: Command = gathered
        for name in reversed(names):
            wrapped = OPTIONS[name](wrapped)
        return wrapped

    return decorate


def several_processes(command: Command) -> Command:
    """Add --nproc to a training command: with it, the command starts itself in several processes."""

    @functools.wraps(command)
    def launched(nproc: int, **others: Any) -> None:
        from engram import backends
        from engram.plan import sharding
        from engram.training import processes

        name = backends.choose(others["backend_name"])
        if nproc == 1:
            with processes.member(sharding.place(name)[0]):
                command(**others)
            return
        log = others["results"] / label(name, None, others["method"]) / "training.json"
        processes.launch(name, nproc, [*_typed(click.get_current_context()), "--backend", name], log)

    text = "Processes on this machine that train as one (docs/distributed.md)."
    return value_option("nproc", 1, text, click.IntRange(min=1))(launched)


def _typed(context: click.Context) -> list[str]:
    """The words of this command as they were typed, without the number of processes and the backend."""
    words = [str(context.info_name)]
    for option in context.command.params:
        name = str(option.name)
        typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not typed or name in ("nproc", "backend_name"):
            continue
        value = context.params[name]
        for one in value if option.multiple else (value,):
            words += [option.opts[0]] if one is True else [option.opts[0], str(one)]
    return words
