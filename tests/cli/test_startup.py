"""What a command imports: `engram --help` next to nothing, and no command what it does not use. Counted, not timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_run import Run

from engram.memory import table
from engram.memory.facts import Fact

HEAVY = {
    *("numpy", "scipy", "yaml", "jsonschema", "rich", "asyncio", "jinja2", "httpx", "huggingface_hub", "transformers"),
    *("tokenizers", "safetensors", "mlx", "mlx_lm", "torch", "unsloth", "subprocess", "ctypes", "tempfile", "hashlib"),
}
LIGHT = ("console", "errors", "signals", "text")
SCRIPT = """
import json, sys
before = set(sys.modules)
from engram.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code or sys.argv[1] == "doctor", end.code  # 2: something is missing
print("\\n" + json.dumps(sorted(set(sys.modules) - before)))
"""


def imported(*arguments: str, folder: Path | None = None) -> set[str]:
    """The modules that a command brings in, in a process of its own that has nothing but Python's own at its start."""
    command = [sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return set(found)


def packages(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["eval", "--help"], ["demo", "--help"]])
def test_help_imports_next_to_nothing(arguments: list[str]) -> None:
    modules = imported(*arguments)
    assert packages(modules) & HEAVY == set()
    assert len(modules) <= 150, sorted(modules)
    ours = {name for name in modules if name.startswith("engram.") and not name.startswith("engram.cli")}
    assert ours <= {f"engram.{n}" for n in ("plan", "plan.config", "support", *(f"support.{m}" for m in LIGHT))}


COMPUTING = {"torch", "unsloth", "transformers", "mlx", "mlx_lm"}
NETWORK = {"huggingface_hub", "httpx", "asyncio"}
WITHOUT_MODEL = [
    *("validate {root}/pack.yaml", "packs", "models", "resolve-model", "doctor --backend cpu", "doctor --backend cuda"),
    *("data --patterns {root}/pack.yaml --data {folder}/data", "data --check --data {root}/data"),
    *("compare --results {root}/results --backend mlx", "report --results {root}/results --out {folder}/report.html"),
    *("adapter show {root}/adapter", "memory list --memory {folder}/memory"),
    "memory delete snow --memory {folder}/memory",
    "results verify --results {root}/results --data {root}/data --model tiny",
    "demo --quick --speed 0 --results {root}/results --data {root}/data --patterns {root}/pack.yaml --backend mlx",
]


@pytest.mark.parametrize("command", WITHOUT_MODEL)
def test_what_needs_no_model_imports_neither_backend_nor_hub(
    command: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "memory" in command:
        entry, address = table.Entry(Fact("snow", "white"), 1, (1,)), np.ones(1, np.uint64)
        rows = table.Contents((entry,), np.ones((1, 2), np.float32), address, np.zeros(1, np.uint32))
        table.write(tmp_path / "memory", table.Of("tiny", "a" * 64, "b" * 64, None, 1, 2), rows)
    words = command.format(root=run.root, folder=tmp_path).split()
    assert packages(imported(*words, folder=tmp_path)) & (COMPUTING | NETWORK) == set()
