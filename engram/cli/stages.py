"""The commands of the stages, from patterns to the show."""

from __future__ import annotations

from pathlib import Path

import click

from engram.cli.options import (
    Work,
    adapter_option,
    adapters_option,
    backend_option,
    data_option,
    method_option,
    model_option,
    patterns_option,
    recipe_option,
    results_option,
    seed_option,
    set_option,
    several_processes,
    stage_options,
    used,
)


@click.command()
@patterns_option
@data_option
@seed_option
@click.option("--check", is_flag=True, help="Prove that the written splits do not leak; write nothing.")
def data(patterns: str, data: Path, seed: int, check: bool) -> None:
    """Write train, valid and test rows and their manifest."""
    from engram.dataset import build
    from engram.patterns.loading import find_files, load_patterns

    if check:
        rows = build.check_data(data)
        click.echo(f"no leak: {', '.join(f'{count} {name}' for name, count in rows.items())} rows checked")
        return
    files = find_files(patterns)
    counts = build.write_data(load_patterns(files), files, data, seed)["counts"]
    click.echo(
        "{taught} patterns taught, {held_out} held out: {train} training, {valid} validation rows, ".format(**counts),
        nl=False,
    )
    click.echo("test {recall} recall + {generalization} generalization".format(**counts))


@click.command()
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=0),
    default=25,
    show_default=True,
    metavar="STEPS",
    help="Steps between two checkpoints, from which the same command goes on; 0 for none.",
)
@click.option("--fresh", is_flag=True, help="Drop the checkpoint of an interrupted run, and begin at the first step.")
@click.option(
    "--report-to",
    type=click.Choice(["tensorboard", "wandb"]),
    help="Write the curve for it too, below <results>/<backend>/logs; wandb stays offline unless WANDB_MODE says else.",
)
@several_processes
@stage_options
def train(
    work: Work,
    checkpoint_every: int,
    fresh: bool,
    report_to: str | None,
    data: Path,
    adapters: Path,
    results: Path,
) -> None:
    """Teach the model the training rows: a LoRA adapter and its log. Interrupted, it goes on where it was.

    With --method memory the rows of a memory instead, and with --method both such rows on top of the adapter that is
    there.
    """
    from engram.plan import sharding
    from engram.plan.checkpoint import Saving
    from engram.support import console
    from engram.training import teach_memory, tracking
    from engram.training import train as stage

    label = used(work.backend, None, work.config.method)
    place, first = results / label, sharding.place(work.backend)[0] == 0
    name = f"{work.backend}-{Path(work.model.name).name}-{work.config.name}-seed{work.config.seed}"
    with (
        console.TrainingBar() as bar,
        tracking.tracked(report_to if first else None, bar, work.config, name, place / "logs") as progress,
    ):
        if work.config.method != "lora":
            teach_memory.refuse_several(sharding.place(work.backend)[1])
            under = adapters / work.backend if work.config.method == "both" else None
            log = teach_memory.train(*work, data, adapters / label, place / "training.json", progress, under)
        else:
            saving = Saving(checkpoint_every, fresh)
            log = stage.train(*work, data, adapters / label, place / "training.json", progress, saving)
    if log:  # a process that is not the first has none
        console.training(log)


@click.command("eval")
@click.option(
    "--stage",
    type=click.Choice(["both", "baseline", "tuned"]),
    default="both",
    show_default=True,
    help="Which to answer.",
)
@click.option("--fresh-baseline", is_flag=True, help="Measure the baseline, even if it was measured before.")
@adapter_option
@stage_options
def evaluate(
    work: Work, stage: str, fresh_baseline: bool, adapter: Path | None, data: Path, adapters: Path, results: Path
) -> None:
    """Answer the test set before (baseline) and after (tuned), and score it.

    A baseline that was measured before, of the same model, data, settings, code and packages on this machine, is taken
    from the cache, and it is said when that was.
    """
    from engram.evaluation import baselines, tables
    from engram.evaluation import evaluate as evaluation
    from engram.support import console

    name, model, config = work
    place = results / used(name, adapter, config.method)
    folder = adapter or adapters / used(name, None, config.method)
    for one in ("baseline", "tuned") if stage == "both" else (stage,):
        given = folder if one == "tuned" else None
        document = evaluation.evaluate(
            name, model, given, config, data, place / f"{one}.json", console.note, baselines.place(), fresh_baseline
        )
        tables.result(document)


