"""SECURITY.md: each promise names a test that exists."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packs import refusal

from engram.models import tokenizer
from engram.models.model import resolve
from engram.support.files import PACKAGE

ROOT = PACKAGE.parent
PAGE = (ROOT / "SECURITY.md").read_text("utf-8")


def test_every_promise_names_a_test_that_exists() -> None:
    promises = PAGE.split("## What is promised")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", promises, re.M)[1:]
    assert len(rows) >= 13
    for promise, tests in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", tests)
        assert named, promise
        for path, name in named:
            assert (ROOT / path).is_file(), path
            assert not name or f"\ndef {name}(" in (ROOT / path).read_text("utf-8"), (path, name)


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    assert f"{tokenizer.SOURCE:,} characters" in PAGE and f"at most {tokenizer.RENDERED:,}" in PAGE
    assert f"{tokenizer.DAY:%d %B %Y}" in PAGE


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os }}", "SecurityError"),
        ("{{ raise_exception('no') }}", "no"),
        ("{{ 'x' * 1000001 }}", "longer than 1000000 characters"),
        ("x" * 100_001, "100001 characters, more than 100000"),
    ],
)
def test_a_template_stays_in_the_sandbox_and_within_its_limits(template: str, what: str) -> None:
    loaded = tokenizer.load_tokenizer(resolve("tiny"))
    loaded.chat_template = template
    error = refusal(tokenizer.render, loaded, [{"role": "user", "content": "Hello"}], True)
    assert "the chat template does not work" in str(error) and what in str(error)


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        ([{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}], 1, "1 known holes in 1"),
        ([{"name": "a", "version": "1", "vulns": []}], 0, "0 known holes in 1"),
        ([{"name": "a", "skip_reason": "not found"}], 0, "NOT DONE for all packages (not found)"),
        (None, 0, "NOT DONE for all packages (no database)"),
    ],
)
def test_an_audit_that_was_not_done_says_so(answers: Any, code: int, said: str, monkeypatch: Any, capsys: Any) -> None:
    audit = runpy.run_path(str(ROOT / ".ci" / "audit.py"))
    out = "" if answers is None else json.dumps({"dependencies": answers})
    done = subprocess.CompletedProcess([], 0, out, "Traceback\nno database")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    paths = [Path("requirements.txt")]
    monkeypatch.setattr(Path, "glob", lambda *_: paths)
    assert audit["main"]() == code
    assert said in capsys.readouterr().out
