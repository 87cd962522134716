"""Talking points: a heading in the video's script for each section of the show."""

from __future__ import annotations

import re

from engram.show.prep.finding import PASS, Finding, Situation, failed
from engram.support.files import read_bytes
from engram.support.text import normalise, visible

PAIRS = "Before and after"
_PAIR = re.compile(r".+: (taught|held out)\b")  # a prompt answered before and after, titled by its kind of pattern
_FENCE = re.compile(r"\s*(```|~~~)")


def check(at: Situation, titles: list[str]) -> Finding:
    """Whether the script has something to say on each of these sections."""
    name = "talking points"
    if not at.script.is_file():
        return failed(name, f"no {at.script}", f"write {at.script}: a heading `## …` for each section of the demo")
    missing = lacking(titles, read_bytes(at.script).decode("utf-8", "replace"))
    if missing:
        fix = f"write a heading and its points for each of them in {at.script}"
        text = f"{at.script} says nothing on {len(missing)} of {len(titles)} sections"
        return failed(name, text, fix, tuple(f"## {visible(title)}" for title in missing))
    return Finding(name, PASS, f"{at.script} has each of the show's {len(titles)} sections")


def lacking(titles: list[str], script: str) -> list[str]:
    """The headings that the script lacks, or that have nothing under them.

    The rule: a section is covered by a heading `## <its title>`, capitals and blanks aside; one of prompts answered
    before and after (`facts: taught`, `…: held out`) also by `## Before and after`, which then is the one named.
    """
    there = _headings(script)
    missing = [title for title in titles if _folded(title) not in there]
    if _folded(PAIRS) in there:
        return [title for title in missing if not _PAIR.match(title)]
    return list(dict.fromkeys(PAIRS if _PAIR.match(title) else title for title in missing))


def _headings(script: str) -> set[str]:
    """The second-level headings that have text under them, folded."""
    found: set[str] = set()
    heading, fenced = "", False
    for line in script.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        if not fenced and re.match(r"##?\s", line):
            heading = _folded(line[2:].strip().rstrip("#")) if line.startswith("## ") else ""
        elif heading and line.strip():
            found.add(heading)
    return found


def _folded(title: str) -> str:
    return normalise(title).casefold()
