"""The time a show keeps: the real one, or one that a recording moves by itself."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Marker(NamedTuple):
    """The start of a section: seconds since the start of the show, and the section's title."""

    time: float
    title: str


class Clock(Protocol):
    """What a show asks for time, so that it can be watched live and recorded without waiting."""

    def now(self) -> float:
        """Seconds since the start of the show."""

    def sleep(self, seconds: float) -> None:
        """Let that much time pass; raises ValueError where it is negative or no finite number."""

    def mark(self, title: str) -> None:
        """A section of this title starts now."""


class RealClock:
    """Time as it passes; sections leave no trace."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def now(self) -> float:
        """Seconds since the clock was made."""
        return time.monotonic() - self._started

    def sleep(self, seconds: float) -> None:
        """Wait; see `Clock`."""
        time.sleep(_checked(seconds))

    def mark(self, title: str) -> None:
        """Nobody keeps the sections of a live show."""


@dataclass
class VirtualClock:
    """Time that passes only in `sleep`, at once and exactly: what is shown when depends on the show alone."""

    time: float = 0.0
    markers: list[Marker] = field(default_factory=list)

    def now(self) -> float:
        """The seconds slept so far."""
        return self.time

    def sleep(self, seconds: float) -> None:
        """Move on without waiting; see `Clock`."""
        self.time += _checked(seconds)

    def mark(self, title: str) -> None:
        """Keep the section's start."""
        self.markers.append(Marker(self.time, title))


@dataclass(frozen=True)
class PacedClock:
    """Another clock, `speed` times as fast: 2 halves every wait, 0 leaves all of them out."""

    clock: Clock
    speed: float

    def now(self) -> float:
        """Seconds since the start of the show."""
        return self.clock.now()

    def sleep(self, seconds: float) -> None:
        """Wait for the speed's share of it; see `Clock`."""
        if self.speed:
            self.clock.sleep(seconds / self.speed)

    def mark(self, title: str) -> None:
        """A section of this title starts now."""
        self.clock.mark(title)


def _checked(seconds: float) -> float:
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"a show cannot sleep for {seconds} s")
    return seconds
