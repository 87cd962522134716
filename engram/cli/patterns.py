"""The commands that bring patterns in."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engram.cli.options import Shared, shared
from engram.plan.config import SMALL_MODEL, load_config
from engram.support.errors import EngramError
from engram.support.text import visible

if TYPE_CHECKING:
    from engram.patterns.loading import Pattern

SHOWN = 20  # pieces of advice of one kind


@click.command()
@click.argument("patterns", nargs=-1)
@click.option("--advise", is_flag=True, help="Also list patterns that are hard to measure or to learn, with a remedy.")
@shared("model_name", "seed")
def validate(use: Shared, patterns: tuple[str, ...], advise: bool) -> None:
    """Check pattern files. PATTERNS are folders, files or packs, by default `patterns`.

    --model and --seed are for --advise: whose tokens are counted, and which split is looked at. Advice is no error.
    """
    from engram.patterns.loading import find_files, load_patterns

    files = [file for spec in patterns or ("patterns",) for file in find_files(spec)]
    found = load_patterns(files)
    kinds = Counter(pattern.kind for pattern in found)
    noun = "file" if len(files) == 1 else "files"
    click.echo(f"{len(found)} patterns in {len(files)} {noun}: " + ", ".join(f"{k} {n}" for k, n in kinds.items()))
    if advise:
        _advise(found, use.model_name, use.seed)


def _advise(patterns: Sequence[Pattern], spec: str, seed: int) -> None:
    from engram.dataset import advice
    from engram.models.model import on_this_disk
    from engram.models.tokenizer import load_encoder

    model = on_this_disk(spec)
    if model is None:
        raise EngramError("this model is not on this disk", where=spec, fix=f"make verify-model MODEL={spec}")
    config, encoder = load_config("default", model.parameters, seed), load_encoder(model)
    sizes = advice.held(patterns, seed)

    def count_tokens(prompt: str, answer: str) -> tuple[int, int]:
        encoded = encoder.example(prompt, answer)
        return len(encoded.tokens), encoded.answer_length

    limits = advice.Limits(config.max_length, config.max_new_tokens, model.parameters < SMALL_MODEL)
    found = advice.advise(patterns, sizes, count_tokens, limits)
    shown: Counter[str] = Counter()
    for one in found:
        shown[one.kind] += 1
        if shown[one.kind] <= SHOWN:
            click.echo(f"{one.place}: {one.kind}: {one.what}\n  why: {one.why}\n  do:  {one.fix}")
    for kind, count in shown.items():
        if count > SHOWN:
            click.echo(f"… and {count - SHOWN} more: {kind}")
    click.echo(f"\n{'category':40} taught  held out  share")
    for name, size in sizes.items():
        share = size.held_out / (size.taught + size.held_out)
        click.echo(f"{visible(name):40} {size.taught:6}  {size.held_out:8}  {share:4.0%}")
    listed = f" ({', '.join(f'{kind} {count}' for kind, count in shown.items())})" if shown else ""
    under = f"tokens of {visible(model.name)}, recipe {config.name}, held out by seed {seed}"
    click.echo(f"\nadvice: {len(found)}{listed}; {under}")


@click.command()
def packs() -> None:
    """List the bundled packs of patterns. Name them to teach them: PATTERNS=http,ports."""
    from engram.patterns import loading

    for name, path in loading.packs().items():
        categories = Counter(pattern.category for pattern in loading.load_patterns([path]))
        listed = ", ".join(f"{category} {n}" for category, n in categories.items())
        click.echo(f"{name:10} {categories.total():4} patterns: {listed}")


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write a first pattern file and a README into DIR. DIR is new or empty."""
    from engram.patterns import writing

    for path in writing.write_scaffold(folder):
        click.echo(visible(str(path)))
    place = visible(shlex.quote(str(folder)))
    click.echo("next: put your own patterns into the .yaml file, then")
    click.echo(f"  engram validate {place} --advise\n  make demo PATTERNS={place}")


@click.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The new pattern file, DIR/name.yaml.")
@click.option("--input", metavar="NAME", help="Column or key of the input; default: by its name.")
@click.option("--output", metavar="NAME", help="Column or key of the output; default: by its name.")
@click.option("--category", metavar="NAME", help="Column or key of the category; default: category.")
@click.option("--ignore-extra", is_flag=True, help="Leave out columns and keys that a pattern has no place for.")
@click.option("--no-header", is_flag=True, help="The first line of a table is a row: columns are 1, 2, 3.")
@click.option("--delimiter", metavar="CHARACTER", help="What separates columns (tab for a tab); default: as found.")
@click.option("--quotes/--no-quotes", default=None, help="Fields may be in double quotes; default: in CSV, not in TSV.")
def bring_in(files: tuple[Path, ...], out: Path, delimiter: str | None, **wanted: Any) -> None:
    """Make a pattern file from CSV, TSV, JSON Lines or JSON FILEs.

    Nothing is changed or dropped: rows that a pattern file cannot hold are refused, all at once, and the new file is
    read back and compared before it takes its place. See docs/packs.md.
    """
    from engram.patterns import importing

    if delimiter is not None:
        delimiter = "\t" if delimiter == "tab" else delimiter
        if len(delimiter) != 1 or delimiter in '\r\n"':
            raise click.BadParameter("one character, or tab.", param_hint="--delimiter")
    patterns = importing.bring_in(files, out, importing.Wanted(delimiter=delimiter, **wanted))
    count = len({pattern.category for pattern in patterns})
    place = visible(str(out))
    click.echo(f"{place}: {len(patterns)} patterns in {count} {'category' if count == 1 else 'categories'}")
    click.echo(f"next: engram validate {shlex.quote(place)} --advise")


COMMANDS = (validate, packs, init, bring_in)
