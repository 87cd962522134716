"""One line of the checklist, and the places that its checks look at."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from engram.backends import choose
from engram.support.errors import EngramError
from engram.support.files import PACKAGE
from engram.support.text import first

PASS, WARN, FAIL, ASK = STATES = ("pass", "warn", "fail", "ask")
MOST_DETAILS = 10


@dataclass(frozen=True)
class Finding:
    """One check: its state, what was found, the next thing to do or to type, and further lines of what was found.

    A finding of the state `ask` has a question for a person in `text`.
    """

    name: str
    state: str
    text: str
    fix: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Situation:
    """The places that the checks look at; `model` is the value of `MODEL`, `auto` included."""

    backend: str
    model: str
    patterns: str
    data: Path
    adapters: Path
    results: Path
    script: Path
    checkout: Path = PACKAGE.parent

    @property
    def place(self) -> Path:
        """The folder of the backend's results."""
        return self.results / self.backend

    def make(self, targets: str) -> str:
        """The command that makes these targets with the backend and the patterns looked at."""
        backend = "" if self.backend == choose() else f" BACKEND={self.backend}"
        patterns = "" if self.patterns == "patterns" else f" PATTERNS={shlex.quote(self.patterns)}"
        return f"make {targets}{backend}{patterns}"


def failed(name: str, text: str, fix: str, details: tuple[str, ...] = ()) -> Finding:
    """A finding that fails, with as many of the details as a screen takes."""
    return Finding(name, FAIL, text, fix, tuple(first(details, MOST_DETAILS)))


def refused(name: str, error: EngramError, fix: str = "") -> Finding:
    """An error as a finding that fails."""
    where = f"{error.where}: " if error.where else ""
    return failed(name, where + error.what, fix or error.fix, error.problems)


def unchecked(name: str, why: str) -> Finding:
    """A check that another line's failure makes impossible: one cause fails one line."""
    return Finding(name, WARN, f"not checked: {why}")


def interactive() -> bool:
    """Whether a person can answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()
