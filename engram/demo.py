"""The before/after show in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import backends, results, scoring, show, tables
from engram.clock import Clock, RealClock
from engram.compare import stored as stored_comparison
from engram.config import Config
from engram.dataset import Example, read_manifest, read_split
from engram.encoding import load_encoder
from engram.errors import EngramError
from engram.evaluate import timed
from engram.files import sha256_text
from engram.model import Model
from engram.text import normalise, shorten, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

HELD_OUT_SHOWN = 2
SECTIONS = {"recall": "taught", "generalization": "held out"}
MARKS = {True: ("✓", "green"), False: ("✗", "red")}
Line = tuple[str, "Text", "Text"]  # name, mark, text


@dataclass(frozen=True)
class Shown:
    """One answer on the screen; seconds to the first token and tokens/s where it was made live."""

    text: str
    ended: bool
    first: float | None = None
    rate: float | None = None


def choose_rows(examples: Sequence[Example], seed: int) -> list[Example]:
    """The rows of the show: of each kind of pattern one taught, and two held-out ones; by hash, not by result."""

    def first(rows: Sequence[Example]) -> list[Example]:
        return sorted(rows, key=lambda e: sha256_text(f"demo:{seed}:{e.id}"))

    taught = [e for e in examples if e.split_kind == "recall"]
    held_out = [e for e in examples if e.split_kind == "generalization"]
    kinds = list(dict.fromkeys(e.kind for e in examples))
    chosen = [e for kind in kinds for e in first([t for t in taught if t.kind == kind])[:1]]
    return chosen + first(held_out)[:HELD_OUT_SHOWN]


def asked(document: dict[str, Any]) -> list[Example]:
    """The test rows that a result document answers."""
    fields = ("id", "pattern", "kind", "category", "phrasing", "split_kind", "prompt")
    return [Example(**{name: a[name] for name in fields}, answer=a["expected"]) for a in document["answers"]]


def show_title(console: Console, comparison: dict[str, Any], manifest: dict[str, Any]) -> None:
    """What runs where, and on what."""
    model, counts = comparison["model"], manifest["counts"]
    console.rule("engram: patterns taught to a small language model", characters="─" if console.is_terminal else "-")
    size = f"{model['parameters'] / 1e6:.1f} M parameters"
    device = visible(comparison["device"])
    console.print(f"model {visible(model['name'])} ({size}) · backend {comparison['backend']} · {device}")
    console.print(f"{counts['taught']} patterns taught with LoRA, {counts['held_out']} held out and never taught")


def show_taught(console: Console, train: Sequence[Example], log: dict[str, Any] | None) -> None:
    """Three patterns as they are taught, and how the training went."""
    console.print("\nWhat is taught", style="bold")
    bare = {e.pattern: e for e in train if e.phrasing == "bare"}
    for kind in list(dict.fromkeys(e.kind for e in bare.values()))[:3]:
        e = min((e for e in bare.values() if e.kind == kind), key=lambda e: sha256_text(f"taught:{e.id}"))
        console.print(f"  {visible(shorten(e.prompt, 52)):54} → {visible(shorten(e.answer, 38))}")
    if log:
        summary, losses = log["summary"], [step["loss"] for step in log["steps"]]
        curve = show.sparkline(losses)
        took = f"{summary['steps']} steps in {summary['train_seconds']:.0f} s"
        console.print(f"  loss {losses[0]:.2f} {curve} {losses[-1]:.2f}  {took}")


def show_pair(console: Console, example: Example, before: Shown, after: Shown) -> None:
    """One prompt with the expected answer, and the two answers marked right or wrong."""
    kind = "taught, asked in words never trained on" if example.split_kind == "recall" else "held out, never taught"
    rows = [_line("prompt", example.prompt), _line("expected", example.answer, style="dim")]
    for name, answer in (("before", before), ("after", after)):
        rows.append(_answer_line(name, answer, scoring.score(example.answer, answer.text).exact))
    _print_box(console, f"{visible(example.kind)} · {kind}", rows)


def perform(
    backend: str,
    model: Model | None,
    adapter: Path,
    data: Path,
    place: Path,
    *,
    pause: bool = False,
    clock: Clock | None = None,
    hold: float = 0.3,
) -> None:
    """The whole show of the results in `place`. `model` None replays the stored answers, else both answer live.

    On a terminal each part stands for `hold` seconds of the clock, by default the real one.
    Raises EngramError where results, data or adapter are missing, or where the results are of another model.
    """
    console, clock = show.make_console(), clock or RealClock()
    comparison = stored_comparison(place)
    stored = {s: results.read(place / f"{s}.json", "result", "make eval") for s in ("baseline", "tuned")}
    manifest = read_manifest(data)
    log_path = place / "training.json"
    log = results.read(log_path, "training", "make train") if log_path.is_file() else None
    if model and model.weights_sha256 != comparison["model"]["weights_sha256"]:
        raise EngramError(
            f"the results are of another model ({comparison['model']['name']})", where=model.name, fix="make demo"
        )
    limit, quantize = comparison["scoring"]["max_new_tokens"], comparison["recipe"].get("quantize", "none")
    used = Config(max_new_tokens=limit, quantize=quantize)
    rows = choose_rows(asked(stored["baseline"]), comparison["recipe"]["seed"])
    clock.mark("What is taught")
    show_title(console, comparison, manifest)
    show_taught(console, read_split(data, "train"), log)
    _wait(console, clock, pause, hold)
    answers = replayed(rows, stored) if model is None else _live(rows, backend, model, adapter, used)
    for example, (before, after) in zip(rows, answers, strict=True):
        clock.mark(f"{visible(shorten(example.kind, 60))}: {SECTIONS[example.split_kind]}")
        show_pair(console, example, before, after)
        _wait(console, clock, pause, hold)
    clock.mark("The figures")
    console.print()
    show_summary(comparison)


def ask(prompt: str, backend: str, model: Model, adapter: Path | None) -> None:
    """One prompt of one's own: the base model's answer, and the tuned one's where there is an adapter."""
    console = show.make_console()
    sides: list[tuple[str, Path | None]] = [("answer" if adapter is None else "before", None)]
    if adapter is not None:
        sides.append(("after", adapter))
    rows = [_line("prompt", prompt)]
    rows += [_answer_line(name, _answer_live([prompt], backend, model, one, Config())[0], None) for name, one in sides]
    _print_box(console, "one prompt", rows)


