"""When a run ends, and which adapter it keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from small_run import Quiet

from engram.models.safetensors_file import Tensor
from engram.models.tokenizer import Encoded
from engram.plan.batches import Batch, Plan, make_batch
from engram.plan.checkpoint import Keeper, State, read
from engram.plan.config import Config
from engram.plan.curve import Curve

CONFIG = Config(validate_every=2, stop_at=0.9, patience=2)
BATCH: Batch = make_batch([Encoded("a", tuple(range(12)), 6)], 0)


def state(step: int) -> State:
    return State({"weight": Tensor("F32", (1,), bytes([step, 0, 0, 0]))}, {"random": 0})


def followed(
    recalls: list[float], config: Config, steps: int = 12, keeper: Keeper | None = None, losses: Any = (1.0,) * 12
) -> Curve:
    """A run whose validation passes find these recalls and losses, at the beginning and after every second step."""
    curve = Curve(Quiet(), Plan([BATCH] * steps, [BATCH]), config, keeper)
    checks = iter([*zip(losses, recalls)][len(curve.validation) :])
    with curve.running(lambda: state(len(curve.losses)), lambda: state(len(curve.losses)).tensors):
        curve.begin(lambda: next(checks))
        while curve.step(0.5, 1.0, lambda: next(checks)):
            pass
    return curve


def ended(curve: Curve) -> tuple[int, int, str]:
    kept = curve.finished(0, 1, "").kept
    assert kept and kept.of == len(curve.batches)
    return len(curve.losses), kept.step, kept.reason


@pytest.mark.parametrize(
    ("recalls", "expected"),
    [
        ([0, 0.5, 0.95], (4, 4, "95.0 % of the validation rows are right")),
        ([0, 0.5, 0.4, 0.5, 0.3], (6, 2, "nothing better in 2 checks")),
        ([0, 0.1, 0.2, 0.3, 0.4, 0.8, 0.7], (12, 10, "the limit of 12 steps")),
        ([0.95, 0, 0, 0], (6, 2, "nothing better in 2 checks")),  # the untaught model has nothing to keep
    ],
)
def test_a_run_ends_when_the_patterns_are_known_and_keeps_its_best(recalls: list[float], expected: tuple[Any]) -> None:
    curve = followed(recalls, CONFIG)
    assert ended(curve) == expected
    steps, kept, _ = expected  # type: ignore[misc]
    best = curve.best()
    assert best is None if kept == steps else best is not None and best["weight"].data[0] == kept


def test_of_equal_recall_the_lower_loss_is_kept() -> None:
    assert ended(followed([0.0, 0.5, 0.5, 0.5], CONFIG, 6, losses=(3.0, 1.0, 0.8, 0.9)))[1] == 4


def test_a_fixed_number_of_steps_keeps_the_last() -> None:
    fixed = dataclasses.replace(CONFIG, stop_at=0.0, patience=0)
    curve = followed([0, 1, 1, 1, 0, 0, 0], fixed)
    assert curve.best() is None and curve.finished(0, 1, "").kept is None and len(curve.losses) == 12
    assert [check.step for check in curve.validation] == [0, 2, 4, 6, 8, 10, 12]


def test_the_best_adapter_survives_an_interruption(tmp_path: Path) -> None:
    recalls = [0, 0.8, 0.5, 0.7, 0.2]
    keeper = Keeper(tmp_path / "c", {}, 5)
    steady = dataclasses.replace(CONFIG, patience=0)
    followed([*recalls, 0, 0], steady, keeper=keeper)
    keeper = Keeper(tmp_path / "c", {}, 0, read(tmp_path / "c")[1])
    curve = followed([*recalls, 0.1, 0.1], steady, keeper=keeper)
    assert curve.done == 10 and ended(curve)[:2] == (12, 2)
    assert curve.best()["weight"].data[0] == 2  # type: ignore[index]
