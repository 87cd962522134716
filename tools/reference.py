"""The runs whose numbers the documentation reports: three seeds of the default recipe, what it would do without
replay, the plan's own recipe, and the other backend.

`python -m tools.reference smollm2-135m-q4_1 default-0 seed-0` makes these two of a model other than `tiny`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from engram.evaluation import compare_runs, pipeline, seeds, tables
from engram.models import model
from engram.patterns.loading import find_files
from engram.plan import config, documents
from engram.support import console, locks
from engram.support.errors import EngramError
from engram.support.files import PACKAGE

ROOT = PACKAGE.parent / "results" / "reference"
TINY = "tiny"
REFERENCE = ROOT / TINY


class Reference(NamedTuple):
    """One run: what the documentation calls it, and its settings."""

    label: str
    recipe: str = "default"
    seed: int = 0
    backend: str = "mlx"
    settings: tuple[str, ...] = ()


RUNS = {
    "default-0": Reference("`default`, seed 0"),
    "default-1": Reference("`default`, seed 1", seed=1),
    "default-2": Reference("`default`, seed 2", seed=2),
    "no-replay-0": Reference("`default` without replay, seed 0", settings=("replay=0",)),
    "seed-0": Reference("`seed`, seed 0", "seed"),
    "cpu-0": Reference("`default`, seed 0, `BACKEND=cpu`", backend="cpu"),
}
SEEDS = ("default-0", "default-1", "default-2")
PLATFORMS = {"mlx": "default-0", "cpu": "cpu-0"}


def run(of: str, name: str) -> None:
    """One whole run of a model; its documents go to `ROOT/<model>/<name>/`."""
    wanted = RUNS[name]
    taught = model.resolve(of)
    settled = config.load_config(wanted.recipe, taught.parameters, wanted.seed, config.parse_overrides(wanted.settings))
    with tempfile.TemporaryDirectory() as folder:
        tables.comparison(pipeline.run(wanted.backend, taught, settled, find_files(), Path(folder), console.note))
        for document, schema in pipeline.DOCUMENTS.items():
            made = documents.read(Path(folder) / f"{document}.json", schema, "make reference")
            documents.write(ROOT / of / name / f"{document}.json", made, schema)


def summaries(place: Path) -> None:
    """What several runs of a model say together, if they are all there: the seeds, and the two backends."""
    if all((place / name).is_dir() for name in SEEDS):
        documents.write(place / "seeds.json", seeds.summarise([place / name for name in SEEDS]), "seeds")
    if all((place / name).is_dir() for name in PLATFORMS.values()):
        runs = {name: compare_runs.read_run(place / folder, name) for name, folder in PLATFORMS.items()}
        documents.write(place / "platforms.json", compare_runs.together(list(runs.values()), {}), "comparisons")


def main() -> None:
    """Every run, each in a process of its own (Unsloth must come first in its), one after the other."""
    if sys.argv[1:2] == ["--one"]:
        run(*sys.argv[2:])
        return
    of, *names = sys.argv[1:] or [TINY]
    try:
        with locks.held(ROOT / of, "make reference"):
            for name in names or RUNS:
                console.note(f"reference run {name}")
                subprocess.run([sys.executable, "-m", "tools.reference", "--one", of, name], check=True)
            summaries(ROOT / of)
    except EngramError as error:
        sys.exit(f"engram: {error}")


if __name__ == "__main__":
    main()
