"""Print for the stages: one console, and the formats of shares, intervals, p-values and curves."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from engram.support.text import shorten, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status
    from rich.table import Table

PLAIN_WIDTH = 100
SPARKS = "▁▂▃▄▅▆▇█"
DUMB = ("", "dumb", "unknown")
PLAIN_EVERY = 20  # training steps between two lines where no bar can be drawn
EVERY = 8.0  # seconds, at most, without a sign of life
Report = Callable[[str], None]  # hears a line about the work as it goes on
_CONSOLE: ContextVar[Console | None] = ContextVar("console", default=None)
SIGNS = {**dict(zip(SPARKS, "_.-~=+*#")), **dict(zip("✓✗→…–·×±━╸╺│─⏎⇥‹›“”‘’", "+x>~--x+===|-/><>\"\"''"))}


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(SIGNS.get(one, "?") for one in error.object[error.start : error.end]), error.end


def settle() -> None:
    """Have standard output and error take any text: what their encoding lacks is printed as a plain sign, or `?`.

    What is written to a closed one is dropped. A user without a home, as in a container, gets one for this process.
    """
    codecs.register_error("plain", _plain)
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 (it stays open)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")
    if not os.path.isabs(os.path.expanduser("~")):  # noqa: PTH111, PTH117 (Path.home raises)
        import atexit
        import shutil
        import tempfile

        os.environ["HOME"] = home = tempfile.mkdtemp(prefix="engram-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)


@contextlib.contextmanager
def printing_on(console: Console) -> Iterator[None]:
    """Everything that the block prints goes to this console, as a recording wants it."""
    token = _CONSOLE.set(console)
    try:
        yield
    finally:
        _CONSOLE.reset(token)


def make_console(plain_width: int | None = None) -> Console:
    """The console of `printing_on`; else one with colour and boxes on a terminal, plain through a pipe and NO_COLOR.

    Plain too with a `plain_width`, and on a terminal that understands nothing (TERM is `dumb`, `unknown` or empty). If
    its reader goes away (`| head`), the work goes on unheard instead of ending half-way.
    """
    from rich.console import Console

    if plain_width is None and (given := _CONSOLE.get()) is not None:
        return given
    width = plain_width or (None if sys.stdout.isatty() else PLAIN_WIDTH)
    # rich alone would still print bold on such a terminal, and we draw boxes
    plain = plain_width or os.environ.get("NO_COLOR") or os.environ.get("TERM", "").lower() in DUMB
    force = False if plain else None
    console = Console(file=sys.stdout, force_terminal=force, highlight=False, markup=False, emoji=False, width=width)

    def unheard() -> None:
        console.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    console.on_broken_pipe = unheard  # type: ignore[method-assign]
    return console


def make_table(console: Console, *columns: str, title: str | None = None) -> Table:
    """A table with these columns; without lines where the output is plain."""
    from rich import box
    from rich.table import Table

    drawn = console.is_terminal
    lines = box.ROUNDED if drawn else None
    table = Table(title=title, title_justify="left", box=lines, pad_edge=drawn, title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def note(text: str) -> None:
    """Print one dim line."""
    make_console().print(visible(text), style="dim", soft_wrap=True)


def percent(value: float | None) -> str:
    """A share as `95.1 %`, or a dash."""
    return "–" if value is None else f"{100 * value:.1f} %"


def interval(bounds: Sequence[float] | None, *, points: bool = False) -> str:
    """An interval of shares as `[91.2, 97.4]`, signed where it is of a difference in points."""
    if bounds is None:
        return "–"
    low, high = (f"{100 * bound:+.1f}" if points else f"{100 * bound:.1f}" for bound in bounds)
    return f"[{low}, {high}]"


def p_value(value: float | None) -> str:
    """A p-value to two digits, or a dash."""
    return "–" if value is None else "< 1e-6" if value < 1e-6 else f"{value:.2g}"


def number(value: float | None) -> str:
    """A figure to three digits, or a dash."""
    return "–" if value is None else f"{value:.3g}"


def bounds(limits: Sequence[float] | None) -> str:
    """An interval of a quantity other than a share, signed."""
    return "–" if limits is None else f"[{limits[0]:+.2f}, {limits[1]:+.2f}]"


def mean_spread(found: dict[str, Any], scale: float, form: str) -> str:
    """Mean ± sample standard deviation of several runs' figures, times `scale`, or a dash."""
    if found["mean"] is None:
        return "–"
    deviation = "" if found["sd"] is None else f" ± {scale * found['sd']:.2g}"
    return form.format(scale * found["mean"]) + deviation


