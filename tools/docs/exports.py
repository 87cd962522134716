"""What exports keep of the default adapter's answers: each whole-model format, measured without a bar.

Run in a checkout after `make compare MODEL=tiny BACKEND=mlx`: `python -m tools.docs.exports`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engram.export import card, stage
from engram.models import model
from engram.plan import documents
from engram.support import console
from engram.support.files import PACKAGE
from tools.docs.performance_page import table_of

REFERENCE = PACKAGE.parent / "results" / "reference" / "export"
RUNS = {
    "gguf-f16": ("gguf", "f16"),
    "gguf-q8_0": ("gguf", "q8_0"),
    "fused-base": ("fused", "base"),
    "fused-float32": ("fused", "float32"),
}


def main() -> None:
    """Export each format to a folder that does not last, and keep its document."""
    place = Path("results/mlx")
    source = card.source(model.resolve("tiny"), Path("adapters/mlx"), place, Path("data"), needed=True)
    for name, (form, storing) in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            made = stage.export(source, form, Path(folder) / form, storing, False, console.note, bar=0.0)
        documents.write(REFERENCE / f"{name}.json", made, "export")


def table() -> str:
    """The kept documents' checks; checks of one document with the same figures share a row."""
    rows = []
    for name in RUNS:
        document = documents.read(REFERENCE / f"{name}.json", "export", "python -m tools.docs.exports")
        form = f"`{document['format']}`, {document['dtype']}"
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for check in document["checks"]:
            share = f"{check['same']} of {check['n']} {console.interval(check['ci95'])}"
            groups.setdefault(share, []).append(check)
        for share, checks in groups.items():
            programs, asked = (", ".join(dict.fromkeys(c[key] for c in checks)) for key in ("program", "asked"))
            rows.append([form, programs, asked, share, f"`{name}.json`"])
    return table_of(["export", "program", "asked with", "same answers", "from"], rows)


if __name__ == "__main__":
    main()
