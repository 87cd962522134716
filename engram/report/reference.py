"""The runs whose numbers the documentation reports: three seeds of the default recipe, and the plan's own recipe."""

from __future__ import annotations

import tempfile
from pathlib import Path

from engram import config, model, pipeline, results, show, tables
from engram.files import PACKAGE
from engram.patterns import find_files

REFERENCE = PACKAGE.parent / "results" / "reference" / "tiny"
RUNS = {"default-0": ("default", 0), "default-1": ("default", 1), "default-2": ("default", 2), "seed-0": ("seed", 0)}


def run(name: str, recipe: str, seed: int, backend: str = "mlx") -> None:
    """One whole run; its documents go to `REFERENCE/<name>/`."""
    tiny = model.resolve("tiny")
    settled = config.load_config(recipe, tiny.parameters, seed)
    with tempfile.TemporaryDirectory() as folder:
        tables.comparison(pipeline.run(backend, tiny, settled, find_files(), Path(folder), show.note))
        for document, schema in pipeline.DOCUMENTS.items():
            made = results.read(Path(folder) / f"{document}.json", schema, "make reference")
            results.write(REFERENCE / name / f"{document}.json", made, schema)


def main() -> None:
    """Every run, one after the other."""
    for name, (recipe, seed) in RUNS.items():
        show.note(f"reference run {name}")
        run(name, recipe, seed)


if __name__ == "__main__":
    main()