@click.command()
@click.option("--show", "only_show", is_flag=True, help="Print the comparison that is there; write nothing.")
@click.option("--quiet", is_flag=True, help="Write it without printing it.")
@click.option("--categories", is_flag=True, help="Print each category too.")
@click.option("--across", is_flag=True, help="Print every run beside the others; refuse those that differ.")
@adapter_option
@method_option
@backend_option
@results_option
def compare(
    only_show: bool,
    quiet: bool,
    categories: bool,
    across: bool,
    adapter: Path | None,
    method: str,
    backend: str,
    results: Path,
) -> None:
    """Compare before and after, paired, and the backends with each other; say what is shown and what is not."""
    from engram import backends
    from engram.evaluation import compare as comparison
    from engram.evaluation import compare_runs as platforms
    from engram.evaluation import tables

    if across:
        together = platforms.collect(results)
        tables.across(together)
        platforms.refuse_unlike(together, results)
        return
    place = results / used(backends.choose(backend), adapter, method)
    document = comparison.stored(place) if only_show else comparison.compare(place)
    if not only_show:
        platforms.collect(results)
    if not quiet:
        tables.comparison(document)
    if categories:
        tables.categories(document)


@click.command()
@click.option("--seeds", "seed_list", default="0,1,2", show_default=True, help="Seeds, as 1,2,3 or 0-4.")
@model_option
@backend_option
@method_option
@recipe_option
@set_option
@patterns_option
@results_option
def seeds(
    seed_list: str,
    model: str,
    backend: str,
    method: str,
    recipe: str,
    settings: tuple[str, ...],
    patterns: str,
    results: Path,
) -> None:
    """Run every stage for several seeds; write and print their mean and spread."""
    from engram import backends
    from engram.evaluation import seeds as several
    from engram.evaluation import tables
    from engram.models import model as models
    from engram.patterns.loading import find_files
    from engram.plan import config
    from engram.support import console

    chosen, name, numbers = models.resolve(model), backends.choose(backend), several.parse(seed_list)
    overrides = {**({"method": method} if method != "lora" else {}), **config.parse_overrides(settings)}
    configs = [config.load_config(recipe, chosen.parameters, seed, overrides) for seed in numbers]
    files = find_files(patterns)
    tables.seeds(several.campaign(name, chosen, configs, files, results / "seeds", console.note))


def _speed(_context: click.Context, _option: click.Parameter, value: float) -> float:
    if value == 0 or 0.5 <= value <= 10:
        return value
    raise click.BadParameter(f"{value:g} is neither 0 (no waiting) nor from 0.5 to 10.")


@click.command()
@click.option("--quick", is_flag=True, help="Replay the stored answers; load no model.")
@click.option("--pause", is_flag=True, help="Wait for a key after each screen.")
@click.option("--speed", default=1.0, show_default=True, callback=_speed, help="0.5 to 10; 0 prints without waiting.")
@click.option("--width", type=click.IntRange(20, 300), help="Draw as on a terminal of so many columns.")
@click.option("--platforms", metavar="NAME,NAME", help="Show two folders of the results side by side, as mlx,cuda.")
@adapter_option
@method_option
@model_option
@backend_option
@patterns_option
@data_option
@adapters_option
@results_option
def demo(
    quick: bool,
    pause: bool,
    speed: float,
    width: int | None,
    platforms: str | None,
    adapter: Path | None,
    method: str,
    model: str,
    backend: str,
    patterns: str,
    data: Path,
    adapters: Path,
    results: Path,
) -> None:
    """Show before and after side by side, on prompts of the test set."""
    from engram import backends
    from engram.models import model as models
    from engram.show.demo import demo as shown

    manner = shown.Manner(speed, width, pause)
    if platforms is not None:
        shown.perform_platforms([name.strip() for name in platforms.split(",")], results, manner)
        return
    name = backends.choose(backend)
    folder = adapter or adapters / used(name, None, method)
    chosen = None if quick else models.resolve(model)
    shown.perform(name, chosen, folder, data, results / used(name, adapter, method), manner, patterns)


COMMANDS = (data, train, evaluate, compare, seeds, demo)
