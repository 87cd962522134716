"""The short form of the campaign of bad input, and that the hunter finds what it is made to find."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from engram.support.errors import EngramError
from tools.torture import fuzz, hunt
from tools.torture.hunt import Case, LossError

SHORT = 0.07


@pytest.mark.parametrize("name", fuzz.PARTS)
def test_bad_input_is_read_or_refused_with_its_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tally = fuzz.run_part(name, 1, SHORT, lambda _: None)
    assert list(tally.losses) == []
    assert tally.cases >= 0.6 * SHORT * fuzz.PARTS[name].cases
    assert tally.measured["accepted, cases"] > 0
    assert not (tmp_path / "engram" / "replay").exists()  # a stand-in's distributions would ruin every training


def cases() -> st.SearchStrategy[Case]:
    return st.builds(Case, st.just("number"), st.integers(0, 1000))


def refuse(what: str, where: str) -> None:
    raise EngramError(what, where=where)


def sleep(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


BAD: dict[str, tuple[Callable[[int], Any], str]] = {
    "a failure of ours": (lambda n: {}["x"], "KeyError: 'x'"),
    "no file": (lambda n: refuse("$.a is wrong", "settings"), "names no file"),
    "no place": (lambda n: refuse("is wrong", "a.yaml"), "names no place"),
    "a flood": (lambda n: refuse("x" * 200_000, "a.yaml:1:1"), "has 200012 characters"),
    "too slow": (lambda n: sleep(0.5), "TooSlowError: over 0.2 s"),
}


@pytest.mark.parametrize("name", BAD)
def test_every_way_to_lose_is_found_and_cut_down(name: str) -> None:
    bad, said = BAD[name]

    def check(case: Case) -> Any:
        return hunt.read(lambda: bad(case.content) if case.content >= 7 else 1, "a.yaml", seconds=0.2)

    found = hunt.hunt(cases(), check, 50, 1)
    assert len(found.losses) == 1
    assert found.losses[0].startswith("seed 1, number: 7\n") and said in found.losses[0]


def test_what_would_drive_a_terminal_is_found() -> None:
    for text in ("\x1b[2J", "a\rb", "\u202e", "\u200b", "\ud800", "\x9b"):
        with pytest.raises(LossError, match="is printed as it is"):
            hunt.refuse_raw_output(f"plain\n{text}")
    hunt.refuse_raw_output("plain, é中文 🚀\n")
