"""The small run of every backend."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_run import CONFIG, Quiet, Run

from engram.evaluation import compare, evaluate
from engram.models.model import resolve
from engram.training import train


@pytest.fixture(scope="session")
def cpu_run(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The run of `small_run.py` under BACKEND=cpu, in a working folder that must stay empty."""
    root, working = tmp_path_factory.mktemp("cpu-run"), tmp_path_factory.mktemp("working-folder")
    (root / "data").symlink_to(small_data)
    model, progress, out = resolve("tiny"), Quiet(), root / "results" / "cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(working)
        log = train.train("cpu", model, CONFIG, root / "data", root / "adapter", out / "training.json", progress)
        documents = [
            evaluate.evaluate("cpu", model, adapter, CONFIG, root / "data", out / f"{stage}.json", lambda _: None)
            for stage, adapter in (("baseline", None), ("tuned", root / "adapter"))
        ]
        assert list(working.iterdir()) == []
    yield Run(root, model, progress, log, *documents, compare.compare(out))


@pytest.fixture(scope="session", params=[("mlx", "mlx_lm", "run"), ("cpu", "unsloth", "cpu_run")], ids=["mlx", "cpu"])
def either(request: pytest.FixtureRequest) -> tuple[str, Run]:
    """A backend's name and its run."""
    name, package, fixture = request.param
    if not importlib.util.find_spec(package):
        pytest.skip(f"no {package}")
    return name, request.getfixturevalue(fixture)
