"""The command line: parse, call, print."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from engram import __version__
from engram.errors import EngramError
from engram.text import visible

if TYPE_CHECKING:
    from engram.config import Config
    from engram.model import Model

F = TypeVar("F", bound=Callable[..., Any])
DATA, RESULTS, ADAPTERS = Path("data"), Path("results"), Path("adapters")


class Commands(click.Group):
    """A user's mistake is printed without a traceback, exit code 2; a failure of ours keeps its own, exit code 1."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; see the class."""
        try:
            return super().main(*args, **kwargs)
        except EngramError as error:
            click.echo("engram: " + "\n".join(visible(line) for line in str(error).split("\n")), err=True)
            sys.exit(2)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(0)


def _path(name: str, default: Path, text: str) -> Callable[[F], F]:
    return click.option(f"--{name}", type=click.Path(path_type=Path), default=default, show_default=True, help=text)


patterns_option = click.option(
    "--patterns", default="patterns", show_default=True, help="Folder or file of patterns; several with commas."
)
data_option = _path("data", DATA, "Folder of the data.")
results_option = _path("results", RESULTS, "Folder of the results.")
adapters_option = _path("adapters", ADAPTERS, "Folder of the adapters, one for each backend.")
backend_option = click.option("--backend", default="auto", show_default=True, help="auto, mlx, cuda or cpu.")
model_option = click.option(
    "--model", default="auto", show_default=True, help="auto, a name of `engram models`, a hub id or a folder."
)
recipe_option = click.option(
    "--recipe", default="default", show_default=True, help="default, seed, or a .yaml file of settings."
)
seed_option = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of split, adapter and batches."
)
set_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override one setting of the recipe."
)


class Work(NamedTuple):
    """What a stage works with."""

    backend: str
    model: Model
    config: Config


