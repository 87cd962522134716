"""The commands of the stages, in their order: data, train, eval, compare; several seeds; and checking documents."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from engram.cli.options import STAGE, TRAINING, Shared, shared, typed, value_option
from engram.plan.config import load_config, parse_overrides
from engram.support import console

if TYPE_CHECKING:
    from engram.evaluation.pipeline import Work

force_option = click.option("--force", is_flag=True, help="Run it even if it is up to date.")


@click.command()
@shared("patterns", "data", "seed", "holdout")
@force_option
@click.option("--check", is_flag=True, help="Prove that the written splits do not leak; write nothing.")
def data(use: Shared, force: bool, check: bool) -> None:
    """Write train, valid and test rows and their manifest."""
    from engram.dataset import build

    if check:
        rows = build.check_data(use.data)
        click.echo(f"no leak: {', '.join(f'{count} {name}' for name, count in rows.items())} rows checked")
        return
    _data(use, force, dry=False)


def _data(use: Shared, force: bool, dry: bool) -> None:
    from engram.evaluation import pipeline
    from engram.patterns.loading import find_files

    at = (find_files(use.patterns), use.data, use.seed, use.holdout)
    reason = "forced" if force else pipeline.why_data(*at)
    console.note(f"data: {reason}{' (not run)' if dry else ''}" if reason else "up to date: data")
    if reason and not dry:
        _made(pipeline.write_data(*at))


def _made(manifest: dict[str, Any]) -> None:
    from engram.evaluation.scoring import SPLITS

    counts = manifest["counts"]
    asked = " + ".join(f"{counts[kind]} {kind}" for kind in SPLITS if counts[kind])
    text = "{taught} patterns taught, {held_out} held out: {train} training, {valid} validation rows, test "
    click.echo(text.format(**counts) + asked)


@click.command()
@force_option
@shared(*TRAINING, *STAGE)
def train(use: Shared, force: bool) -> None:
    """Teach the model the training rows. It writes a LoRA adapter and its log; an interrupted run continues.

    With --method memory the rows of a memory instead, and with --method both such rows on top of the adapter that is
    there.
    """
    from engram import backends
    from engram.plan import sharding
    from engram.training import processes

    rank, size, _ = sharding.place(backends.choose(use.backend_name))
    with processes.member(rank):
        if size > 1:  # the command that launched this process has decided
            use.announce()
            _teach(use, use.work)
        else:
            _follow(use, ["train" if use.method == "lora" else "memory"], force=force)


@click.command("eval")
@value_option("stage", "both", "Which model to ask.", click.Choice(["both", "baseline", "tuned"]))
@force_option
@shared("adapter", *STAGE)
def evaluate(use: Shared, stage: str, force: bool) -> None:
    """Answer and score the test set, before and after training."""
    _follow(use, ["baseline", "tuned"] if stage == "both" else [stage], force=force)


@click.command()
@click.option("--categories", is_flag=True, help="Print each category too.")
@click.option("--across", is_flag=True, help="Print every run next to the others; name what is not comparable.")
@shared("adapter", "method", "backend_name", "results")
def compare(use: Shared, categories: bool, across: bool) -> None:
    """Compare before with after, and the backends. Tests are paired; each change is marked as shown or not."""
    from engram.evaluation import compare, compare_runs, pipeline, tables

    if across:
        tables.across(compare_runs.collect(use.results))
        return
    if reason := pipeline.why_compare(use.run):
        console.note(f"compare: {reason}")
    document = compare.compare(use.run) if reason else compare.stored(use.run)
    compare_runs.collect(use.results)
    tables.comparison(document)
    if categories:
        tables.categories(document)


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--recall", type=float, metavar="SHARE", help="At least, of taught patterns; default: the recipe's, 0.9.")
@click.option("--rewording", type=float, metavar="SHARE", help="At least, of taught patterns in other words.")
@click.option("--generalization", type=float, metavar="SHARE", help="At least, of members of rules never taught.")
@click.option("--retention", type=float, metavar="NATS", help="At most lost per general token; the recipe's, 0.1.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (schemas/gate.schema.json).")
@shared("adapter", "method", "backend_name", "results", "recipe", "settings")
def gate(use: Shared, files: tuple[Path, ...], as_json: bool, **limits: float | None) -> None:
    """Judge: LEARNED, NOT SHOWN or BROKE SOMETHING. The exit code is 0, 1 or 3.

    Without FILES it is about the stored results. With two FILES of JSON Lines, before and after, it is about their
    answers: rows of id, expected and answer, or what lm_eval writes with --log_samples. A limit that is not given is
    the recipe's: its settings gate_recall, gate_rewording, gate_generalization and gate_retention.
    """
    from engram.evaluation import gate, tables

    recipe = load_config(use.recipe, 0, 0, parse_overrides(use.settings)).limits  # the same for a model of any size
    given = recipe | {name: limit for name, limit in limits.items() if limit is not None}
    if len(files) not in (0, 2):
        raise click.BadParameter("two files, before and after, or none.", param_hint="FILES")
    made = gate.of_files(files[0], files[1], given) if files else gate.of_run(use.run, given)
    click.echo(json.dumps(made, indent=1, ensure_ascii=False)) if as_json else tables.gate(made)
    sys.exit(gate.EXIT[made["verdict"]])


def _follow(use: Shared, stages: Sequence[str], *, force: bool, dry: bool = False) -> None:
    """Run these stages where they are not up to date, and print what each made."""
    from engram.evaluation import compare_runs, pipeline, tables

    if use.nproc == 1 or len(stages) > 1:  # else the first process that is launched says it
        use.announce()
    forced = stages if force else ("train", "memory") if use.fresh else ()
    with console.Pulse() as pulse:

        def teach(work: Work) -> None:
            pulse.stop()
            _teach(use, work)

        for name, made in pipeline.follow(use.work, stages, pulse.say, teach, force=forced, dry=dry):
            pulse.stop()
            if name == "data":
                _made(made)
            elif name in ("baseline", "tuned"):
                tables.result(made)
            elif name == "compare":
                compare_runs.collect(use.results)


def _teach(use: Shared, work: Work) -> None:
    """Train, in several processes where that is asked for, and print the curve."""
    from engram.evaluation import pipeline
    from engram.plan import sharding
    from engram.plan.checkpoint import Saving
    from engram.training import processes, tracking

    if use.nproc > 1:
        words = typed(click.get_current_context(), (*STAGE, *TRAINING[:-1]))
        words += ["--backend", use.backend, "--method", work.config.method]  # the last one of an option counts
        processes.launch(use.backend, use.nproc, ["train", *words], work.log)
        return
    first = sharding.place(use.backend)[0] == 0
    name = f"{use.backend}-{Path(work.model.name).name}-{work.config.name}-seed{work.config.seed}"
    with (
        console.TrainingBar() as bar,
        tracking.tracked(use.report_to if first else None, bar, work.config, name, work.place / "logs") as progress,
    ):
        log = pipeline.teach(work, progress, Saving(use.checkpoint_every, use.fresh))
    if log:  # a process that is not the first has none
        console.training(log)


STAGES = ("data", "train", "eval", "compare")
# the commands that `run` ends with, and the stage that each needs
SHOWING = ("demo", "ask", "report", "record", "verify", "export", "export-eval", "gate", "serve")
THEN = dict.fromkeys(SHOWING, "compare") | {"ask": "train", "serve": "train", "export-eval": "data"}


@click.command()
@click.argument("target", type=click.Choice([*STAGES, *THEN]))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--dry-run", is_flag=True, help="Say what would run and why; run nothing.")
@force_option
@shared(*TRAINING, "patterns", "adapter", "holdout", *STAGE)
def run(use: Shared, target: str, arguments: tuple[str, ...], dry_run: bool, force: bool) -> None:
    """Run the stages up to TARGET that are not up to date. They share one process.

    TARGET is a stage, or a command that shows what the stages made; its own ARGUMENTS follow `--`, as in
    `engram run demo -- --quick`. What a stage depends on is compared by content: patterns, settings, model and adapter.
    """
    from engram.evaluation import pipeline

    until = THEN.get(target, target)
    if until == "data":
        _data(use, force, dry_run)
    else:
        _follow(use, pipeline.TARGETS[until], force=force, dry=dry_run)
    if dry_run:
        return
    if target == "compare":
        _then(use, ["compare", "--categories"])
        _then(use, ["compare", "--across"])
    elif target in THEN:
        _then(use, ["results", "verify"] if target == "verify" else [target, *arguments])


def _then(use: Shared, words: list[str]) -> None:
    """Run another command with the same options; it gets `use`, and what that has resolved and loaded."""
    context = click.get_current_context()
    context.obj = use
    command = context.find_root().command
    while isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
    with command.make_context(command.name, words, parent=context) as own:
        for name, value in context.params.items():
            if name in own.params and own.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
                own.params[name] = value
        command.invoke(own)


@click.command()
@value_option("seeds", "0,1,2", "Seeds, as 1,2,3 or 0-4.")
@shared("model_name", "backend_name", "method", "recipe", "settings", "patterns", "results")
def seeds(use: Shared, seeds: str) -> None:
    """Run every stage for several seeds: mean and spread."""
    from engram.evaluation import seeds as several
    from engram.evaluation import tables
    from engram.patterns.loading import find_files

    configs = [use.configured(seed) for seed in several.parse_seeds(seeds)]
    files = find_files(use.patterns)
    tables.seeds(several.campaign(use.backend, use.model, configs, files, use.results / "seeds", console.note))


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
    from engram.evaluation import tables, verify

    places = verify.Places(use.data, use.adapters, model)
    chosen = files or verify.documents(use.results)
    passed = [tables.checked(str(file), verify.verify(file, places)) for file in chosen]
    if not all(passed):
        sys.exit(2)


COMMANDS = (data, train, evaluate, compare, gate, run, seeds, results)
