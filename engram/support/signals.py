"""Ctrl-C and SIGTERM: end the work at once, or training after its step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal ended the work; the message, if any, says how far it got. No `except Exception` catches it."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code a shell uses for this signal."""
        return 128 + self.number


@dataclass
class _Heard:
    number: int = 0  # the signal that came, 0 for none
    patient: bool = False  # whether the work looks for itself


_heard = _Heard()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """SIGINT and SIGTERM raise `Stopped` in the block, or wait for a `patient` part of it to look."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python has signals in its main thread alone
        return
    _heard.number, _heard.patient = 0, False
    before = {number: signal.signal(number, _hear) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _heard.number = 0


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """The first signal in the block only makes `heard` say so; a second one ends it at once."""
    _heard.patient = True
    try:
        yield
    finally:
        _heard.patient = False


def heard() -> int:
    """Return the number of the signal that asked to stop, 0 if none did."""
    return _heard.number


def _hear(number: int, _: FrameType | None) -> None:
    wait = _heard.patient and not _heard.number
    _heard.number = number
    if not wait:
        raise Stopped(number)
