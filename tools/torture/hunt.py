"""Runs cases against engram: each within a time limit, each refusal read, each failure cut down to its least form.

A case may be read or refused. It is lost where anything but an EngramError leaves the code, where it takes longer than
SECONDS of processor time, and where the refusal does not name the file and the place in it.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import hypothesis
from hypothesis import strategies as st

from engram.support.errors import EngramError

SECONDS = 5.0  # of processor time for one case
BLOCKED = 120.0  # of the clock, for a case that waits and computes nothing: another program may be busy
LONGEST = 100_000  # characters of a refusal that a person may be given
SHOWN = 4000  # characters of a case in its loss
# line:column, $.path, a line of a file of lines, a byte of a binary one
_PLACE = re.compile(r":\d+:\d+|\$|:\d+ |\bline \d+|\bbyte \d+")


class Case(NamedTuple):
    """Something that a person or a file may hand to engram: of which kind, and what is needed to see it again."""

    kind: str
    content: Any

    def __str__(self) -> str:
        text = repr(self.content)
        return f"{self.kind}: {text if len(text) <= SHOWN else text[:SHOWN] + '…'}"


class LossError(Exception):
    """A case that went wrong."""


class TooSlowError(BaseException):
    """Not an Exception, so that nothing between the case and its guard can take it for an error of its own."""


@contextlib.contextmanager
def within(seconds: float = SECONDS) -> Iterator[None]:
    """Raise TooSlowError in a block that computes longer than `seconds`, or waits far longer."""

    def late(number: int, _frame: object) -> None:
        raise TooSlowError(f"over {seconds:g} s" if number == signal.SIGPROF else f"waits over {BLOCKED:g} s")

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, BLOCKED + seconds))
    old = [signal.signal(number, late) for number, _, _ in timers]
    for _, timer, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, old, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def read(call: Callable[[], Any], *names: str, place: bool = True, seconds: float = SECONDS) -> Any:
    """What `call` returns, None where it refuses with a message that names one of `names` and, if asked, a place."""
    try:
        with within(seconds):
            return call()
    except EngramError as error:
        refuse_bad_message(str(error), names, place)
        return None
    except (hypothesis.errors.StopTest, KeyboardInterrupt):
        raise
    except BaseException as error:  # a panic of compiled code is no Exception
        raise LossError(f"{type(error).__name__}: {error}") from error


def refuse_bad_message(text: str, names: Sequence[str], place: bool = True) -> None:
    """Raise LossError where a refusal does not say which file and where, or is longer than anybody reads."""
    said = text[:300]
    if names and not any(name in text for name in names):
        raise LossError(f"the refusal names no file ({' or '.join(names)}): {said}")
    if place and not _PLACE.search(text):
        raise LossError(f"the refusal names no place: {said}")
    if len(text) > LONGEST:
        raise LossError(f"the refusal has {len(text)} characters: {said}")


def refuse_raw_output(text: str, layout: str = "\n") -> None:
    """Raise LossError where a printed text holds what could drive a terminal or hide."""
    for character in set(text) - set(layout):
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            at = text.index(character)
            raise LossError(f"U+{ord(character):04X} is printed as it is: {text[max(at - 40, 0) : at + 40]!r}")


class Hunt(NamedTuple):
    """What a hunt did: cases by kind, losses, each as its least form, and how many cases were read, not refused."""

    kinds: Counter[str]
    losses: list[str]
    accepted: int
    seconds: float


def hunt(cases: st.SearchStrategy[Case], check: Callable[[Case], Any], count: int, seed: int) -> Hunt:
    """Hand `count` cases to `check`, which raises LossError; the same seed gives the same cases.

    Hypothesis goes on for a while after a failure, so that failures from different places are told apart.
    """
    kinds: Counter[str] = Counter()
    accepted = [0]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        report_multiple_bugs=True,
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(cases)
    def each(case: Case) -> None:
        kinds[case.kind] += 1
        try:
            accepted[0] += check(case) is not None
        except LossError as error:
            raise LossError(f"{case}\n    {error}") from error.__cause__

    started, losses = time.perf_counter(), []
    try:
        each()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        losses = [f"seed {seed}, {_told(one)}" for one in _single(error)]
    return Hunt(kinds, losses, accepted[0], time.perf_counter() - started)


def _single(error: BaseException) -> list[BaseException]:
    """The failures that Hypothesis found, one for each place that they come from."""
    group = getattr(error, "exceptions", None)
    return [one for part in group for one in _single(part)] if group else [error]


def _told(error: BaseException) -> str:
    """A failure's case and message, and the line of engram that it comes from."""
    cause, place = error.__cause__, ""
    trace = cause.__traceback__ if cause else None
    while trace:
        code = trace.tb_frame.f_code
        if "/engram/" in code.co_filename:
            place = f" [engram/{code.co_filename.rsplit('/engram/', 1)[1]}:{trace.tb_lineno}]"
        trace = trace.tb_next
    name = "" if isinstance(error, LossError) else f"{type(error).__name__}: "
    return f"{name}{error}{place}"
