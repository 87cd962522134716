"""Result documents and their provenance."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path

import pytest
from packs import refusal

from engram.plan import documents
from engram.support import machine, schema
from engram.support.errors import EngramError


def test_provenance_names_versions_and_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    found = documents.provenance()
    assert schema.problems(found, "training") != []  # a part, not a document
    assert found["packages"]["transformers"] == "5.17.0"
    assert found["environment"]["OPENBLAS_NUM_THREADS"] == "1"
    assert found["hardware"]["cores"] >= 1 and found["hardware"]["memory_gib"] > 0
    assert machine.git_commit(Path("/")) is None
    text = json.dumps(found)
    for secret in ("hf_secret", socket.gethostname(), str(Path.home())):
        assert secret not in text
    assert f'"{getpass.getuser()}"' not in text


def test_an_invalid_document_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(EngramError, match="not a valid result document"):
        documents.write(tmp_path / "a.json", {"schema_version": 1}, "result")
    with pytest.raises(ValueError, match="nan"):
        documents.write(tmp_path / "a.json", {"x": float("nan")}, "result")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "null", "[]", '{"schema_version": 2}'])
def test_a_broken_document_is_refused_with_the_command_that_makes_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(content)
    error = refusal(documents.read, path, "comparison", "make compare")
    assert error.where in (str(path), f"{path}:1:1", f"{path}:1:2") and error.fix