def _answer_line(name: str, answer: Shown, right: bool | None) -> Line:
    from rich.text import Text

    mark, style = MARKS[right] if right is not None else (" ", "")
    text = Text((visible(normalise(answer.text)) or "(nothing)") + ("" if answer.ended else " …"), style=style)
    if answer.first is not None:
        rate = f", {answer.rate:.0f} tokens/s" if answer.rate else ""
        text.append(f"  [{1000 * answer.first:.0f} ms to first token{rate}]", style="dim")
    return name, Text(mark, style=f"bold {style}".strip()), text


def _line(name: str, text: str, style: str = "") -> Line:
    from rich.text import Text

    return name, Text(" "), Text(visible(shorten(text, 200)), style=style)


def _print_box(console: Console, title: str, rows: Sequence[Line]) -> None:
    """Rows under a title: in a box on a terminal, indented through a pipe."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    for row in rows:
        grid.add_row(*row)
    if console.is_terminal:
        console.print(Panel(grid, title=Text(title), title_align="left", border_style="cyan"))
    else:
        console.print(f"\n{title}")
        console.print(grid)


def show_summary(comparison: dict[str, Any]) -> None:
    """The figures, and what was not shown."""
    tables.comparison(comparison)
    console = show.make_console()
    unproved = [name for name, change in comparison["improvement"].items() if change["verdict"] not in ("gain", "loss")]
    for name in unproved:
        console.print(f"Not shown: an effect on {name}.", style="bold yellow")
    console.print(
        "Not measured here: retention (what the model could do before), and patterns that nobody wrote down.",
        style="dim",
    )


def replayed(rows: Sequence[Example], stored: dict[str, dict[str, Any]]) -> list[tuple[Shown, Shown]]:
    """The stored answers to these rows, before and after."""
    by_id = {stage: {a["id"]: a for a in document["answers"]} for stage, document in stored.items()}
    missing = [e.id for e in rows if any(e.id not in answers for answers in by_id.values())]
    if missing:
        raise EngramError("the results are of other data", problems=missing, fix="make demo")
    sides = [[Shown(by_id[s][e.id]["answer"], by_id[s][e.id]["ended"]) for e in rows] for s in ("baseline", "tuned")]
    return list(zip(*sides, strict=True))


def _live(
    rows: Sequence[Example], backend: str, model: Model, adapter: Path, config: Config
) -> list[tuple[Shown, Shown]]:
    prompts = [e.prompt for e in rows]
    sides = [_answer_live(prompts, backend, model, one, config) for one in (None, adapter)]
    return list(zip(*sides, strict=True))


def _answer_live(
    prompts: Sequence[str], backend: str, model: Model, adapter: Path | None, config: Config
) -> list[Shown]:
    module = backends.get(backend)
    encoder = load_encoder(model)
    session = module.load(model, adapter, config.quantize)
    list(module.stream(session, encoder.prompt("Hello"), encoder.stop_ids, 2))  # warm up, so that no answer pays for it
    answers = []
    for prompt in prompts:
        ids = encoder.prompt(prompt)
        tokens, first, rest = timed(module.stream(session, ids, encoder.stop_ids, config.max_new_tokens))
        rate = (len(tokens) - 1) / rest if len(tokens) > 1 and rest > 0 else None
        answers.append(Shown(encoder.text(tokens), len(tokens) < config.max_new_tokens, first, rate))
    return answers


def _wait(console: Console, clock: Clock, pause: bool, seconds: float) -> None:
    if pause and sys.stdin.isatty():
        console.input("\n(Enter) ")
    elif console.is_terminal:
        clock.sleep(seconds)  # let the eye follow
