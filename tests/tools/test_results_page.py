"""The made parts of `docs/results.md`, from small documents."""

from __future__ import annotations

import json
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
    parts = results_page.parts(*[reference(tmp_path)] * 2)
    assert "| `k/c` | **17/20** |" in parts["by-category"]
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
    assert refusal(results_page.parts, tmp_path, tmp_path).fix == "make reference docs"


def test_the_card_s_figures_are_those_of_its_documents() -> None:
    folder = PACKAGE.parent / "results" / "reference" / "h100"
    page = (PACKAGE.parent / "docs" / "gpu.md").read_text("utf-8")
    named = {path.relative_to(folder): json.loads(path.read_text("utf-8")) for path in folder.rglob("*.json")}
    for path, document in named.items():
        if document["document"] == "training":
            summary = document["summary"]
            memory = f"{summary['peak_memory_bytes'] / 2**20:,.0f} MiB"
            told = (f"{summary['train_seconds']:.1f} s, {summary['tokens_per_second']:,.0f} tokens/s", memory)
        elif path.name.startswith("tuned"):
            told = tuple(f"{100 * split['exact']:.1f} %" for split in document["splits"].values())
        else:
            continue
        assert all(figure in page for figure in told), (path, told)
    card, cpu = (named[Path("smollm2-default-large-0", f"{n}.json")] for n in ("tuned", "tuned-answered-by-mlx"))
    same = sum(one["answer"] == other["answer"] for one, other in zip(card["answers"], cpu["answers"], strict=True))
    assert f"to {same} of the {len(cpu['answers'])} prompts" in page and card["adapter"] == cpu["adapter"]
