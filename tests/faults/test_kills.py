"""The short form of the kill campaign."""

from __future__ import annotations

import importlib.util

import pytest

from tools.torture import kills


@pytest.mark.slow
@pytest.mark.parametrize("backend", kills.BACKENDS)
def test_a_killed_run_ends_as_one_that_was_not(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not importlib.util.find_spec(kills.BACKENDS[backend]):
        pytest.skip(f"{backend} is not installed")
    monkeypatch.setattr(kills, "BACKENDS", {backend: kills.BACKENDS[backend]})
    (tally,) = kills.campaign(0, 0.06, lambda _: None)
    assert tally.losses == []
    assert tally.cases >= 5
