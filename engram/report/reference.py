"""The runs whose numbers the documentation reports: three seeds of the default recipe, and the plan's own recipe."""

from __future__ import annotations

import tempfile
from pathlib import Path

from engram import compare, config, dataset, evaluate, model, results, show, train
from engram.files import PACKAGE
from engram.patterns import find_files, load_patterns

REFERENCE = PACKAGE.parent / "results" / "reference" / "tiny"
RUNS = {"default-0": ("default", 0), "default-1": ("default", 1), "default-2": ("default", 2), "seed-0": ("seed", 0)}
DOCUMENTS = {"training": "training", "baseline": "result", "tuned": "result", "comparison": "comparison"}


def run(name: str, recipe: str, seed: int, backend: str = "mlx") -> None:
    """One whole run, from patterns to comparison, in a folder of its own; its documents go to `REFERENCE/<name>/`."""
    tiny = model.resolve("tiny")
    settled = config.load_config(recipe, tiny.parameters, seed)
    with tempfile.TemporaryDirectory() as folder:
        data, out, adapter = Path(folder) / "data", Path(folder) / "results", Path(folder) / "adapter"
        files = find_files()
        dataset.write_data(load_patterns(files), files, data, seed)
        with show.TrainingBar() as progress:
            train.train(backend, tiny, settled, data, adapter, out / backend / "training.json", progress)
        for stage in ("baseline", "tuned"):
            path = out / backend / f"{stage}.json"
            evaluate.evaluate(backend, tiny, adapter if stage == "tuned" else None, settled, data, path, show.note)
        show.comparison(compare.compare(out, backend))
        for document, schema in DOCUMENTS.items():
            made = results.read(out / backend / f"{document}.json", schema, "make reference")
            results.write(REFERENCE / name / f"{document}.json", made, schema)


def main() -> None:
    """Every run, one after the other."""
    for name, (recipe, seed) in RUNS.items():
        show.note(f"reference run {name}")
        run(name, recipe, seed)


if __name__ == "__main__":
    main()
