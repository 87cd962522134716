"""The small run of every backend."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import BACKENDS, Run, stages


@pytest.fixture(scope="session")
def cpu_run(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of `small_run.py` under BACKEND=cpu, in a working folder that must stay empty."""
    root, working = tmp_path_factory.mktemp("cpu-run"), tmp_path_factory.mktemp("working-folder")
    (root / "data").symlink_to(small_data)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(working)
        made = stages("cpu", root)
    assert list(working.iterdir()) == []
    return made


@pytest.fixture(scope="session", params=BACKENDS)
def either(request: pytest.FixtureRequest) -> tuple[str, Run]:
    """A backend's name and its run."""
    return request.param, request.getfixturevalue("run" if request.param == "mlx" else "cpu_run")
