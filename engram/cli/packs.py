"""The commands that bring patterns in."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

import click


@click.command()
def packs() -> None:
    """List the bundled packs of patterns; each is taught where it is named, as PATTERNS=http,ports."""
    from engram import pattern_files
    from engram.patterns import load_patterns

    for name, path in pattern_files.packs().items():
        categories = Counter(pattern.category for pattern in load_patterns([path]))
        listed = ", ".join(f"{category} {n}" for category, n in categories.items())
        click.echo(f"{name:10} {categories.total():4} patterns: {listed}")


@click.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The new pattern file, DIR/name.yaml.")
@click.option("--input", "question", metavar="NAME", help="Column or key of the input; default: by its name.")
@click.option("--output", "answer", metavar="NAME", help="Column or key of the output; default: by its name.")
@click.option("--category", metavar="NAME", help="Column or key of the category; default: category.")
@click.option("--ignore-extra", is_flag=True, help="Leave out columns and keys that a pattern has no place for.")
@click.option("--no-header", is_flag=True, help="The first line of a table is a row: columns are 1, 2, 3.")
@click.option("--delimiter", metavar="CHARACTER", help="What separates columns (tab for a tab); default: as found.")
def bring_in(
    files: tuple[Path, ...],
    out: Path,
    question: str | None,
    answer: str | None,
    category: str | None,
    ignore_extra: bool,
    no_header: bool,
    delimiter: str | None,
) -> None:
    """Make a pattern file of FILEs: CSV, TSV, JSON Lines or a JSON list.

    Nothing is changed or dropped on the way: what a pattern file cannot hold is refused, every line at once, and
    what is written is read back and compared before it takes its place. See docs/packs.md.
    """
    from engram import importing
    from engram.importing.rows import Wanted

    if delimiter is not None:
        delimiter = "\t" if delimiter == "tab" else delimiter
        if len(delimiter) != 1 or delimiter in '\r\n"':
            raise click.BadParameter("one character, or tab.", param_hint="--delimiter")
    wanted = Wanted(question, answer, category, ignore_extra, not no_header, delimiter)
    patterns = importing.bring_in(files, out, wanted)
    count = len({pattern.category for pattern in patterns})
    click.echo(f"{out}: {len(patterns)} patterns in {count} {'category' if count == 1 else 'categories'}")
    click.echo(f"next: engram validate {shlex.quote(str(out))} --advise")


COMMANDS = (packs, bring_in)
