"""The hub goes away: the short form of the campaign, and a test for each fault that it found."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packs import refusal

from engram.models import hub, model
from engram.support.errors import EngramError
from engram.support.files import BUNDLED, PACKAGE
from tools.torture import hub as part
from tools.torture.hub import HUB_ID, REVISIONS, asked_at, served

QUICK = hub.Patience(2.0, 100_000)


def test_the_short_campaign_loses_nothing() -> None:
    (tally,) = part.campaign(1, 0.05, lambda line: None)
    assert tally.losses == []
    assert tally.cases == 3


def test_a_download_that_is_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    with served("file is cut once") as made, asked_at(made.address, tmp_path):
        hub.fetch(HUB_ID, QUICK)
    assert any("model.safetensors bytes=" in line for line in made.asked)


def test_other_bytes_of_the_right_length_are_refused_by_their_hash(tmp_path: Path) -> None:
    with served("file is other bytes") as made, asked_at(made.address, tmp_path):
        assert "their hash is another" in str(refusal(hub.fetch, HUB_ID, QUICK))
        assert hub.cached(HUB_ID) is None


def test_a_lock_that_another_process_holds_is_not_waited_for(tmp_path: Path) -> None:
    with served("file is html") as made, asked_at(made.address, tmp_path):
        with pytest.raises(EngramError):
            hub.fetch(HUB_ID, QUICK)
        made.fault = ""
        locks = [path.open("w") for path in (tmp_path / ".locks").rglob("*.lock")]
        assert locks
        for lock in locks:
            fcntl.flock(lock, fcntl.LOCK_EX)
        assert "it sent 0 bytes" in str(refusal(hub.fetch, HUB_ID, QUICK))
        for lock in locks:
            lock.close()
        hub.fetch(HUB_ID, QUICK)


def test_the_cached_revision_stays_and_the_hub_is_not_asked(tmp_path: Path) -> None:
    with served() as made, asked_at(made.address, tmp_path):
        assert model.resolve(HUB_ID).revision == REVISIONS[0]
        made.revision = REVISIONS[1]
        made.asked.clear()
        assert model.resolve(HUB_ID).describe()["revision"] == REVISIONS[0]
        assert made.asked == []


def test_auto_takes_the_bundled_model_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "apple_silicon", lambda: True)
    with served("file trickles") as made, asked_at(made.address, tmp_path):
        started = time.monotonic()
        found = model.resolve("auto")
        assert time.monotonic() - started < 20
    assert found.name == "tiny"
    assert "not fast enough" in found.reason


def test_a_cache_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with served() as made, asked_at(made.address, tmp_path / "cache"):
        error = refusal(hub.fetch, HUB_ID, QUICK)
        assert "the hub's cache cannot be written" in str(error) and "HF_HOME" in error.fix


def no_network(*arguments: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """engram in a network namespace without even a loopback; skips if this user may not make one."""
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("this user can make no network namespace here")
    command = [*unshare, sys.executable, "-m", "engram.cli", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PACKAGE.parent), **settings}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def in_cache(home: Path) -> None:
    place = home / "hub" / "models--someone--some-model"
    shutil.copytree(BUNDLED / "tiny", place / "snapshots" / REVISIONS[0])
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(REVISIONS[0])


@pytest.mark.slow
def test_without_any_network_every_stage_works(tmp_path: Path) -> None:
    in_cache(tmp_path / "hf")
    stage = ["--backend", "mlx", "--model", HUB_ID]
    settings = ["--set", "steps=1", "--set", "consistency_prompts=0", "--set", "max_new_tokens=2"]
    calls = [
        ["data", "--patterns", str(PACKAGE.parent / "patterns")],
        ["train", *stage, *settings],
        ["eval", "--stage", "baseline", *stage, *settings],
        ["eval", "--stage", "tuned", *stage, *settings],
        ["compare", "--backend", "mlx"],
        ["demo", *stage, "--quick"],
    ]
    for call in calls:
        done = no_network(*call, folder=tmp_path, HF_HOME=str(tmp_path / "hf"))
        assert done.returncode == 0, (call, done.stdout[-500:], done.stderr[-2000:])
