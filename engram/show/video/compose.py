"""Several recordings as one: their screens side by side, at the same time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engram.show.video import screen
from engram.show.video.cast import Cast
from engram.show.video.screen import Screen


def together(casts: Sequence[Cast], fps: int) -> Iterator[tuple[tuple[Screen, ...], int]]:
    """The recordings' screens, and for how many frames they stand; the shorter ones' last screens stay to the end."""
    total = max(screen.frames(cast, fps) for cast in casts)
    changes: list[dict[int, Screen]] = []
    for cast in casts:
        at, starts = 0, {}
        for shown, count in screen.play(cast, fps):
            starts[at] = shown
            at += count
        changes.append(starts)
    times = sorted({at for starts in changes for at in starts})
    now = [starts[0] for starts in changes]
    for at, end in zip(times, [*times[1:], total]):
        now = [starts.get(at, before) for starts, before in zip(changes, now)]
        yield tuple(now), end - at
