"""The Python API: README's lines, run as they are printed there, with a small pack and few steps."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import CONFIG, PACK

import engram

README = Path(__file__).resolve().parent.parent / "README.md"
SMALL = ("learning_rate", "batch_size", "steps", "validate_every", "consistency_prompts", "samples", "latency_prompts")


def lines() -> str:
    """The Python code of README."""
    return README.read_text("utf-8").partition("## From Python")[2].partition("```python\n")[2].partition("```")[0]


@pytest.mark.slow
def test_the_lines_of_readme_teach_and_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "patterns").mkdir()
    (tmp_path / "patterns" / "pack.yaml").write_text(PACK)
    monkeypatch.chdir(tmp_path)
    small = {name: getattr(CONFIG, name) for name in SMALL} | {"backend": "mlx"}
    monkeypatch.setattr(engram, "teach", functools.partial(engram.teach, **small))
    assert 5 <= len(lines().splitlines()) <= 10
    exec(compile(lines(), "README.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == ["recall", "generalization"]
    assert said[0].startswith("recall: 0.0% → ") and "n = " in said[0]
    documents = {"training.json", "baseline.json", "tuned.json", "comparison.json"}
    assert documents <= {path.name for path in (tmp_path / "run").iterdir()}


def test_importing_engram_loads_nothing_heavy() -> None:
    code = "import sys, engram; print({'torch', 'mlx', 'transformers', 'numpy', 'yaml'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
