"""The terminal that this runs on: its size, its colours, and how large its characters are."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from engram.show.prep.finding import ASK, FAIL, PASS, WARN, Finding

SMALLEST, COMFORTABLE = (80, 24), (100, 30)  # columns, lines; the second is what `make record` records
READABLE = 24  # pixels of a line on a picture 1080 high
PICTURE = 1080
SECONDS = 0.3  # in which a terminal on a distant machine answers as well
# the size of a character (`CSI 16 t`), of the text area (14) and of the screen (15), in pixels; then the question
# that every terminal answers (`CSI c`), so that silence before that answer means "unknown", without waiting
QUESTIONS = b"\x1b[16t\x1b[14t\x1b[15t\x1b[c"
_REPLY = re.compile(rb"\x1b\[([456]);(\d{1,5});(\d{1,5})t")
_LAST_REPLY = re.compile(rb"\x1b\[\?[\d;]*c")


@dataclass(frozen=True)
class Terminal:
    """Columns and lines; rich's name of the colours, None for none; pixels of a line and the screen, 0 if unknown."""

    columns: int
    lines: int
    colours: str | None
    line_height: float = 0
    screen_height: int = 0


def measure(streams: Sequence[int] = (1, 0, 2)) -> Terminal | None:
    """The terminal of the first of these streams that is one, else None. Never waits longer than SECONDS."""
    descriptor = next((stream for stream in streams if os.isatty(stream)), None)
    if descriptor is None:
        return None
    columns, lines = os.get_terminal_size(descriptor)
    replies = _replies(_ask(descriptor))
    line_height: float = replies.get(6, 0)
    if not line_height and lines:
        line_height = replies.get(4, 0) / lines
    return Terminal(columns, lines, _colours(descriptor), line_height, replies.get(5, 0))


def checks(terminal: Terminal | None) -> list[Finding]:
    """Size, colours and character size; without a terminal there is nothing to measure, and that is no failure."""
    if terminal is None:
        why = "no terminal here (make record brings its own, 100 × 30)"
        return [Finding(name, WARN, f"not checked: {why}") for name in ("terminal size", "colours", "font size")]
    return [_size(terminal), _colour(terminal), _font(terminal)]


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


def _font(terminal: Terminal) -> Finding:
    name, fix = "font size", f"enlarge the font until a line has {READABLE} pixels of {PICTURE}"
    if not terminal.line_height:
        return Finding(name, ASK, "Can the text be read in a window of a quarter of the screen?", fix)
    height, text = terminal.line_height, f"lines of {terminal.line_height:.0f} pixels"
    if terminal.screen_height:
        height *= PICTURE / terminal.screen_height
        text += f" on a screen of {terminal.screen_height}"
    if height >= READABLE:
        return Finding(name, PASS, text)
    if terminal.screen_height:
        return Finding(name, FAIL, f"{text}; {READABLE} of {PICTURE} can be read", fix)
    question = f"The terminal has {text}; {READABLE} of {PICTURE} can be read. Is it large enough?"
    return Finding(name, ASK, question, fix)


def _colours(descriptor: int) -> str | None:
    """Rich's view of TERM, COLORTERM and NO_COLOR for this terminal."""
    from rich.console import Console

    if os.environ.get("NO_COLOR"):  # as engram.support.console has it
        return None
    with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as stream:
        return Console(file=stream).color_system


def _replies(answer: bytes) -> dict[int, int]:
    """The heights of the answers, by their number: 4 text area, 5 screen, 6 character."""
    return {int(kind): int(height) for kind, height, _ in _REPLY.findall(answer)}


def _ask(descriptor: int) -> bytes:
    """What the terminal answers to QUESTIONS in time; nothing where it cannot be asked."""
    try:
        import termios

        own = os.open(os.ttyname(descriptor), os.O_RDWR | os.O_NOCTTY)
    except (ImportError, OSError):
        return b""
    try:
        if os.environ.get("TERM", "dumb") == "dumb" or not _in_foreground(own):  # the one would print the question
            return b""
        with _unbuffered(own):
            os.write(own, QUESTIONS)
            return _read(own, time.monotonic() + SECONDS)
    except (OSError, termios.error):
        return b""
    finally:
        os.close(own)


def _read(descriptor: int, end: float) -> bytes:
    answer = b""
    while not _LAST_REPLY.search(answer) and (left := end - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            piece = os.read(descriptor, 1024)
            if not piece:
                break
            answer += piece
    return answer


@contextmanager
def _unbuffered(descriptor: int) -> Iterator[None]:
    """Characters at once and unseen; afterwards as before, without what is left of the answers."""
    import termios

    before = termios.tcgetattr(descriptor)
    changed = termios.tcgetattr(descriptor)
    changed[3] &= ~(termios.ICANON | termios.ECHO)
    changed[6][termios.VMIN], changed[6][termios.VTIME] = 0, 0
    try:
        termios.tcsetattr(descriptor, termios.TCSANOW, changed)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)


def _in_foreground(descriptor: int) -> bool:
    """Whether this program may read from the terminal: one in the background would be stopped by trying."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # not our controlling terminal: nothing stops us
        return True


def interactive() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()