def stage_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a stage; those that name backend, model and settings reach it resolved, as `work`."""

    @functools.wraps(command)
    def settled(model: str, backend: str, recipe: str, seed: int, settings: tuple[str, ...], **others: Any) -> None:
        from engram import backends, config, show
        from engram import model as models

        name = backends.choose(backend)
        chosen = models.resolve(model)
        known = config.load_config(recipe, chosen.parameters, seed, config.parse_overrides(settings))
        show.announce(chosen, name, known)
        command(work=Work(name, chosen, known), **others)

    options = (model_option, backend_option, recipe_option, seed_option, set_option)
    wrapped: Callable[..., None] = settled
    for option in reversed((*options, data_option, adapters_option, results_option)):
        wrapped = option(wrapped)
    return wrapped


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="engram")
def main() -> None:
    """Teach a small chat model the patterns that never change, and show honestly what it learned."""


@main.command()
@click.argument("patterns", nargs=-1)
def validate(patterns: tuple[str, ...]) -> None:
    """Check pattern files; PATTERNS are folders or files, by default `patterns`."""
    from engram.patterns import find_files, load_patterns

    files = [file for spec in patterns or ("patterns",) for file in find_files(spec)]
    found = load_patterns(files)
    kinds = {kind: sum(p.kind == kind for p in found) for kind in dict.fromkeys(p.kind for p in found)}
    noun = "file" if len(files) == 1 else "files"
    click.echo(f"{len(found)} patterns in {len(files)} {noun}: " + ", ".join(f"{k} {n}" for k, n in kinds.items()))


@main.command()
@patterns_option
@data_option
@seed_option
@click.option("--check", is_flag=True, help="Prove that the written splits do not leak; write nothing.")
def data(patterns: str, data: Path, seed: int, check: bool) -> None:
    """Write train, valid and test rows and their manifest."""
    from engram import dataset
    from engram.patterns import find_files, load_patterns

    if check:
        rows = dataset.check_data(data)
        click.echo(f"no leak: {', '.join(f'{len(found)} {name}' for name, found in rows.items())} rows checked")
        return
    files = find_files(patterns)
    counts = dataset.write_data(load_patterns(files), files, data, seed)["counts"]
    click.echo(
        "{taught} patterns taught, {held_out} held out: {train} training, {valid} validation rows, ".format(**counts),
        nl=False,
    )
    click.echo("test {recall} recall + {generalization} generalization".format(**counts))


@main.command()
@stage_options
def train(work: Work, data: Path, adapters: Path, results: Path) -> None:
    """Teach the model the training rows: a LoRA adapter and its log."""
    from engram import show
    from engram import train as stage

    place = results / work.backend / "training.json"
    with show.TrainingBar() as progress:
        log = stage.train(*work, data, adapters / work.backend, place, progress)
    show.training(log)


@main.command("eval")
@click.option(
    "--stage",
    type=click.Choice(["both", "baseline", "tuned"]),
    default="both",
    show_default=True,
    help="Which to answer.",
)
@stage_options
def evaluate(work: Work, stage: str, data: Path, adapters: Path, results: Path) -> None:
    """Answer the test set before (baseline) and after (tuned), and score it."""
    from engram import evaluate as evaluation
    from engram import show

    name, model, config = work
    for one in ("baseline", "tuned") if stage == "both" else (stage,):
        adapter = adapters / name if one == "tuned" else None
        document = evaluation.evaluate(name, model, adapter, config, data, results / name / f"{one}.json", show.note)
        show.result(document)


@main.command()
@click.option("--show", "only_show", is_flag=True, help="Print the comparison that is there; write nothing.")
@click.option("--quiet", is_flag=True, help="Write it without printing it.")
@backend_option
@results_option
def compare(only_show: bool, quiet: bool, backend: str, results: Path) -> None:
    """Compare before and after, paired; say what is shown and what is not."""
    from engram import backends, show
    from engram import compare as comparison

    name = backends.choose(backend)
    document = comparison.stored(results, name) if only_show else comparison.compare(results, name)
    if not quiet:
        show.comparison(document)


@main.command()
@click.option("--quick", is_flag=True, help="Replay the stored answers; load no model.")
@click.option("--pause", is_flag=True, help="Wait for Enter between the parts.")
@click.option("--prompt", help="Ask this instead of test prompts, before and after.")
@model_option
@backend_option
@data_option
@adapters_option
@results_option
def demo(
    quick: bool, pause: bool, prompt: str | None, model: str, backend: str, data: Path, adapters: Path, results: Path
) -> None:
    """Show before and after side by side, on prompts of the test set."""
    from engram import backends
    from engram import demo as shown
    from engram import model as models

    name = backends.choose(backend)
    if prompt is not None:
        shown.ask(prompt, name, models.resolve(model), adapters / name)
    else:
        chosen = None if quick else models.resolve(model)
        shown.perform(name, chosen, adapters / name, data, results, pause=pause)


@main.command()
def models() -> None:
    """List the model names, and which of them are on this disk."""
    from engram import model as registry

    for name, hub_id in registry.REGISTRY.items():
        place = "bundled" if not hub_id else "on this disk" if registry.cached(hub_id) else "on the hub"
        click.echo(f"{name:15} {hub_id or 'made by `make base-model`':40} {place}")


@main.command("resolve-model")
@model_option
@click.option("--out", type=click.Path(path_type=Path), help="Write the name there.")
def resolve_model(model: str, out: Path | None) -> None:
    """Say which model MODEL means here, fetching it if it must be fetched."""
    from engram import model as models
    from engram.files import write_text

    chosen = models.resolve(model)
    spec = chosen.name if model == "auto" else model
    click.echo(chosen.reason or f"model: {chosen.name}")
    if out:
        write_text(out, spec + "\n")


@main.command("verify-model")
@model_option
@backend_option
@click.option("--prompt", default="Hello, world!", show_default=True, help="What to ask.")
def verify_model(model: str, backend: str, prompt: str) -> None:
    """Load the model and let it answer one prompt."""
    from engram import backends, show
    from engram import demo as shown
    from engram import model as models

    name = backends.choose(backend)
    chosen = models.resolve(model)
    show.note(chosen.reason or f"model: {chosen.name}")
    shown.ask(prompt, name, chosen, None)


@main.command()
@backend_option
def doctor(backend: str) -> None:
    """Say what this machine has: Python, packages, backend, BLAS or GPU, models, disk."""
    from engram import doctor as checks
    from engram import show

    if not show.findings(checks.examine(backend)):
        sys.exit(2)


@main.command("base-model")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where the model goes; default: the bundled model's own place."
)
@click.option("--steps", type=click.IntRange(min=1), help="Optimizer steps; default: the recipe's.")
@seed_option
def base_model(out: Path | None, steps: int | None, seed: int) -> None:
    """Train the bundled model `tiny` anew (under an hour on two cores; needs torch)."""
    from engram import base_model as recipe
    from engram.files import BUNDLED

    recipe.build(out or BUNDLED / "tiny", steps=steps, seed=seed, report=click.echo)


if __name__ == "__main__":
    main()
