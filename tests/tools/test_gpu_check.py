"""`make gpu-check`: what could not run is named, and the rest is kept. The runs themselves are stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engram.plan import documents
from tools import gpu_check

FIGURES = {
    **{"losses": [2.0, 1.0], "tokens_per_second": 100.0, "first_step_seconds": 1.0, "peak_memory_bytes": 2**30},
    **{"answers": [[1, 2], [3]], "answer_tokens_per_second": 10.0, "nats": [0.5, 0.25], "device": "CPU"},
    "parameters": 3,
}


def stand_in(order: dict[str, Any], seconds: float) -> dict[str, Any]:
    assert 0 < seconds <= gpu_check.SECONDS
    if order["which"] == "tiny":
        faster = {"tokens_per_second": 150.0, "losses": [2.0, 1.25], "answers": [[1, 2], [4]]}
        return FIGURES | (faster if order["run"] == "unsloth" else {})
    return FIGURES if order["run"] == "plain" else {"reason": "the memory does not suffice"}


def test_both_runs_are_compared_and_a_missing_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "_order", stand_in)
    path, _ = gpu_check.check("cpu", tmp_path)
    document = documents.read(path, "gpu-check", "make gpu-check")
    assert (document["backend"], path.name.startswith("cpu-")) == ("cpu", True)
    tiny, smollm = document["parts"]
    assert tiny["comparison"] == {
        **{"speedup": 1.5, "largest_loss_difference": 0.25, "largest_nats_difference": 0.0},
        **{"prompts": 2, "equal_answers": 0.5},
    }
    assert smollm["comparison"] is smollm["runs"]["unsloth"] is None
    reason = {"part": "smollm-135m-random, unsloth", "reason": "the memory does not suffice"}
    assert document["not_run"] == [reason]
    gpu_check.tell(document)
    assert "could not run: smollm-135m-random, unsloth: the memory does not suffice" in capsys.readouterr().out
