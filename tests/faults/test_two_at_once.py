"""Two runs at once, in short; and the lock by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import two_at_once
from packs import refusal

from engram.support import locks
from engram.support.errors import EngramError

HOLD = """
import sys, time
from pathlib import Path
from engram import locks
with locks.held(Path(sys.argv[1]), "engram train"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    run = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "held\n"
    return run


def enter(path: Path) -> None:
    with locks.held(path, "engram eval"):
        pass


def test_one_of_several_works_and_the_others_are_told() -> None:
    (tally,) = two_at_once.campaign(0, 0.1, lambda _: None)
    assert tally.losses == [] and tally.cases >= len(two_at_once.STAGES) * two_at_once.AT_ONCE


def test_another_process_is_named_until_it_is_killed(tmp_path: Path) -> None:
    run = hold(tmp_path / "adapters/mlx")
    try:
        error = refusal(enter, tmp_path / "adapters/mlx")
        assert error.what.startswith(f"another engram (pid {run.pid}, `engram train`, since 20")
        assert error.what.endswith(") is writing here") and error.where == str(tmp_path / "adapters/mlx")
        assert error.fix == "wait for it, or stop it"
        enter(tmp_path / "adapters/cpu")  # another place
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    enter(tmp_path / "adapters/mlx")
    assert [*(tmp_path / "adapters").iterdir()] == []


def test_a_process_may_enter_its_own_place_again(tmp_path: Path) -> None:
    with locks.held(tmp_path / "a", "engram seeds"):
        enter(tmp_path / "a")
        (tmp_path / "link").symlink_to("a")
        enter(tmp_path / "link")
        assert [path.name for path in tmp_path.glob(".*")] == [".a.lock"]
    assert [*tmp_path.glob(".*")] == []


def test_what_a_killed_writer_left_goes_when_the_place_is_held(tmp_path: Path) -> None:
    (tmp_path / ".a.12345678.part").mkdir()
    enter(tmp_path / "a")
    assert [*tmp_path.iterdir()] == []


def test_without_locks_the_work_is_done_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "lock", lambda _: None)
    enter(tmp_path / "a")


def test_a_lock_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".a.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngramError, match="cannot write here"):
        enter(tmp_path / "a")
    assert not (tmp_path / "elsewhere").exists()
