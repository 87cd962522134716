"""The one exception a person sees: what is wrong, where, and what to do next."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path


class EngramError(Exception):
    """A mistake or a missing thing that the user can put right; the command line exits with code 2.

    `what` says what is wrong, `where` names the place (a path, `file:line:column $.path`, an option),
    `fix` is the next thing to do or to type. `problems` holds further complete lines, one a problem,
    so that every problem of a file is reported at once.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.what, self.where, self.fix, self.problems = what, where, fix, tuple(problems)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        lines = [head, *(f"  {problem}" for problem in self.problems)]
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


@contextlib.contextmanager
def readable_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn the operating system's refusals (permission, full disk, wrong kind of file) into an EngramError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "check the path, its permissions and the free disk space"
        raise EngramError(f"cannot {doing}: {reason}", where=str(path), fix=fix) from error