class Pulse(contextlib.AbstractContextManager["Pulse"]):
    """Shows that something goes on: a spinner on a terminal, else a line whenever nothing was printed for EVERY s."""

    def __init__(self) -> None:
        self._end: threading.Event | None = None
        self._status: Status | None = None

    def __exit__(self, *_: object) -> None:
        self.stop()

    def say(self, text: str) -> None:
        """Print a line; what it says goes on until the next one."""
        self.stop()
        note(text)
        self.start(text)

    def start(self, text: str) -> None:
        """Show signs of life until `stop`; on a pipe the first one after EVERY seconds."""
        self.stop()
        console = make_console()
        if console.is_terminal:
            self._status = console.status(visible(shorten(text, console.width - 4)), spinner_style="dim")
            self._status.start()
            return
        self._end, began = threading.Event(), time.monotonic()

        def beat(end: threading.Event) -> None:
            while not end.wait(EVERY):
                console.print(f"… {time.monotonic() - began:.0f} s: {visible(text)}", style="dim", soft_wrap=True)

        threading.Thread(target=beat, args=(self._end,), daemon=True).start()

    def stop(self) -> None:
        """No more signs: something else is printed."""
        if self._status:
            self._status.stop()
        if self._end:
            self._end.set()
        self._status = self._end = None


class TrainingBar:
    """A progress bar with loss and tokens per second; lines now and then, and a pulse, if no bar can be drawn."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = make_console()
        self.checked, self.total = "", 0
        text = TextColumn("{task.fields[text]}")
        columns = ("training", BarColumn(), MofNCompleteColumn(), text, TimeElapsedColumn())
        self.bar = Progress(*columns, console=self.console, transient=True)
        self.live = self.console.is_terminal
        self.pulse, self.said = Pulse(), 0.0
        self.task = self.bar.add_task("training", total=None, text="preparing the model")

    def __enter__(self) -> TrainingBar:
        if self.live:
            self.bar.start()
        else:
            self.pulse.start("preparing the model")
        return self

    def __exit__(self, *_: object) -> None:
        self.pulse.stop()
        if self.live:
            self.bar.stop()

    def start(self, steps: int, losses: Sequence[float] = ()) -> None:
        """The number of steps is known, and the losses of those that an earlier process did."""
        self.total = steps
        self.bar.update(self.task, total=steps, completed=len(losses), text="")
        if not self.live:
            self.pulse.start(f"step {len(losses) + 1} of {steps}")
        if losses:
            self.console.print(f"continuing at step {len(losses) + 1} of {steps}, from the checkpoint")

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """After an optimizer step."""
        text = f"loss {loss:.3f}{self.checked} · {tokens_per_second:,.0f} tokens/s"
        if self.live:
            self.bar.update(self.task, completed=step, text=text)
        elif step % PLAIN_EVERY == 0 or step == self.total or time.monotonic() - self.said >= EVERY:
            self.console.print(f"step {step:4}/{self.total} · {text}")
            self.said = time.monotonic()
            self.pulse.start(f"step {min(step + 1, self.total)} of {self.total}")

    def validation(self, step: int, loss: float, recall: float) -> None:  # noqa: ARG002 (the protocol names it)
        """After a validation pass."""
        self.checked = f" · validation {loss:.3f}, {100 * recall:.0f} % right"


def training(log: dict[str, Any]) -> None:
    """Print the summary of a training run."""
    s, console = log["summary"], make_console()
    console.print("loss", " → ".join(f"{log['steps'][at]['loss']:.3f}" for at in (0, -1)))
    checked = "–" if s["validation_loss"] is None else f"{s['validation_loss']:.3f}"
    done = f"{s['steps']} steps, {s['rows']} rows in {s['train_seconds']:.1f} s"
    peak = f"peak memory {s['peak_memory_bytes'] / 2**20:.0f} MiB"
    console.print(f"{done} ({s['tokens_per_second']:,.0f} tokens/s), validation loss {checked}, {peak}")
    if said := ending(log):
        console.print(said)


def ending(log: dict[str, Any]) -> str:
    """Why a training run ended and which adapter it kept; empty where the number of steps was fixed."""
    kept = log.get("kept")
    return f"kept the adapter after step {kept['step']} of at most {kept['of']}: {kept['reason']}" if kept else ""
