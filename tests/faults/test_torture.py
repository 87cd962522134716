"""The runner of the campaign, with small parts that pass, lose, die, hang and do nothing."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from engram.support import schema
from tools.docs import torture_page
from tools.torture import ROOT
from tools.torture import __main__ as torture

FAKES = {
    "fake_sound": """
from tools.torture import Tally
def campaign(seed, scale, note):
    note(f"seed {seed}, scale {scale}")
    return [Tally("fake_sound", "a | case", {"one": 2, "two": seed}, seconds=1, measured={"MiB": 1234.5})]
""",
    "fake_loss": """
from tools.torture import Tally
def campaign(seed, scale, note):
    return [Tally("fake_loss", "a case", {"one": 2}, ["case 1 was lost"])]
""",
    "fake_death": """
import os
def campaign(seed, scale, note):
    note("the last words")
    os.abort()
""",
    "fake_hang": """
import subprocess, sys, time
from pathlib import Path
def campaign(seed, scale, note):
    away = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])  # keeps the part's output open
    Path(__file__).with_name("pid").write_text(str(away.pid))
    time.sleep(60)
""",
    "fake_nothing": """
from tools.torture import Tally
def campaign(seed, scale, note):
    return [Tally("fake_nothing", "a case", {})]
""",
}


def part(name: str, minutes: float = 20) -> torture.Part:
    return torture.Part(name, minutes=minutes, package="")


@pytest.fixture(autouse=True)
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FAKES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(torture, "TORTURE", tmp_path / "torture.json")
    return tmp_path


def test_a_sound_campaign_ends_with_0_and_its_document_says_so(fakes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert torture.main(["--seed", "3"], [part("fake_sound")]) == 0
    out = capsys.readouterr().out
    assert "fake_sound: seed 3, scale 1.0" in out and "    one 2, two 3" in out and "nothing was lost" in out
    document = json.loads((fakes / "torture.json").read_text())
    assert schema.problems(document, "torture") == []
    assert document["totals"]["cases"] == 5 and document["parts"][0]["scale"] == 1.0
    page = torture_page.parts(fakes / "torture.json")["torture"]
    assert "| `fake_sound` | 5 | 0 | a \\| case | MiB 1,234 |" in page
    assert "5 cases, 0 losses in 0 minutes, seed 3" in page
    assert "make torture" in torture_page.parts(fakes / "none.json")["torture"]


def test_every_way_to_lose_is_told_and_the_other_parts_go_on(fakes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    others = [part(f"fake_{name}") for name in ("loss", "death", "absent", "nothing", "sound")]
    parts = [part("fake_hang", 0.03), *others]
    assert torture.main(["--quick", "--seed", "7", "--jobs", "2"], parts) == 1
    assert time.monotonic() - started < 60
    out = capsys.readouterr().out
    assert "fake_loss: case 1 was lost\n    again: python -m tools.torture --only fake_loss --seed 7 --quick" in out
    assert "fake_death: ended with exit code -6" in out and "the last words" in out.split("\n5 lost")[1]
    assert "No module named 'fake_absent'" in out
    assert "fake_nothing: not one case was run" in out
    assert "fake_hang: ended with exit code -9 after" in out
    assert "fake_sound: 9 cases, 0 lost" in out
    assert not _alive(int((fakes / "pid").read_text()))  # a part is ended with all that it started
    assert not (fakes / "torture.json").exists()  # the reference document is of full campaigns


def _alive(pid: int) -> bool:
    """Whether a process still works; a zombie does not."""
    state = Path(f"/proc/{pid}/stat")
    return state.is_file() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_only_some_parts(fakes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert torture.main(["--only", "fake_sound"], [part("fake_sound"), part("fake_loss")]) == 0
    assert "fake_loss" not in capsys.readouterr().out and not (fakes / "torture.json").exists()
    with pytest.raises(SystemExit) as refused:
        torture.main(["--only", "fake_sond"], [part("fake_sound")])
    assert refused.value.code == 2
    assert "no such part: fake_sond; there are fake_sound" in capsys.readouterr().err


def test_the_page_promises_no_part_that_is_not_run_and_hides_none() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    rows = re.findall(r"\| `(\w+)` \| `tests/faults/test_(\w+)\.py` \|", page)
    assert rows == [(part.name, part.name) for part in torture.PARTS]
