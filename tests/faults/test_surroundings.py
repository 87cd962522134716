"""Every command where something usual is missing: the same exit codes as anywhere, and never a traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from small_run import Run

from engram import cli
from engram.support.files import PACKAGE

WHERE = ("--backend", "mlx")
LIGHT: tuple[tuple[str, ...], ...] = (
    *(("--help",), ("packs",), ("models",), ("doctor", *WHERE)),
    *(("validate", "pack.yaml"), ("validate", "missing.yaml"), ("resolve-model", "--model", "tiny")),
    *(("data", "--patterns", "pack.yaml"), ("data", "--check")),
    *(("init", "new"), ("import", "rows.csv", "--out", "rows.yaml")),
    ("train", *WHERE, "--model", "tiny", "--set", "no_such=1"),
    ("eval", *WHERE, "--model", "tiny", "--recipe", "missing.yaml"),
    ("run", "validate", "--patterns", "pack.yaml", *WHERE, "--model", "tiny"),
    *(("compare", *WHERE), ("gate", *WHERE), ("results", "verify"), ("report",)),
    ("seeds", *WHERE, "--model", "tiny", "--seeds", "x"),
    ("serve", *WHERE, "--model", "missing"),
    *(("adapter", "show", "adapters/mlx"), ("memory", "list", "--model", "tiny")),
)
HEAVY: tuple[tuple[str, ...], ...] = (
    ("ask", *WHERE, "--model", "tiny", "--only", "baseline", "Ä?"),
    ("demo", *WHERE, "--quick", "--speed", "0", "--patterns", "pack.yaml"),
    ("record", *WHERE, "--patterns", "pack.yaml"),
    ("render", "results/mlx/demo.cast", "--out", "film.svg"),
    ("export", *WHERE, "--model", "tiny", "--format", "peft", "--out", "exported"),
    ("export-eval", "task", "--model", "tiny"),
    ("verify-model", *WHERE, "--model", "tiny"),
    ("video-prep", *WHERE, "--model", "tiny", "--patterns", "pack.yaml"),
)
Ended = list[tuple[tuple[str, ...], int, str]]
SOUND = {"--help", "packs", "models", "doctor", "resolve-model", "data", "init", "import", "compare", "record"}
WRONG = {"missing.yaml", "no_such=1", "x", "missing"}


class Surroundings(NamedTuple):
    """What differs from a usual shell; whether the exit codes are those of one, and the slow commands are tried."""

    environment: Mapping[str, str | None] = {}
    folder: str = "work"
    before: Callable[[], Any] | None = None
    reads: bool = True
    codes: bool = True
    heavy: bool = False


def unknown_user() -> None:
    os.setgroups([])
    os.setgid(12345)
    os.setuid(12345)


SURROUNDINGS = {
    "a usual shell": Surroundings(heavy=True),
    "an unknown user": Surroundings(
        {"HOME": None, "XDG_CACHE_HOME": None, "USER": None}, before=unknown_user, heavy=True
    ),
    "a path with a blank and an umlaut, latin-1": Surroundings(
        {"PYTHONIOENCODING": "latin-1"}, folder="Grüße und Öl", heavy=True
    ),
    "no home, umask 077": Surroundings({"HOME": None, "XDG_CACHE_HOME": None}, before=lambda: os.umask(0o077)),
    "a home that can't be written, three columns": Surroundings(
        {"HOME": os.devnull + "/home", "XDG_CACHE_HOME": None, "COLUMNS": "3"}
    ),
    "the C locale, no terminal": Surroundings(
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": None}
    ),
    "a closed output": Surroundings(before=lambda: os.close(1)),
    "a pipe that closed": Surroundings(reads=False, codes=False),
}


def usable(before: Callable[[], Any]) -> bool:
    """Whether this process may become that user, and that user may run this Python and read the checkout."""
    command = [sys.executable, "-c", f"open({str(PACKAGE / '__init__.py')!r})"]
    try:
        return subprocess.run(command, preexec_fn=before, capture_output=True, cwd="/").returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def ended(place: Surroundings, run: Run) -> Ended:
    """Each command's exit code and what it wrote to standard error, in a folder with a stored run."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to another user
        return _ended(place, run, Path(folder))


def _ended(place: Surroundings, run: Run, root: Path) -> Ended:
    work = root / place.folder
    shutil.copytree(run.root, work)
    (work / "adapters").mkdir()
    (work / "adapter").rename(work / "adapters" / "mlx")
    (work / "rows.csv").write_text("input,output,category\nÄ,b,c\n", "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "HF_HUB_OFFLINE": "1"}
    environment |= {name: value for name, value in place.environment.items() if value is not None}
    for name in (name for name, value in place.environment.items() if value is None):
        environment.pop(name, None)
    if place.before is unknown_user:
        for path in (root, *root.rglob("*")):
            os.chown(path, 12345, 12345)
    found = []
    for words in LIGHT + HEAVY * place.heavy:
        command = [sys.executable, "-m", "engram.cli", *words]
        reading, writing = os.pipe()
        if not place.reads:
            os.close(reading)
        with (root / "printed").open("wb") as printed:
            done = subprocess.run(
                command, cwd=work, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=180,
                preexec_fn=place.before, stdout=printed if place.reads else writing,
            )  # fmt: skip
        os.close(writing)
        if place.reads:
            os.close(reading)
        found.append((words, done.returncode, done.stderr.decode("utf-8", "replace")))
    return found


@pytest.fixture(scope="module")
def usual(run: Run) -> Ended:
    return ended(SURROUNDINGS["a usual shell"], run)


@pytest.mark.slow
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_every_command_ends_as_in_a_usual_shell(name: str, usual: Ended, run: Run) -> None:
    place = SURROUNDINGS[name]
    if place.before and not usable(place.before):
        pytest.skip("this user can't become another, or another can't read the checkout")
    found = usual if name == "a usual shell" else ended(place, run)
    for words, code, said in usual:
        assert (code == 0 or words[0] not in SOUND) and (code == 2 or not WRONG & {*words}), (words, code, said)
    assert not [(words, said[-2000:]) for words, _, said in found if "Traceback" in said or "Exception ignored" in said]
    if place.codes:
        codes = {words: code for words, code, _ in usual}
        assert not [(words, codes[words], code, said[-2000:]) for words, code, said in found if code != codes[words]]
    assert all(code in (0, 1, 2, 3) for _, code, _ in found), [(words, code) for words, code, _ in found]


def test_every_command_is_tried() -> None:
    assert {words[0] for words in LIGHT + HEAVY} - {"--help"} == set(cli.main.commands)
