"""The time of a show: the real one, or one that a recording moves by itself."""

from __future__ import annotations

import math
import time
from typing import NamedTuple


class Marker(NamedTuple):
    """The start of a section: seconds since the start of the show, and the section's title."""

    time: float
    title: str


class Clock:
    """Real time since the clock was made, `speed` times as fast: 2 halves every wait, 0 leaves all of them out."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed, self._started = speed, time.monotonic()

    def now(self) -> float:
        """Seconds since the start of the show."""
        return time.monotonic() - self._started

    def sleep(self, seconds: float) -> None:
        """Let that much time of the show pass; raises ValueError where it is negative or no finite number."""
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"a show cannot sleep for {seconds} s")
        if self._speed:
            self._pass(seconds / self._speed)

    def mark(self, title: str) -> None:
        """A section of this title starts now; a live show keeps no record of it."""

    def _pass(self, seconds: float) -> None:
        time.sleep(seconds)


class VirtualClock(Clock):
    """Time that passes only in `sleep`, at once and exactly: when a screen is shown depends on the show alone."""

    def __init__(self, speed: float = 1.0) -> None:
        super().__init__(speed)
        self._now = 0.0
        self.markers: list[Marker] = []

    def now(self) -> float:
        """The seconds slept so far."""
        return self._now

    def mark(self, title: str) -> None:
        """Keep the section's start."""
        self.markers.append(Marker(self._now, title))

    def _pass(self, seconds: float) -> None:
        self._now += seconds
