"""The commands that show the taught model: demo, ask, report, recordings, and the checklist before a video."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from engram.cli.options import Command, Shared, label, path_option, shared, value_option
from engram.support import console
from engram.support.text import visible

Kinds = tuple[str, ...]
KINDS = {"mp4": "Write the film: H.264, 1920×1080.", "gif": "Write the GIF: 960 pixels wide.", "png": "Write a still."}


def _speed(_context: click.Context, _option: click.Parameter, value: float) -> float:
    if value == 0 or 0.5 <= value <= 10:
        return value
    raise click.BadParameter(f"{value:g} is neither 0 (no waiting) nor from 0.5 to 10.")


@click.command()
@click.option("--quick", is_flag=True, help="Replay the stored answers; load no model.")
@click.option("--pause", is_flag=True, help="Wait for a key after each screen.")
@value_option("speed", 1.0, "0.5 to 10; 0 prints without waiting.", callback=_speed)
@click.option("--width", type=click.IntRange(20, 300), help="Draw as on a terminal of so many columns.")
@click.option("--platforms", metavar="NAME,NAME", help="Show two folders of the results side by side, as mlx,cuda.")
@shared("adapter", "method", "model_name", "backend_name", "patterns", "data", "adapters", "results")
def demo(use: Shared, quick: bool, platforms: str | None, **manner: Any) -> None:
    """Show before and after side by side, on test questions."""
    from engram.backends import Loaded
    from engram.show.demo import demo

    if platforms is not None:
        names = [name.strip() for name in platforms.split(",")]
        demo.perform_platforms(names, use.results, demo.Manner(**manner))
        return
    run = click.get_current_context().find_object(Shared)
    loaded = None if quick else run.work.loaded if run else Loaded(use.backend, use.model)
    demo.perform(loaded, use.taught, use.data, use.run, use.patterns, demo.Manner(**manner))


@click.command()
@click.argument("question", required=False)
@click.option("--only", type=click.Choice(["baseline", "tuned"]), help="Ask only one of the two models.")
@value_option("max-new-tokens", 128, "Tokens of an answer, at most.", click.IntRange(min=1))
@value_option("temperature", 0.0, "Draw answers; 0 is greedy, always the same.", click.FloatRange(0, 5))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of drawn answers.")
@value_option("quantize", "none", "4bit (mlx, cuda) or 8bit (mlx).", click.Choice(["none", "8bit", "4bit"]))
@shared("adapter", "method", "model_name", "backend_name", "adapters")
def ask(use: Shared, question: str | None, only: str | None, quantize: str, **drawing: Any) -> None:
    """Answer QUESTION before and after, side by side. Both answers appear as their tokens come.

    Without QUESTION a conversation: each model keeps its own answers, /new starts over, /quit leaves. Through a pipe
    every line is a separate question. Questions and answers are not written to disk.
    """
    from engram.show import ask

    both: dict[str, Path | None] = {"baseline": None, "tuned": use.taught}
    answering = {one: place for one, place in both.items() if only in (None, one)}
    taught = f" · {'adapter' if use.method == 'lora' else use.method}: {use.taught}" if "tuned" in answering else ""
    console.note(f"model: {use.model.name} · backend: {use.backend}{taught}")
    settings = ask.Settings(context=use.model.context, **drawing)
    sides = ask.open_sides(use.backend, use.model, answering, settings, quantize)
    if question is not None:
        ask.once(sides, question)
    elif sys.stdin.isatty():
        ask.talk(sides)
    else:
        ask.each(sides, (line.decode("utf-8", "replace") for line in sys.stdin.buffer))


@click.command()
@path_option("out", "File to write; default: report.html with the results.")
@click.option("--first", metavar="RUN", help="Folder of the run that leads the page; default: the first by name.")
@click.option("--all", "every", is_flag=True, help="Every answer on the page; default: 250 of each run, by hash.")
@shared("results")
def report(use: Shared, out: Path | None, first: str | None, every: bool) -> None:
    """Write every result as one HTML page. Missing documents are listed with the commands that make them."""
    from engram.show.report import html

    path = out or use.results / "report.html"
    run = click.get_current_context().find_object(Shared)
    most = None if every else html.MOST_ANSWERS
    found = html.make(use.results, path, first or (run.run.name if run else None), most)
    for note in found.notes:
        kind = "left out" if note.serious else "not there"
        console.note(f"{kind}: {note.what}: {'; '.join(note.why)}; {note.command}")
    _written(path)


def kind_options(command: Command) -> Command:
    """An option for each kind of picture; the command gets `kinds`, all where none is chosen."""
    for kind, text in reversed(KINDS.items()):
        command = click.option(f"--{kind}", "kinds", flag_value=kind, multiple=True, help=text)(command)
    return command


@click.command()
@click.argument("casts", nargs=-1, required=True, metavar="CAST...", type=click.Path(path_type=Path))
@path_option("out", "Folder to write to; default: the first CAST's.")
@kind_options
def render(casts: tuple[Path, ...], out: Path | None, kinds: Kinds) -> None:
    """Draw recordings (asciicast v2), several side by side. All kinds of picture, or the chosen ones."""
    from engram.show.video import cast, render

    recordings = [cast.read(path) for path in casts]
    name = "-".join(path.stem for path in casts)
    for path in render.render(recordings, out or casts[0].parent, name, kinds or render.KINDS):
        _written(path)


@click.command()
@click.option("--beside", metavar="BACKEND", help="Show this backend's results next to the other's; auto: cuda or mlx.")
@path_option("out", "Folder to write to; default: with the results.")
@click.option("--width", type=click.IntRange(min=1), help="Columns of the terminal; default: 100, with --beside 80.")
@click.option("--height", type=click.IntRange(min=1), help="Lines of the terminal; default: 30, with --beside 43.")
@click.option("--force", is_flag=True, help="Draw the pictures even if they show the same demo.")
@kind_options
@shared("method", "backend_name", "patterns", "data", "results")
def record(
    use: Shared, beside: str | None, out: Path | None, width: int | None, height: int | None, force: bool, kinds: Kinds
) -> None:
    """Record the demo of the stored results, without a terminal. It writes an asciicast, and all or some pictures.

    The asciicast is written last: where it is, the pictures next to it were drawn from it.
    """
    from engram import backends
    from engram.show.video import cast, render
    from engram.support import locks

    render.require()
    if beside is None:
        names, usual, folder, stem = [use.backend], (cast.WIDTH, cast.HEIGHT), out or use.run, "demo"
    else:
        other = {"mlx": "cuda"}.get(use.backend, "mlx") if beside == "auto" else backends.choose(beside)
        names, usual, folder, stem = [use.backend, other], cast.BESIDE, out or use.results, "demo-compare"
    places, size = (
        [use.results / label(name, None, use.method) for name in names],
        (width or usual[0], height or usual[1]),
    )
    casts = [cast.of_demo(place, use.data, use.patterns, *size) for place in places]
    kinds = kinds or render.KINDS
    with locks.held(folder / stem, "engram record"):
        if beside is None:
            file, pictures = folder / "demo.cast", {kind: folder / f"demo.{kind}" for kind in render.KINDS}
            same = file.is_file() and file.read_bytes() == cast.dumps(casts[0]).encode()
            if same and not force and all(pictures[kind].is_file() for kind in kinds):
                console.note("up to date: record")
                return
            file.unlink(missing_ok=True)
            for kind in () if same else {*pictures}.difference(kinds):
                pictures[kind].unlink(missing_ok=True)
        for path in render.render(casts, folder, stem, kinds):
            _written(path)
        if beside is None:
            cast.write(file, casts[0])
            _written(file)


@click.command("video-prep")
@click.option("--yes", is_flag=True, help="Answer yes to every question that is asked of a person.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (schemas/video-prep.schema.json); ask nothing.")
@click.option("--public", multiple=True, metavar="TEXT", help="A name or address that may be seen; may be repeated.")
@path_option("script", "The talking points: a heading for each section of the demo.", Path("docs/video_script.md"))
@shared("backend_name", "model_name", "patterns", "data", "adapters", "results")
def video_prep(use: Shared, yes: bool, as_json: bool, public: tuple[str, ...], script: Path) -> None:
    """Go through the checklist before a video is recorded. It trains, fetches and writes nothing.

    On a terminal it asks you about each point that it can't check. Exit code 0: nothing fails and no question is open;
    else 2.
    """
    from engram.show.prep import checklist
    from engram.show.prep.stages import Situation
    from engram.show.video import render
    from engram.support import schema

    render.require()
    at = Situation(use.backend, use.model_name, use.patterns, use.data, use.adapters, use.run, script)
    found = checklist.examine(at, os.environ, public)
    if yes or (interactive() and not as_json):
        found = checklist.answered(found, lambda one: yes or click.confirm(one.text))
    if as_json:
        document = checklist.document(found, use.backend)
        schema.check(document, "video-prep", "the checklist")
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        checklist.show(found)
    if not checklist.ready(found):
        sys.exit(2)


def interactive() -> bool:
    """Whether a person can answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _written(path: Path) -> None:
    click.echo(f"{visible(str(path))}: {path.stat().st_size:,} bytes")


COMMANDS = (demo, ask, report, render, record, video_prep)
