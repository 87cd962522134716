"""The terminal this runs on: its size and colours. How large its characters are is a question for a person."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from engram.show.prep.finding import ASK, FAIL, PASS, WARN, Finding

SMALLEST, COMFORTABLE = (80, 24), (100, 30)  # columns, lines; the second is what `make record` records


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
    """Whether somebody is there to answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()
