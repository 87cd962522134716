"""What a command imports: `engram --help` next to nothing, and no command what it does not use. Counted, not timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import Run

HEAVY = {
    *("numpy", "scipy", "yaml", "jsonschema", "rich", "asyncio", "jinja2", "httpx", "huggingface_hub", "transformers"),
    *("tokenizers", "safetensors", "mlx", "mlx_lm", "torch", "unsloth", "subprocess", "ctypes", "tempfile", "hashlib"),
}
LIGHT = ("errors", "signals", "text")
SCRIPT = """
import json, sys
before = set(sys.modules)
from engram.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
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


COMPUTING = {"mlx", "mlx_lm", "torch", "unsloth", "transformers", "tokenizers"}
NETWORK = {"huggingface_hub", "httpx", "asyncio"}


def test_validate_imports_what_reads_patterns_alone(run: Run) -> None:
    assert packages(imported("validate", str(run.root / "pack.yaml"))) & (COMPUTING | NETWORK | {"jinja2"}) == set()


@pytest.mark.parametrize("command", ["compare", "demo --quick --speed 0"])
def test_what_only_reads_results_imports_neither_backend_nor_hub(command: str, run: Run) -> None:
    places = ["--results", str(run.root / "results"), "--backend", "mlx"]
    if command != "compare":
        places += ["--data", str(run.root / "data"), "--patterns", str(run.root / "pack.yaml")]
    found = packages(imported(*command.split(), *places))
    assert found & ((COMPUTING | NETWORK | {"jinja2"}) - {"tokenizers"}) == set()
