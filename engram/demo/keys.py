"""Waiting for a key, with the terminal as it was before, whatever happens."""

from __future__ import annotations

import os
import sys


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
