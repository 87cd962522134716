"""What exports keep of the default adapter's answers: each whole-model format, measured without a bar.

Run in a checkout after `make compare MODEL=tiny BACKEND=mlx`: `python -m tools.docs.exports`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from engram.export import card, stage
from engram.models import model
from engram.plan import documents
from engram.support import console
from engram.support.files import PACKAGE

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
    """The kept documents' checks, a row each."""
    lines = ["| export | program | asked with | same as here | 95 % (Wilson) | from |", "|---|---|---|---|---|---|"]
    for name in RUNS:
        document = documents.read(REFERENCE / f"{name}.json", "export", "python -m tools.docs.exports")
        source = f"`results/reference/export/{name}.json`"
        lines += [
            f"| {document['format']}, {document['dtype']} {card.row(check)} {source} |" for check in document["checks"]
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
