"""Long runs in their shortest form, and what is judged of them."""

from __future__ import annotations

import gc
import importlib.util
import tracemalloc
import weakref
from pathlib import Path

import pytest

from engram import backends
from tools.torture import long_runs
from tools.torture.long_runs import KINDS, MIB, faults, small_model

KIND = KINDS["training"]
RISING = [6] * 80 + [7] * 21


def samples(each: float, cases: int = 10_000, **held: list[int]) -> list[dict[str, int]]:
    """A run in which every case keeps `each` bytes, after a beginning that keeps much more."""
    return [
        {
            "done": done,
            "resident": 500 * MIB + min(done, cases // 4) * 4096 + int(each * done),
            **{name: held.get(name, [6] * 101)[i] for name in long_runs.HELD},
        }
        for i, done in enumerate(range(0, cases + 1, cases // 100))
    ]


@pytest.mark.parametrize(
    ("rows", "left", "said"),
    [
        (samples(1024), [], "memory grew by 4.9 MiB over the last 5,000, 1,024 bytes each"),
        (samples(0, descriptors=RISING), [], "descriptors went from 6 to 7"),
        (samples(0, threads=RISING), [], "threads went from 6 to 7"),
        (samples(0), ["tmpx"], "temporary files were left: tmpx"),
    ],
)
def test_what_grows_to_the_end_or_stays_is_named(rows: list[dict[str, int]], left: list[str], said: str) -> None:
    assert list(faults(KIND, rows, left)) == [said]


@pytest.mark.slow
def test_the_short_form_on_mlx() -> None:
    """Both backends: `make torture ARGS=--quick`."""
    runs = long_runs.in_a_process("mlx", 0.01, 0)
    assert {name: run["rows"][-1]["done"] for name, run in runs.items()} == {
        "training": 100, "evaluation": 1024, "streams": 20, "loads": 5,
    }  # fmt: skip
    assert [line for name, run in runs.items() for line in faults(KINDS[name], run["rows"], run["left"])] == []


def test_what_a_library_prints_is_not_kept() -> None:
    tracemalloc.start()
    with backends.silenced():
        for _ in range(64):
            print("x" * MIB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MIB


def test_mlx_keeps_no_draw_of_weights_that_nobody_uses(tmp_path: Path) -> None:
    """The random state is a chain of draws until somebody evaluates it; 1,000 loads with an adapter were 90 MB."""
    module = backends.get("mlx")
    import mlx.core as mx

    model = small_model(tmp_path / "model", 0)
    module.load(model)
    dot = tmp_path / "graph.dot"
    mx.export_to_dot(str(dot), mx.random.state[0])
    assert "Split" not in dot.read_text() and "RandomBits" not in dot.read_text()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("unsloth"), reason="Unsloth is not installed")
def test_a_second_unsloth_model_does_not_stand_beside_one_that_nobody_uses(tmp_path: Path) -> None:
    module = backends.get("cpu")
    model = small_model(tmp_path / "model", 0)
    gc.disable()
    try:
        session = module.load(model)
        gone = weakref.ref(session.model)
        del session
        module.load(model)
        assert gone() is None
    finally:
        gc.enable()
