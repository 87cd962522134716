"""The tutorial, run from nothing: every `bash` block of docs/tutorial.md in order, with the outputs that it shows."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from engram.support.files import PACKAGE

PAGE = (PACKAGE.parent / "docs" / "tutorial.md").read_text("utf-8")
NEEDS = "<!-- needs llama.cpp -->\n"  # before a block that runs where llama.cpp's binding is installed
EXPORTS = ("xllamacpp", "gguf")
BLOCK = re.compile(rf"({re.escape(NEEDS)})?^```(bash|text)\n(.*?)^```$", re.M | re.S)


class Step(NamedTuple):
    """A block of commands, the lines that its output must have, and whether llama.cpp runs in it."""

    commands: str
    shown: tuple[str, ...]
    needs_llama: bool


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    for needs, kind, body in BLOCK.findall(page):
        if kind == "bash":
            found.append(Step(body, (), bool(needs) or "--format gguf" in body))
        else:
            found[-1] = found[-1]._replace(shown=tuple(body.splitlines()))
    return found


def missing(shown: tuple[str, ...], printed: str) -> list[str]:
    """The shown lines that the output does not have, in their order; an ellipsis stands for anything within a line."""
    lines, absent = iter(printed.splitlines()), []
    for expected in shown:
        pattern = re.compile(".*".join(re.escape(part) for part in expected.rstrip().split("…")))
        if not any(pattern.fullmatch(line.rstrip()) for line in lines):
            absent.append(expected)
    return absent


def environment() -> dict[str, str]:
    """What a newcomer has: this environment's commands first, nothing of a terminal, no hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ENGRAM", "COLUMNS", "MAKE"))}
    binaries = str(Path(sys.executable).parent)
    return kept | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "TERM": "dumb"}


@pytest.mark.slow
def test_every_step_of_the_tutorial_works_from_nothing(tmp_path: Path) -> None:
    llama = all(importlib.util.find_spec(package) for package in EXPORTS)
    for step in steps(PAGE):
        if step.needs_llama and not llama:
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step.commands],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{step.commands}\n{done.stdout}\n{done.stderr}"
        assert missing(step.shown, done.stdout) == [], f"{step.commands}\n{done.stdout}"


def test_the_page_is_read_as_it_is_meant() -> None:
    found = steps(PAGE)
    commands = "\n".join(step.commands for step in found)
    for name in ("init", "import", "validate", "data", "train", "ask", "eval", "compare", "export"):
        assert f"engram {name} " in commands, name
    assert [step.needs_llama for step in found].count(True) == 2 and found[-1].shown == ("Sam Ferro",)
    assert sum(bool(step.shown) for step in found) >= 9
    assert PAGE.count("```bash") == len(found) and PAGE.count("```text") == sum(bool(step.shown) for step in found)
