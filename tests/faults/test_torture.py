"""The runner of the campaign, with small parts that pass, lose, die, hang and do nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from threading import Thread, main_thread

import pytest
import torture
from torture import Part

from engram.support import schema
from tools.docs import torture_page

FAKES = {
    "fake_sound": """
from tally import Tally
def campaign(seed, scale, note):
    note(f"seed {seed}, scale {scale}")
    return [Tally("fake_sound", "a | case", {"one": 2, "two": seed}, seconds=1, measured={"MiB": 1234.5})]
""",
    "fake_loss": """
from tally import Tally
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
    away = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])  # holds on to the part's output
    Path(__file__).with_name("pid").write_text(str(away.pid))
    time.sleep(60)
""",
    "fake_nothing": """
from tally import Tally
def campaign(seed, scale, note):
    return [Tally("fake_nothing", "a case", {})]
""",
}


@pytest.fixture(autouse=True)
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FAKES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_sound_campaign_ends_with_0_and_its_document_is_valid(
    fakes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKEND", "of the Makefile")
    assert torture.main(["--seed", "3", "--out", str(fakes / "out.json")], [Part("fake_sound")]) == 0
    out = capsys.readouterr().out
    assert "fake_sound: seed 3, scale 1.0" in out
    assert "nothing was lost" in out
    assert "    one 2, two 3" in out
    document = json.loads((fakes / "out.json").read_text())
    assert schema.problems(document, "torture") == []
    assert document["totals"]["cases"] == 5
    assert document["parts"][0]["scale"] == 1.0


def test_the_page_shows_what_the_document_says(fakes: Path) -> None:
    torture.main(["--out", str(fakes / "out.json")], [Part("fake_sound")])
    page = torture_page.parts(fakes / "out.json")["torture"]
    assert "| `fake_sound` | a \\| case | 2 | one 2, two 0 | 0 | 1 | MiB 1,234 |" in page
    assert "2 cases, 0 losses in 0 minutes, seed 0" in page
    assert "make torture" in torture_page.parts(fakes / "none.json")["torture"]


def test_a_loss_ends_with_1_and_says_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert torture.main(["--seed", "7", "--quick"], [Part("fake_sound"), Part("fake_loss")]) == 1
    out = capsys.readouterr().out
    assert "fake_loss: case 1 was lost" in out
    assert "again: python tests/faults/torture.py --only fake_loss --seed 7 --quick" in out


def test_a_part_that_dies_is_lost_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert torture.main(["--quick"], [Part("fake_death"), Part("fake_sound")]) == 1
    out = capsys.readouterr().out
    assert "fake_death: ended with exit code -6" in out
    assert "the last words" in out.split("\n1 lost")[1]
    assert "fake_sound: 2 cases, 0 lost" in out


def test_a_part_whose_module_is_missing_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert torture.main(["--quick"], [Part("fake_absent")]) == 1
    assert "No module named 'fake_absent'" in capsys.readouterr().out


def test_a_part_in_which_nothing_was_run_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert torture.main(["--quick"], [Part("fake_nothing")]) == 1
    assert "fake_nothing: not one case was run" in capsys.readouterr().out


def test_a_part_that_hangs_is_ended_with_all_that_it_started(fakes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    parts = [Part("fake_hang", minutes=0.03), Part("fake_sound")]
    assert torture.main(["--quick", "--jobs", "2"], parts) == 1
    assert time.monotonic() - started < 20
    assert "fake_hang: ended with exit code -9 after" in capsys.readouterr().out
    away = int((fakes / "pid").read_text())
    assert not _alive(away)


def test_an_interrupt_ends_the_parts_too(fakes: Path) -> None:
    def interrupt() -> None:
        while not (fakes / "pid").exists():
            time.sleep(0.05)
        signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)

    started = time.monotonic()
    Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        torture.main(["--quick"], [Part("fake_hang"), Part("fake_sound")])
    assert time.monotonic() - started < 30
    assert not _alive(int((fakes / "pid").read_text()))


def _alive(pid: int) -> bool:
    """Whether a process works still; one that nobody waits for has ended."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.is_file() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_only_some_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert torture.main(["--only", "fake_sound"], [Part("fake_sound"), Part("fake_loss")]) == 0
    assert "fake_loss" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        torture.main(["--only", "fake_sond"], [Part("fake_sound")])
    assert refused.value.code == 2
    assert "no such part: fake_sond; there are fake_sound" in capsys.readouterr().err


def test_the_document_in_the_checkout_is_of_all_parts_alone(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torture, "TORTURE", fakes / "torture.json")
    for arguments in (["--quick"], ["--only", "fake_sound"]):
        torture.main(arguments, [Part("fake_sound")])
        assert not (fakes / "torture.json").exists()
    torture.main([], [Part("fake_sound")])
    assert (fakes / "torture.json").exists()


def test_the_page_promises_no_part_that_is_not_run_and_hides_none() -> None:
    page = (torture.ROOT / "docs" / "reliability.md").read_text("utf-8")
    rows = re.findall(r"\| `(\w+)` \| `tests/faults/test_(\w+)\.py` \|", page)
    assert rows == [(part.name, part.name) for part in torture.PARTS]


def test_a_part_that_is_run_again_takes_the_place_of_its_earlier_rows(fakes: Path) -> None:
    out = ["--out", str(fakes / "out.json")]
    assert torture.main([*out, "--seed", "1"], [Part("fake_loss")]) == 1
    before = json.loads((fakes / "out.json").read_text())["parts"]
    assert torture.main([*out, "--add"], [Part("fake_sound")]) == 0
    assert torture.main([*out, "--add", "--seed", "2"], [Part("fake_sound")]) == 0
    document = json.loads((fakes / "out.json").read_text())
    assert [(row["part"], row["seed"]) for row in document["parts"]] == [
        *((r["part"], 1) for r in before),
        ("fake_sound", 2),
    ]
    assert document["totals"]["cases"] == sum(row["cases"] for row in document["parts"])
    assert document["totals"]["losses"] == sum(len(row["losses"]) for row in before) > 0
