"""The commands that record the demo and render recordings."""

from __future__ import annotations

from pathlib import Path

import click

from engram.cli.options import F, backend_option, data_option, method_option, patterns_option, results_option, used
from engram.support.text import visible

SIDE_BY_SIDE = "demo-compare"
KINDS = {"mp4": "Write the film: H.264, 1920×1080.", "gif": "Write the GIF: 960 pixels wide.", "png": "Write a still."}


def kind_options(command: F) -> F:
    """An option for each kind of picture; the command gets `kinds`, all where none is chosen."""
    for kind, text in reversed(KINDS.items()):
        command = click.option(f"--{kind}", "kinds", flag_value=kind, multiple=True, help=text)(command)
    return command


@click.command()
@click.argument("casts", nargs=-1, required=True, metavar="CAST...", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to; default: the first CAST's.")
@kind_options
def render(casts: tuple[Path, ...], out: Path | None, kinds: tuple[str, ...]) -> None:
    """Render recordings (asciicast v2), several side by side: all kinds of picture, or those asked for."""
    from engram.show.video import cast
    from engram.show.video import render as rendering

    recordings = [cast.read(path) for path in casts]
    name = "-".join(path.stem for path in casts)
    for path in rendering.render(recordings, out or casts[0].parent, name, kinds or rendering.KINDS):
        _written(path)


@click.command()
@click.option("--beside", metavar="BACKEND", help="Show this backend's results beside the other's.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to; default: with the results.")
@click.option("--width", type=click.IntRange(min=1), help="Columns of the terminal; default: 100, beside another 80.")
@click.option("--height", type=click.IntRange(min=1), help="Lines of the terminal; default: 30, beside another 43.")
@kind_options
@method_option
@backend_option
@patterns_option
@data_option
@results_option
def record(
    beside: str | None,
    out: Path | None,
    width: int | None,
    height: int | None,
    kinds: tuple[str, ...],
    method: str,
    backend: str,
    patterns: str,
    data: Path,
    results: Path,
) -> None:
    """Record the demo of the stored results, without a terminal: an asciicast, and the pictures asked for, or all."""
    from engram import backends
    from engram.show.video import cast, encode, record, replay
    from engram.show.video import render as rendering
    from engram.support import locks

    encode.require()
    named = [backend] if beside is None else [backend, beside]
    names = [used(backends.choose(one), None, method) for one in named]
    usual = (record.WIDTH, record.HEIGHT) if beside is None else record.BESIDE
    size = (width or usual[0], height or usual[1])
    shows = [replay.replay(one, data, results, patterns) for one in names]
    captions = [replay.caption(one, results) for one in names]
    casts = [record.record(show, *size, caption) for show, caption in zip(shows, captions, strict=True)]
    folder = out or (results / names[0] if beside is None else results)
    stem = "demo" if beside is None else SIDE_BY_SIDE
    with locks.held(folder / stem, "engram record"):
        if beside is None:
            cast.write(folder / "demo.cast", casts[0])
            _written(folder / "demo.cast")
        for path in rendering.render(casts, folder, stem, kinds or rendering.KINDS):
            _written(path)


def _written(path: Path) -> None:
    click.echo(f"{visible(str(path))}: {path.stat().st_size:,} bytes")


COMMANDS = (render, record)
