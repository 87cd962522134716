"""The command that makes the page of the results."""

from __future__ import annotations

from pathlib import Path

import click

from engram.cli.options import results_option


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="File to write; default: report.html with the results.")
@click.option("--first", metavar="RUN", help="Folder of the run that leads the page; default: the first by name.")
@results_option
def report(out: Path | None, first: str | None, results: Path) -> None:
    """Write every result as one HTML page that needs nothing else; say what is missing, and what makes it."""
    from engram.show.report import html
    from engram.support import console
    from engram.support.text import visible

    path = out or results / "report.html"
    found = html.make(results, path, first)
    for note in found.notes:
        kind = "left out" if note.serious else "not there"
        console.note(f"{kind}: {note.what}: {'; '.join(note.why)}; {note.command}")
    click.echo(f"{visible(str(path))}: {path.stat().st_size:,} bytes")


COMMANDS = (report,)
