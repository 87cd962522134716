"""The made parts of `docs/results.md`, from small documents."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

from packs import refusal
from report_runs import two_runs

from engram.evaluation import seeds
from engram.plan import documents
from engram.support.files import PACKAGE
from tools.docs import make, results_page


def reference(folder: Path) -> Path:
    two_runs(folder / "two")
    shutil.move(folder / "two" / "mlx", folder / "default-0")
    documents.write(folder / "seeds.json", seeds.summarise([folder / "default-0"]), "seeds")
    return folder


def test_the_tables_hold_the_documents_figures(tmp_path: Path) -> None:
    parts = results_page.parts(reference(tmp_path))
    assert "| `k/c` | recall | 20 | 10.0 % [2.8, 30.1] | 85.0 % [64.0, 94.8] | +75.0 | 6.1e-05 | gain |" in (
        " ".join(parts["by-category"].split())
    )
    assert "| recall, % | 10.0 | 85.0 | +75.0 [+55.0, +90.0] over 20 patterns |" in parts["seeds"]
    page = (PACKAGE.parent / "docs" / "results.md").read_text("utf-8")
    assert all(part in make.fill(page, parts) for part in parts.values())


def test_the_pictures_are_svg_and_the_page_shows_each(tmp_path: Path) -> None:
    page = (PACKAGE.parent / "docs" / "results.md").read_text("utf-8")
    pictures = results_page.pictures(reference(tmp_path), Path("img"))
    assert sorted(path.name for path in pictures) == ["generalization.svg", "loss.svg", "recall.svg"]
    for path, text in pictures.items():
        assert f"({path})" in page
        assert ElementTree.fromstring(text).get("role") == "img"


def test_without_reference_runs_the_command_is_named(tmp_path: Path) -> None:
    assert refusal(results_page.parts, tmp_path).fix == "make reference docs"
