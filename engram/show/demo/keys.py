"""Waiting for a key, or hiding them, with the terminal as it was before, whatever happens."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """What is typed meanwhile is not shown, and waits to be read; Ctrl-C stays what it is."""
    try:
        import termios
    except ImportError:  # no such terminals on this system
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    try:
        termios.tcsetattr(terminal, termios.TCSADRAIN, quiet)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def wait() -> None:
    """Wait for any key on a terminal, for Enter or the end of the input elsewhere; Ctrl-C raises KeyboardInterrupt."""
    try:
        import termios
        import tty
    except ImportError:  # no such terminals on this system
        sys.stdin.readline()
        return
    if not sys.stdin.isatty():
        sys.stdin.readline()
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)  # keys come one by one and unseen; Ctrl-C stays what it is
        os.read(terminal, 1)
        termios.tcflush(terminal, termios.TCIFLUSH)  # the rest of an arrow key is no second key
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
