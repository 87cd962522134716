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
    model_option,
    patterns_option,
    results_option,
    seed_option,
    stage_options,
    used,
)


@click.command()
@click.argument("patterns", nargs=-1)
def validate(patterns: tuple[str, ...]) -> None:
    """Check pattern files; PATTERNS are folders or files, by default `patterns`."""
    from engram.patterns import find_files, load_patterns

    files = [file for spec in patterns or ("patterns",) for file in find_files(spec)]
    found = load_patterns(files)
    kinds = {kind: sum(p.kind == kind for p in found) for kind in dict.fromkeys(p.kind for p in found)}
    noun = "file" if len(files) == 1 else "files"
    click.echo(f"{len(found)} patterns in {len(files)} {noun}: " + ", ".join(f"{k} {n}" for k, n in kinds.items()))


@click.command()
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


@click.command()
@stage_options
def train(work: Work, data: Path, adapters: Path, results: Path) -> None:
    """Teach the model the training rows: a LoRA adapter and its log."""
    from engram import show
    from engram import train as stage

    place = results / work.backend / "training.json"
    with show.TrainingBar() as progress:
        log = stage.train(*work, data, adapters / work.backend, place, progress)
    show.training(log)


@click.command("eval")
@click.option(
    "--stage",
    type=click.Choice(["both", "baseline", "tuned"]),
    default="both",
    show_default=True,
    help="Which to answer.",
)
@adapter_option
@stage_options
def evaluate(work: Work, stage: str, adapter: Path | None, data: Path, adapters: Path, results: Path) -> None:
    """Answer the test set before (baseline) and after (tuned), and score it."""
    from engram import evaluate as evaluation
    from engram import show

    name, model, config = work
    place, folder = results / used(name, adapter), adapter or adapters / name
    for one in ("baseline", "tuned") if stage == "both" else (stage,):
        given = folder if one == "tuned" else None
        document = evaluation.evaluate(name, model, given, config, data, place / f"{one}.json", show.note)
        show.result(document)


@click.command()
@click.option("--show", "only_show", is_flag=True, help="Print the comparison that is there; write nothing.")
@click.option("--quiet", is_flag=True, help="Write it without printing it.")
@adapter_option
@backend_option
@results_option
def compare(only_show: bool, quiet: bool, adapter: Path | None, backend: str, results: Path) -> None:
    """Compare before and after, paired; say what is shown and what is not."""
    from engram import backends, show
    from engram import compare as comparison

    name = used(backends.choose(backend), adapter)
    document = comparison.stored(results, name) if only_show else comparison.compare(results, name)
    if not quiet:
        show.comparison(document)


@click.command()
@click.option("--quick", is_flag=True, help="Replay the stored answers; load no model.")
@click.option("--pause", is_flag=True, help="Wait for Enter between the parts.")
@click.option("--prompt", help="Ask this instead of test prompts, before and after.")
@adapter_option
@model_option
@backend_option
@data_option
@adapters_option
@results_option
def demo(
    quick: bool,
    pause: bool,
    prompt: str | None,
    adapter: Path | None,
    model: str,
    backend: str,
    data: Path,
    adapters: Path,
    results: Path,
) -> None:
    """Show before and after side by side, on prompts of the test set."""
    from engram import backends
    from engram import demo as shown
    from engram import model as models

    name = backends.choose(backend)
    folder = adapter or adapters / name
    if prompt is not None:
        shown.ask(prompt, name, models.resolve(model), folder)
    else:
        chosen = None if quick else models.resolve(model)
        shown.perform(name, chosen, folder, data, results, place=used(name, adapter), pause=pause)


COMMANDS = (validate, data, train, evaluate, compare, demo)
