"""One line of the checklist, the places that its checks look at, and the checks of the terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engram.backends import choose
from engram.support.errors import EngramError
from engram.support.files import PACKAGE

PASS, WARN, FAIL, ASK = STATES = ("pass", "warn", "fail", "ask")
MOST_DETAILS = 10
SMALLEST, COMFORTABLE = (80, 24), (100, 30)  # columns, lines; the second is what `make record` records
SECONDS = 5  # that git may take


@dataclass(frozen=True)
class Finding:
    """One check: its state, what was found, the next thing to do or to type, and further lines of what was found.

    A finding of the state `ask` has a question for a person in `text`.
    """

    name: str
    state: str
    text: str
    fix: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Situation:
    """The places that the checks look at; `model` is the value of `MODEL`, `auto` included."""

    backend: str
    model: str
    patterns: str
    data: Path
    adapters: Path
    results: Path
    script: Path
    checkout: Path = PACKAGE.parent

    @property
    def place(self) -> Path:
        """The folder of the backend's results."""
        return self.results / self.backend

    def make(self, targets: str) -> str:
        """The command that makes these targets with the backend and the patterns looked at."""
        backend = "" if self.backend == choose() else f" BACKEND={self.backend}"
        patterns = "" if self.patterns == "patterns" else f" PATTERNS={shlex.quote(self.patterns)}"
        return f"make {targets}{backend}{patterns}"


def failed(name: str, text: str, fix: str, details: tuple[str, ...] = ()) -> Finding:
    """A finding that fails, with as many of the details as a screen takes."""
    more = len(details) - MOST_DETAILS
    shown = details[:MOST_DETAILS] + ((f"… and {more} more",) if more > 0 else ())
    return Finding(name, FAIL, text, fix, shown)


def refused(name: str, error: EngramError, fix: str = "") -> Finding:
    """An error as a finding that fails."""
    where = f"{error.where}: " if error.where else ""
    return failed(name, where + error.what, fix or error.fix, error.problems)


def unchecked(name: str, why: str) -> Finding:
    """A check that another line's failure makes impossible: one cause fails one line."""
    return Finding(name, WARN, f"not checked: {why}")


def ask(folder: Path, *arguments: str) -> str | None:
    """The output of a git command in this folder; None if git is missing, refuses or does not answer in time."""
    if not shutil.which("git"):
        return None
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False, text=True, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@dataclass(frozen=True)
class Terminal:
    """Columns and lines; rich's name of the colours, None for none."""

    columns: int
    lines: int
    colours: str | None


def measure(streams: Sequence[int] = (1, 0, 2)) -> Terminal | None:
    """The terminal of the first of these streams that is one, else None."""
    descriptor = next((stream for stream in streams if os.isatty(stream)), None)
    if descriptor is None:
        return None
    columns, lines = os.get_terminal_size(descriptor)
    return Terminal(columns, lines, _colours(descriptor))


def checks(terminal: Terminal | None) -> list[Finding]:
    """Size, colours and font size; without a terminal there is nothing to measure, and that is no failure."""
    if terminal is None:
        why = "no terminal here (make record brings its own, 100 × 30)"
        return [Finding(name, WARN, f"not checked: {why}") for name in ("terminal size", "colours", "font size")]
    question = "Can the text be read in a window of a quarter of the screen?"
    font = Finding("font size", ASK, question, "enlarge the font: 24 pixels a line on a picture 1080 high")
    return [_size(terminal), _colour(terminal), font]


def _size(terminal: Terminal) -> Finding:
    size, text = (terminal.columns, terminal.lines), f"{terminal.columns} × {terminal.lines}"
    fix = "enlarge the window to {} × {} or more".format(*COMFORTABLE)
    for wanted, state in ((SMALLEST, FAIL), (COMFORTABLE, WARN)):
        if size[0] < wanted[0] or size[1] < wanted[1]:
            return Finding("terminal size", state, f"{text}, less than {wanted[0]} × {wanted[1]}", fix)
    return Finding("terminal size", PASS, text)


def _colour(terminal: Terminal) -> Finding:
    name, colours = "colours", terminal.colours
    if colours is None:
        cause = "NO_COLOR is set" if os.environ.get("NO_COLOR") else "none that TERM or COLORTERM tells of"
        fix = "unset NO_COLOR" if os.environ.get("NO_COLOR") else "export TERM=xterm-256color, where the terminal can"
        return Finding(name, FAIL, f"no colours: {cause}", fix)
    if colours in ("truecolor", "256"):
        return Finding(name, PASS, {"256": "256 colours", "truecolor": "24-bit colours"}[colours])
    fix = "export TERM=xterm-256color COLORTERM=truecolor, where the terminal can"
    return Finding(name, WARN, "16 colours, each as the terminal's settings have it", fix)


def _colours(descriptor: int) -> str | None:
    """Rich's view of TERM, COLORTERM and NO_COLOR for this terminal."""
    from rich.console import Console

    if os.environ.get("NO_COLOR"):  # as engram.support.console has it
        return None
    with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as stream:
        return Console(file=stream).color_system


def interactive() -> bool:
    """Whether a person can answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()
