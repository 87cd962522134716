"""What the demo and the recordings show: performed, and read off the screen section by section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from engram.show.prep.finding import Situation
from engram.show.video import screen
from engram.show.video.cast import Cast
from engram.show.video.record import record
from engram.show.video.replay import caption, replay
from engram.support.text import normalise

FPS = 4  # what stands for less than a quarter of a second nobody reads
_FRAME = re.compile("[\u2500-\u259f]+")  # lines and blocks


class Line(NamedTuple):
    """A line of the screen: its section, its number from the top (0: the whole screen as one line), its text."""

    section: str
    number: int
    text: str


def perform(at: Situation, width: int, height: int) -> Cast:
    """The demo of these results as `make record` records it; raises EngramError where it cannot be shown."""
    return record(replay(at.backend, at.data, at.results, at.patterns), width, height, caption(at.backend, at.results))


def titles(cast: Cast) -> list[str]:
    """The titles of the sections, each once."""
    return list(dict.fromkeys(marker.title for marker in cast.markers))


def lines(cast: Cast) -> Iterator[Line]:
    """Every line that a recording shows, each text once in a section; then each whole screen, for what is folded."""
    seen: set[tuple[str, str]] = set()
    frame = 0
    for shown, count in screen.play(cast, FPS):
        section = _section(cast, frame / FPS)
        frame += count
        rows = [_FRAME.sub(" ", row).strip() for row in shown.text]
        numbered = [*enumerate(rows, 1), (0, normalise(" ".join(rows)))]
        for number, text in numbered:
            if text and (section, text) not in seen:
                seen.add((section, text))
                yield Line(section, number, text)


def _section(cast: Cast, time: float) -> str:
    """The section that a moment is in; before the first marker it is `start`."""
    return next((marker.title for marker in reversed(cast.markers) if marker.time <= time), "start")
