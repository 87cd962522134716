"""What one part of the campaign of faults did; `make torture` adds these up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Note = Callable[[str], None]


@dataclass(frozen=True)
class Tally:
    """One part: how many cases, of which kinds, and every one in which something was lost, let in or broken.

    `part` names it in one word, `what` says in a line what a case is. `losses` holds a line for each case that went
    wrong, with all that is needed to see it again. `measured` holds figures besides the counts, by name with unit.
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
