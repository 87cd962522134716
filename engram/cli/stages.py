"""The commands of the stages, in their order: data, train, eval, compare; several seeds; and checking documents."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from engram.cli.options import STAGE, Shared, several_processes, shared, value_option


@click.command()
@shared("patterns", "data", "seed")
@click.option("--check", is_flag=True, help="Prove that the written splits do not leak; write nothing.")
def data(use: Shared, check: bool) -> None:
    """Write train, valid and test rows and their manifest."""
    from engram.dataset import build
    from engram.patterns.loading import find_files, load_patterns

    if check:
        rows = build.check_data(use.data)
        click.echo(f"no leak: {', '.join(f'{count} {name}' for name, count in rows.items())} rows checked")
        return
    files = find_files(use.patterns)
    counts = build.write_data(load_patterns(files), files, use.data, use.seed)["counts"]
    click.echo(
        "{taught} patterns taught, {held_out} held out: {train} training, {valid} validation rows, "
        "test {recall} recall + {generalization} generalization".format(**counts)
    )


@click.command()
@value_option(
    "checkpoint-every",
    25,
    "Steps between two checkpoints, from which the same command goes on; 0 for none.",
    click.IntRange(min=0),
    metavar="STEPS",
)
@click.option("--fresh", is_flag=True, help="Drop the checkpoint of an interrupted run, and begin at the first step.")
@click.option(
    "--report-to",
    type=click.Choice(["tensorboard", "wandb"]),
    help="Write the curve for it too, below <results>/<backend>/logs; wandb stays offline unless WANDB_MODE says else.",
)
@several_processes
@shared(*STAGE)
def train(use: Shared, checkpoint_every: int, fresh: bool, report_to: str | None) -> None:
    """Teach the model the training rows: a LoRA adapter and its log. An interrupted run continues.

    With --method memory the rows of a memory instead, and with --method both such rows on top of the adapter that is
    there.
    """
    from engram.plan import sharding
    from engram.plan.checkpoint import Saving
    from engram.support import console
    from engram.training import tracking
    from engram.training.methods import METHODS

    use.announce()
    first = sharding.place(use.backend)[0] == 0
    name = f"{use.backend}-{Path(use.model.name).name}-{use.config.name}-seed{use.config.seed}"
    with (
        console.TrainingBar() as bar,
        tracking.tracked(report_to if first else None, bar, use.config, name, use.run / "logs") as progress,
    ):
        log = METHODS[use.config.method].teach(
            *(use.backend, use.model, use.config, use.data, use.taught, use.run / "training.json", progress),
            under=use.adapters / use.backend,
            saving=Saving(checkpoint_every, fresh),
        )
    if log:  # a process that is not the first has none
        console.training(log)


@click.command("eval")
@value_option("stage", "both", "Which model to ask.", click.Choice(["both", "baseline", "tuned"]))
@shared("adapter", *STAGE)
def evaluate(use: Shared, stage: str) -> None:
    """Answer the test set before (baseline) and after (tuned), and score it."""
    from engram.evaluation import compare, pipeline, tables
    from engram.support import console

    use.announce()
    at = (use.backend, use.model, use.config, use.data, use.taught, use.run, console.note)
    stages = compare.STAGES if stage == "both" else (stage,)
    for document in pipeline.evaluate(*at, stages):
        tables.result(document)


@click.command()
@click.option("--show", "only_show", is_flag=True, help="Print the comparison that is there; write nothing.")
@click.option("--quiet", is_flag=True, help="Write it without printing it.")
@click.option("--categories", is_flag=True, help="Print each category too.")
@click.option("--across", is_flag=True, help="Print every run next to the others; refuse those that differ.")
@shared("adapter", "method", "backend_name", "results")
def compare(use: Shared, only_show: bool, quiet: bool, categories: bool, across: bool) -> None:
    """Compare before and after, paired, and the backends with each other; mark each change as shown or not."""
    from engram.evaluation import compare as comparison
    from engram.evaluation import compare_runs, tables

    if across:
        runs = compare_runs.collect(use.results)
        tables.across(runs)
        compare_runs.refuse_unlike(runs, use.results)
        return
    document = comparison.stored(use.run) if only_show else comparison.compare(use.run)
    if not only_show:
        compare_runs.collect(use.results)
    if not quiet:
        tables.comparison(document)
    if categories:
        tables.categories(document)


@click.command()
@value_option("seeds", "0,1,2", "Seeds, as 1,2,3 or 0-4.")
@shared("model_name", "backend_name", "method", "recipe", "settings", "patterns", "results")
def seeds(use: Shared, seeds: str) -> None:
    """Run every stage for several seeds; write and print their mean and spread."""
    from engram.evaluation import pipeline, tables
    from engram.patterns.loading import find_files
    from engram.support import console

    configs = [use.configured(seed) for seed in pipeline.parse_seeds(seeds)]
    files = find_files(use.patterns)
    tables.seeds(pipeline.campaign(use.backend, use.model, configs, files, use.results / "seeds", console.note))


@click.group()
def results() -> None:
    """Look at result documents."""


@results.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--model", help="Name or folder of the model, where the document's own name is not enough.")
@shared("data", "adapters", "results")
def verify(use: Shared, files: tuple[Path, ...], model: str | None) -> None:
    """Recompute every figure of FILES from their raw answers, and check the hashes of data, model and adapter.

    Without FILES: every document in the results folder. A check that is impossible here is listed, and is no failure.
    """
    from engram.evaluation import tables
    from engram.evaluation import verify as checks

    places = checks.Places(use.data, use.adapters, model)
    chosen = files or checks.documents(use.results)
    passed = [tables.checked(str(file), checks.verify(file, places)) for file in chosen]
    if not all(passed):
        sys.exit(2)


COMMANDS = (data, train, evaluate, compare, seeds, results)
