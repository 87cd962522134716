"""What a recording shows, section by section, as text."""

from __future__ import annotations

import re
from typing import NamedTuple

from engram.video.cast import MARKER, Cast

_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[78])")
_FRAME = re.compile("[\u2500-\u259f]+")  # lines and blocks


class Section(NamedTuple):
    """A section's title and its lines, without colours and boxes."""

    title: str
    lines: list[str]


def sections(cast: Cast) -> list[Section]:
    """The sections in their order; what is shown before the first marker has the title `start`."""
    parts: list[tuple[str, list[str]]] = [("start", [])]
    for event in cast.events:
        if event.code == MARKER:
            parts.append((event.data, []))
        else:
            parts[-1][1].append(event.data)
    return [Section(title, _lines("".join(texts))) for title, texts in parts]


def titles(cast: Cast) -> list[str]:
    """The titles of the sections, each once."""
    return list(dict.fromkeys(marker.title for marker in cast.markers))


def _lines(text: str) -> list[str]:
    plain = _FRAME.sub(" ", _SEQUENCE.sub("", text))
    return [line.strip() for line in re.split(r"[\r\n]+", plain)]
