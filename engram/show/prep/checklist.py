"""The whole checklist: every check in the plan's order, the questions for a person, and the document of it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.text import Text

from engram.show.prep import personal, stages
from engram.show.prep.stages import ASK, FAIL, PASS, STATES, WARN, Finding, Situation, failed, refused, unchecked
from engram.show.video import cast
from engram.show.video.cast import Cast
from engram.support.console import make_console, make_table
from engram.support.errors import EngramError
from engram.support.files import read_bytes
from engram.support.text import normalise, visible

SCHEMA_VERSION = 1
SMALLEST = (80, 24)  # columns, lines of a terminal for a video; comfortable is what `make record` records
MARKS = {"pass": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red"), "ask": ("?", "cyan")}
RECORDINGS = "backup recordings"
KINDS = ("cast", "mp4", "gif")
QUESTIONS = {
    "fresh terminal": ("Is this a fresh terminal window, its prompt without your name?", "open a new window, PS1='$ '"),
    "screen resolution": ("Does the recording software take 1920 × 1080 or more?", "set it in the recording software"),
    "microphone": ("Was the microphone tested?", "record ten seconds and listen to them"),
    "notifications": ("Are notifications off?", "turn on 'do not disturb'"),
    "desktop": ("Is there nothing personal elsewhere on the screen?", "close other windows, tabs and bookmark bars"),
}


def examine(at: Situation, environment: Mapping[str, str], public: Iterable[str] = ()) -> list[Finding]:
    """Every line of the checklist. Nothing is trained, fetched or written; the answer to `ask` is left open.

    `public` lists names and addresses that may be seen. No finding holds what is personal, not even in a path.
    """
    search = personal.search(personal.owner(at.checkout), environment, public)
    demo = None
    with contextlib.suppress(EngramError):  # the lines of data, pipeline and recordings say why it cannot be shown
        demo = _demo(at, cast.WIDTHS[-1])  # so wide that little is folded
    made = stages.examine(at)
    found = [
        personal.environment(environment),
        *made,
        *terminal(measure()),
        personal.check(at, demo, search),
        recordings(at, explained=any(one.state == FAIL for one in made)),
        talking_points(at, personal.titles(demo)) if demo else unchecked("talking points", "the demo cannot be shown"),
        *(Finding(name, ASK, question, fix) for name, (question, fix) in QUESTIONS.items()),
    ]

    def clean(text: str) -> str:
        return visible(search.conceal(text))

    return [replace(e, text=clean(e.text), fix=clean(e.fix), details=tuple(map(clean, e.details))) for e in found]


def answered(found: Sequence[Finding], answer: Callable[[Finding], bool]) -> list[Finding]:
    """The findings with those of state `ask` decided by a person's answer."""
    decided = []
    for one in found:
        if one.state == ASK and answer(one):
            decided.append(replace(one, state=PASS, text=f"{one.text} Yes.", fix=""))
        else:
            decided.append(replace(one, state=FAIL, text=f"{one.text} No.") if one.state == ASK else one)
    return decided


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
        "findings": [asdict(one) | {"details": list(one.details)} for one in found],
    }


def _demo(at: Situation, width: int, height: int = cast.HEIGHT) -> Cast:
    """The demo of these results as `make record` records it; raises EngramError if it cannot be shown."""
    return cast.of_demo(at.place, at.data, at.patterns, width, height)


def measure() -> os.terminal_size | None:
    """The size of the terminal that this process writes to or is read from, None without one."""
    stream = next((stream for stream in (1, 0, 2) if os.isatty(stream)), None)
    return None if stream is None else os.get_terminal_size(stream)


def terminal(size: os.terminal_size | None) -> list[Finding]:
    """Its size and that of its letters; without a terminal there is nothing to measure, and that is no failure."""
    if size is None:
        why = f"no terminal here (make record brings its own, {cast.WIDTH} × {cast.HEIGHT})"
        return [unchecked(name, why) for name in ("terminal size", "font size")]
    state, text, fix = PASS, f"{size.columns} × {size.lines}", ""
    for wanted, less in (((cast.WIDTH, cast.HEIGHT), WARN), (SMALLEST, FAIL)):
        if size.columns < wanted[0] or size.lines < wanted[1]:
            state, text = less, f"{size.columns} × {size.lines}, less than {wanted[0]} × {wanted[1]}"
            fix = f"enlarge the window to {cast.WIDTH} × {cast.HEIGHT} or more"
    question = "Can the text be read in a window of a quarter of the screen?"
    font = Finding("font size", ASK, question, "enlarge the font: 24 pixels a line on a picture 1080 high")
    return [Finding("terminal size", state, text, fix), font]


def talking_points(at: Situation, titles: list[str]) -> Finding:
    """Whether the script has something to say on each of these sections."""
    name = "talking points"
    if not at.script.is_file():
        return failed(name, f"no {at.script}", f"write {at.script}: a heading `## …` for each section of the demo")
    script = read_bytes(at.script).decode("utf-8", "replace")
    headings = re.findall(r"^## (.+)\n\s*(?!##? )\S", script, re.M)  # with text under it
    there = {normalise(heading).casefold() for heading in headings}
    if missing := [title for title in titles if normalise(title).casefold() not in there]:
        fix = f"write a heading and its points for each of them in {at.script}"
        text = f"{at.script} says nothing on {len(missing)} of {len(titles)} sections"
        return failed(name, text, fix, tuple(f"## {visible(title)}" for title in missing))
    return Finding(name, PASS, f"{at.script} has each of the show's {len(titles)} sections")


def show(found: Sequence[Finding]) -> None:
    """Print each finding with its state and the remedy, and the sum of it."""
    console = make_console()
    table = make_table(console, "state", "check", "found")
    for one in found:
        mark, style = MARKS[one.state]
        lines = [one.text, *(f"  {detail}" for detail in one.details)]
        if one.fix and one.state != "pass":
            lines.append(f"fix: {one.fix}")
        table.add_row(Text(f"{mark} {one.state}", style=style), one.name, "\n".join(lines))
    console.print(table)
    counts = ", ".join(f"{sum(one.state == state for one in found)} {state}" for state in STATES)
    console.print(f"{counts}: {'ready to record' if ready(found) else 'not ready'}", style="bold")


def recordings(at: Situation, explained: bool) -> Finding:
    """Whether cast, film and GIF of the demo exist and show the demo of these results.

    The cast, which is written after film and GIF, is compared with one made now, byte by byte. Where the demo cannot be
    performed, this line fails unless another line has `explained` it.
    """
    again = at.make("record")
    files = {kind: at.place / f"demo.{kind}" for kind in KINDS}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        return failed(RECORDINGS, f"missing in {at.place}: {', '.join(missing)}", again)
    try:
        stored = cast.read(files["cast"])
    except EngramError as error:
        return refused(RECORDINGS, error, again)
    try:
        now = _demo(at, stored.width, stored.height)
    except EngramError as error:
        if explained:
            return unchecked(RECORDINGS, "the demo cannot be shown now")
        return failed(RECORDINGS, f"nothing to hold them against: {error.what}", at.make("demo record"), error.problems)
    if cast.dumps(now).encode("utf-8") != read_bytes(files["cast"]):
        return failed(RECORDINGS, "stale: the demo of these results looks different now", again)
    return Finding(RECORDINGS, PASS, f"cast, film and GIF of these results, {now.duration:.0f} s")
