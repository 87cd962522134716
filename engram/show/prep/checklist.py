"""The whole checklist: every check in the plan's order, what only a person can see, and the document of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from engram.show.prep import backups, personal, search_terms, shown, stages, talking, terminal
from engram.show.prep.finding import ASK, FAIL, PASS, STATES, Finding, Situation, failed, unchecked
from engram.show.video import cast
from engram.show.video.cast import Cast
from engram.show.video.record import HEIGHT
from engram.support.errors import EngramError
from engram.support.text import visible

SCHEMA_VERSION = 1
ENOUGH_DISK = 2**30  # bytes: an hour of a screen recording at 1080p, and the films of `make record` beside it
QUESTIONS = {
    "fresh terminal": ("Is this a fresh terminal window, its prompt without your name?", "open a new window, PS1='$ '"),
    "screen resolution": (
        "Does the recording software take 1920 × 1080 or more?",
        "set it in the recording software",
    ),
    "microphone": ("Was the microphone tested?", "record ten seconds and listen to them"),
    "notifications": ("Are notifications off?", "turn on 'do not disturb'"),
    "desktop": ("Is there nothing personal elsewhere on the screen?", "close other windows, tabs and bookmark bars"),
}


def examine(at: Situation, environment: Mapping[str, str], public: Iterable[str] = ()) -> list[Finding]:
    """Every line of the checklist. Nothing is trained, fetched or written; the answer to `ask` is left open.

    `public` lists names and addresses that may be seen. No finding holds what is personal, not even in a path.
    """
    search = search_terms.search(search_terms.owner(at.checkout), environment, public)
    demo = _demo(at)
    made = [stages.models(at), stages.data(at), stages.adapter(at), stages.pipeline(at)]
    found = [
        personal.environment(environment),
        *made,
        *terminal.checks(terminal.measure()),
        personal.check(at, demo, search),
        _disk(at),
        backups.check(at, explained=any(one.state == FAIL for one in made)),
        talking.check(at, shown.titles(demo)) if demo else unchecked("talking points", "the demo cannot be shown"),
        *(Finding(name, ASK, question, fix) for name, (question, fix) in QUESTIONS.items()),
    ]
    return [_printable(one, search) for one in found]


def answered(found: Sequence[Finding], answer: Callable[[Finding], bool]) -> list[Finding]:
    """The findings with those of state `ask` decided by a person's answer."""

    def decided(one: Finding) -> Finding:
        if one.state != ASK:
            return one
        return (
            replace(one, state=PASS, text=f"{one.text} Yes.", fix="")
            if answer(one)
            else replace(one, state=FAIL, text=f"{one.text} No.")
        )

    return [decided(one) for one in found]


def ready(found: Sequence[Finding]) -> bool:
    """Whether nothing fails, and nothing is left to ask."""
    return not any(one.state in (FAIL, ASK) for one in found)


def document(found: Sequence[Finding], backend: str) -> dict[str, Any]:
    """The checklist as `schemas/video-prep.schema.json` has it."""
    return {
        "document": "video-prep",
        "schema_version": SCHEMA_VERSION,
        "backend": backend,
        "ready": ready(found),
        "counts": {state: sum(one.state == state for one in found) for state in STATES},
        "findings": [
            {"name": one.name, "state": one.state, "text": one.text, "fix": one.fix, "details": list(one.details)}
            for one in found
        ],
    }


def _demo(at: Situation) -> Cast | None:
    """What the demo prints, on the widest terminal, so that little is folded; None where it cannot be shown."""
    try:
        return shown.perform(at, cast.WIDTHS[-1], HEIGHT)
    except EngramError:  # the lines of data, pipeline and recordings say why
        return None


def _disk(at: Situation) -> Finding:
    place = at.place.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{free / 2**30:.1f} GiB where the recordings go"
    if free < ENOUGH_DISK:
        return failed("free disk", text, f"free {ENOUGH_DISK / 2**30:.0f} GiB")
    return Finding("free disk", PASS, text)


def _printable(one: Finding, search: search_terms.Search) -> Finding:
    def clean(text: str) -> str:
        return visible(search.conceal(text))

    return replace(one, text=clean(one.text), fix=clean(one.fix), details=tuple(map(clean, one.details)))
