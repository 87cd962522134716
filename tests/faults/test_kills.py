"""The short form of the kill campaign; for both backends: `make torture ARGS=--quick`."""

from __future__ import annotations

import pytest

from tools.torture import kills


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "BACKENDS", {"mlx": kills.BACKENDS["mlx"]})
    (tally,) = kills.campaign(0, 0.06, lambda _: None)
    assert tally.losses == []
    assert tally.cases >= 5
