"""What a terminal shows: the command on a terminal of its own, and a recorded show moment by moment."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence

from small_run import Run

from engram.show.video import screen
from engram.show.video.cast import OUTPUT, Cast


def on_a_terminal(
    run: Run,
    *arguments: str,
    columns: int = 100,
    lines: int = 30,
    keys: Sequence[tuple[str, bytes]] = (),
    code: int = 0,
    **environment: str,
) -> tuple[str, float]:
    """What `engram demo` prints on a terminal of this size, and the seconds that it took; see `typed`."""
    places = ["--results", str(run.root / "results"), "--data", str(run.root / "data")]
    command = ["demo", *places, "--patterns", str(run.root / "pack.yaml"), "--backend", "mlx", *arguments]
    return typed(command, columns, lines, keys, code, **environment)


def typed(
    arguments: Sequence[str], columns: int, lines: int, keys: Sequence[tuple[str, bytes]], code: int, **environment: str
) -> tuple[str, float]:
    """What an `engram` command prints on a terminal of this size, and the seconds that it took.

    Each of `keys` is pressed when its text has been printed since the last one; the command must end with `code`.
    """
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "engram.cli", *arguments], stdin=follower, stdout=follower, stderr=follower,
        # a terminal that sends Ctrl-C as an interrupt must be the process's own
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env=clean | {"TERM": "xterm-256color"} | environment,
    )  # fmt: skip
    started = time.perf_counter()
    os.close(follower)
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    printed, seen, waiting = b"", 0, list(keys)
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not piece:
            break
        printed += piece
        if waiting and waiting[0][0].encode() in printed[seen:]:
            time.sleep(0.2)  # a person is no quicker; the terminal is ready for keys by then
            os.write(leader, waiting.pop(0)[1])
            seen = len(printed)
    os.close(leader)
    assert process.wait() == code, printed
    watchdog.cancel()
    assert not waiting, printed
    return printed.decode(), time.perf_counter() - started


def at(cast: Cast, seconds: float) -> list[str]:
    """The rows of the screen at this time."""
    events = tuple(event for event in cast.events if event.time <= seconds)
    return screen.last(dataclasses.replace(cast, events=events)).text


def moments(cast: Cast) -> Iterator[list[str]]:
    """The rows after every change."""
    terminal = screen._Terminal(cast.width, cast.height)
    for event in cast.events:
        if event.code == OUTPUT:
            terminal.feed(event.data)
            yield terminal.screen().text
