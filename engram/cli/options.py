"""The options that several commands share, and the values that follow from them."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import Choice, IntRange
from click.core import ParameterSource

from engram.plan.config import MAX_SEED, Config, load_config, parse_overrides
from engram.support import console

if TYPE_CHECKING:
    from engram.evaluation.pipeline import Work
    from engram.models.model import Model

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
    holdout: str = "rules"
    settings: tuple[str, ...] = ()
    checkpoint_every: int = 25  # steps
    fresh: bool = False
    report_to: str | None = None
    nproc: int = 1

    @functools.cached_property
    def backend(self) -> str:
        """The backend's name, `auto` resolved."""
        from engram import backends

        return backends.choose(self.backend_name)

    @functools.cached_property
    def model(self) -> Model:
        """The model, fetched where it must be."""
        from engram.models.model import resolve

        return resolve(self.model_name)

    @functools.cached_property
    def config(self) -> Config:
        """The recipe with the command's settings on top."""
        return self.configured(self.seed)

    def configured(self, seed: int) -> Config:
        """The recipe of another seed, with the command's settings on top."""
        named = {"method": self.method} if self.method != "lora" else {}
        overrides = {**named, **parse_overrides(self.settings)}
        return load_config(self.recipe, self.model.parameters, seed, overrides)

    @functools.cached_property
    def work(self) -> Work:
        """The run that these options describe, for its stages."""
        from engram.evaluation.pipeline import Work
        from engram.patterns.loading import find_files
        from engram.training.methods import LORA, METHODS

        under = None
        if METHODS[self.method].needs_adapter and self.adapter is None:
            lora = dataclasses.replace(self, method=LORA.name)
            under = handed_on(self, lora).work
        files = tuple(find_files(self.patterns)) if self.patterns else ()
        places = (self.data, self.taught, self.run, self.run / "training.json")
        given = self.adapter is not None
        return Work(self.backend, self.model, self.config, files, *places, under, given, self.holdout)

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
        if self.model.reason:
            console.note(self.model.reason)
        recipe = f"recipe: {self.config.name} · seed: {self.config.seed}"
        console.note(f"model: {self.model.name} · backend: {self.backend} · {recipe}")

    def announce_model(self) -> None:
        """Print which model a command works with, and why where it was chosen."""
        console.note(self.model.reason or f"model: {self.model.name}")


def handed_on(one: Shared, other: Shared) -> Shared:
    """`other` with what `one` has resolved already; both must have the same model and backend."""
    known = ("backend", "model")
    vars(other).update({name: value for name, value in vars(one).items() if name in known})
    return other


def label(backend: str, adapter: Path | None, method: str = "lora") -> str:
    """A run's folder: `<backend>`, `<backend>-<method>` if not LoRA, `<backend>-with-<folder>` of another adapter."""
    if adapter:
        return f"{backend}-with-{Path(os.path.abspath(adapter)).name}"  # noqa: PTH100
    from engram.training.methods import METHODS

    return METHODS[method].label(backend)


def path_option(name: str, text: str, default: Path | None = None) -> Callable[[Command], Command]:
    """An option that takes a path."""
    return value_option(name, default, text, click.Path(path_type=Path))


def value_option(
    name: str, default: Any, text: str, kind: Any = None, *dest: str, **more: Any
) -> Callable[[Command], Command]:
    """An option whose default is shown; `dest` is the parameter's name where that is another."""
    return click.option(f"--{name}", *dest, type=kind, default=default, show_default=True, help=text, **more)


MODEL = "auto, a name of `engram models`, a hub id, a folder, a GGUF file."
METHOD = "A LoRA adapter, a memory, or a memory on top of the backend's adapter."
HOLDOUT = "What is never taught: members of rules and one rewording each, or nothing."
SET = "Override one setting of the recipe."
FRESH = "Drop the checkpoint of an interrupted run; train from step 1."
CURVE = "Write the curve for it too, in <results>/<backend>/logs; wandb stays offline unless WANDB_MODE says else."
# by the field of `Shared`
OPTIONS: dict[str, Callable[[Command], Command]] = {
    "patterns": value_option("patterns", "patterns", "Folder, file or pack of patterns; several with commas."),
    "data": path_option("data", "Folder of the data.", Path("data")),
    "adapters": path_option("adapters", "Folder of the adapters, one for each backend.", Path("adapters")),
    "results": path_option("results", "Folder of the results.", Path("results")),
    "adapter": path_option("adapter", "Use this adapter, of any backend, instead of the backend's own."),
    "model_name": value_option("model", "auto", MODEL, None, "model_name"),
    "backend_name": value_option("backend", "auto", "auto, mlx, cuda or cpu.", None, "backend_name"),
    "method": value_option("method", "lora", METHOD, Choice(["lora", "memory", "both"])),
    "recipe": value_option("recipe", "default", "default, seed, or a .yaml file of settings."),
    "seed": value_option("seed", 0, "Seed of split, adapter and batches.", IntRange(0, MAX_SEED)),
    "holdout": value_option("holdout", "rules", HOLDOUT, Choice(["rules", "none"])),
    "settings": click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=SET),
    "checkpoint_every": value_option("checkpoint-every", 25, "Steps between two checkpoints; 0 for none.", IntRange(0)),
    "fresh": click.option("--fresh", is_flag=True, help=FRESH),
    "report_to": click.option("--report-to", type=Choice(["tensorboard", "wandb"]), help=CURVE),
    "nproc": value_option("nproc", 1, "Processes that train as one (docs/distributed.md).", IntRange(min=1)),
}
TRAINING = ("checkpoint_every", "fresh", "report_to", "nproc")
STAGE = ("model_name", "backend_name", "method", "recipe", "seed", "settings", "data", "adapters", "results")


def shared(*names: str) -> Callable[[Command], Command]:
    """Add these options to a command, which gets their values as one `Shared`, its first argument."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def gathered(**given: Any) -> None:
            use = Shared(**{name: given.pop(name) for name in names})
            outer = click.get_current_context().find_object(Shared)
            if outer and (outer.model_name, outer.backend_name) == (use.model_name, use.backend_name):
                use = handed_on(outer, use)
            command(use, **given)

        wrapped: Command = gathered
        for name in reversed(names):
            wrapped = OPTIONS[name](wrapped)
        return wrapped

    return decorate


def typed(context: click.Context, names: Sequence[str]) -> list[str]:
    """The options of these names, as they were typed."""
    words = []
    for option in context.command.params:
        name = str(option.name)
        if name not in names or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        for one in value if option.multiple else (value,):
            words += [option.opts[0]] if one is True else [option.opts[0], str(one)]
    return words
