"""Two runs at once, in short; and the lock by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from packs import refusal

from engram.support import locks
from tools.torture import two_at_once

HOLD = """
import sys, time
from pathlib import Path
from engram.support import locks
with locks.held(Path(sys.argv[1]), "engram train"):
    print("held", flush=True)
    time.sleep(60)
"""


def enter(path: Path) -> None:
    with locks.held(path, "engram eval"):
        pass


@pytest.mark.slow
def test_one_of_several_works_and_the_others_are_told() -> None:
    (tally,) = two_at_once.campaign(0, 0.1, lambda _: None)
    assert tally.losses == [] and tally.cases >= len(two_at_once.STAGES) * two_at_once.AT_ONCE


def test_another_process_is_named_until_it_is_killed(tmp_path: Path) -> None:
    place = tmp_path / "adapters/mlx"
    run = subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE, text=True)
    try:
        assert run.stdout is not None and run.stdout.readline() == "held\n"
        error = refusal(enter, place)
        assert error.what.startswith(f"another engram (pid {run.pid}, `engram train`, since 20")
        assert error.what.endswith(") is writing here") and error.where == str(place)
        assert error.fix == "wait for it, or stop it"
        enter(tmp_path / "adapters/cpu")  # another place
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    enter(place)
    assert [*(tmp_path / "adapters").iterdir()] == []


def test_a_process_may_enter_its_own_place_again(tmp_path: Path) -> None:
    with locks.held(tmp_path / "a", "engram seeds"):
        (tmp_path / "link").symlink_to("a")
        enter(tmp_path / "link")
        assert [path.name for path in tmp_path.glob(".*")] == [".a.lock"]
    assert [*tmp_path.glob(".*")] == []


def test_a_lock_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".a.lock").symlink_to(tmp_path / "elsewhere")
    assert "cannot write here" in str(refusal(enter, tmp_path / "a"))
    assert not (tmp_path / "elsewhere").exists()
