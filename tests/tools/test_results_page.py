"""The made parts of `docs/results.md`, from small documents."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from packs import refusal
from report_runs import two_runs

from engram.evaluation import seeds
from engram.plan import documents
from engram.support.files import PACKAGE
from tools.docs import results_page


def reference(folder: Path) -> Path:
    two_runs(folder / "two")
    shutil.move(folder / "two" / "mlx", folder / "default-0")
    documents.write(folder / "seeds.json", seeds.summarise([folder / "default-0"]), "seeds")
    return folder


SPREAD = {"n": 2, "mean": 0.5, "sd": 0.12, "min": 0.4, "max": 0.6}


def run(seed: int, first: float) -> dict[str, Any]:
    """What is read of a comparison: two rules of 20 unseen members, and the paired test against examples."""
    rules = {name: {"n": 20, "after": {"exact": share}} for name, share in {"k/c": first, "k/d": 0.25}.items()}
    against = {"recall": {"change": {"p_value": 0.02 * seed}}, "control": {"change": {"p_value": 1.0}}}
    return {"recipe": {"seed": seed}, "categories": {"generalization": rules}, "few_shot": against}


def test_each_target_stands_beside_what_was_measured() -> None:
    summary = {
        "splits": {name: {"after": SPREAD} for name in ("recall", "rewording", "control")},
        "retention": {f"{kind}_{unit}": SPREAD for kind in ("text", "chat") for unit in ("nats", "kl")},
        "training": {"train_seconds": {"mean": 600.0}},
    }
    runs = [run(1, 0.5), run(2, 1.0)]
    found = results_page.targets_table(summary, runs)
    for line in (
        *("| recall, % | ≥ 99 | 50.0 ± 12 |", "| rules, mean over families, % | ≥ 85 | 50.0 |"),
        *("| rules, the least family, % | ≥ 60 | 25.0 (`k/d`) |", "the largest p | < 0.001 | 0.04 |"),
        *("| perplexity after / before, chat | ≤ 1.03 | 1.65 |", "| training, one core, minutes | ≤ 8 | 10 |"),
    ):
        assert line in found
    assert "| `k/c` | 10/20 | 20/20 | 75.0 % |" in results_page.rules_table(runs)


def test_the_pictures_are_svg_and_the_page_shows_each(tmp_path: Path) -> None:
    page = (PACKAGE.parent / "docs" / "results.md").read_text("utf-8")
    pictures = results_page.pictures(reference(tmp_path), Path("img"))
    assert sorted(path.name for path in pictures) == ["generalization.svg", "loss.svg", "recall.svg"]
    for path, text in pictures.items():
        assert f"({path})" in page
        assert ElementTree.fromstring(text).get("role") == "img"


def test_without_reference_runs_the_command_is_named(tmp_path: Path) -> None:
    assert refusal(results_page.parts, tmp_path, ["default-0"]).fix == "make reference docs"


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
