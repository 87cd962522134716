"""The campaign of faults: kills, broken files, hostile input, a failing hub, long runs (docs/reliability.md).

Its sound documents and patterns are those of the tests, whose folder is put on Python's path.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
Note = Callable[[str], None]
sys.path.append(str(ROOT / "tests"))


@dataclass(frozen=True)
class Tally:
    """One part of the campaign: its cases by kind, and each case in which something was lost, let in or broken.

    `part` is its name, `what` describes a case in a line. `losses` has a line per failed case with all that is needed
    to see it again. `measured` holds figures besides the counts, by name with unit.
    """

    part: str
    what: str
    kinds: Mapping[str, int]
    losses: Sequence[str] = ()
    seconds: float = 0.0
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        """All cases of this part."""
        return sum(self.kinds.values())
