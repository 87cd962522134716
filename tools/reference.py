"""The runs whose numbers the documentation reports: the default recipe over three seeds, the recipe of the plan and the
other backend, with SmolLM2 and with `tiny`; and packs of several sizes, the memory, fewer bits, two recipes.

`python -m tools.reference tiny default-0 seed-0` makes these two.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from engram.evaluation import compare_runs, pipeline, seeds, tables
from engram.models import model
from engram.patterns.loading import find_files, load_patterns
from engram.plan import config, documents
from engram.support import console, locks
from engram.support.errors import EngramError
from engram.support.files import PACKAGE

ROOT = PACKAGE.parent / "results" / "reference"
SMOLLM2, TINY = "smollm2-135m-q4_1", "tiny"
REFERENCE = ROOT / SMOLLM2  # what the documentation shows


class Reference(NamedTuple):
    """One run: what the documentation calls it, and its settings."""

    label: str
    recipe: str = "default"
    seed: int = 0
    backend: str = "mlx"
    settings: tuple[str, ...] = ()
    patterns: str | None = None
    first: int = 0  # so many patterns, as facts: see `drawn`


SEEDS = {f"default-{seed}": Reference(f"`default`, seed {seed}", seed=seed) for seed in range(3)}
SHOTS = ("shots=8 least_steps=150",)  # `least_steps` as in the first run: its rows need 309 anyway
PLAIN = Reference("`seed`, seed 0", "seed")
OTHER = Reference("`default`, seed 0, `BACKEND=cpu`", backend="cpu")
FEW = "general_rows=10"  # of text and of chat
OF_SMOLLM2 = {
    **{name: run._replace(settings=SHOTS) for name, run in SEEDS.items()},
    **{"cpu-0": OTHER, "seed-0": PLAIN._replace(settings=(FEW,))},
    "memory-0": Reference("`METHOD=memory`, seed 0", settings=(f"method=memory {FEW}",)),
}
UNREPLAYED = Reference("`default` without replay, seed 0", settings=("replay=0",))
OF_TINY = {**SEEDS, "no-replay-0": UNREPLAYED, "seed-0": PLAIN, "cpu-0": OTHER}
RUNS = {SMOLLM2: OF_SMOLLM2, TINY: OF_TINY}
IDIOMS = f"{SMOLLM2}/idioms"  # short runs of the real model: in fewer bits, and on the other backend
SHORT = "steps=60 general_rows=10 latency_prompts=0 consistency_prompts=0"
BITS = {
    name: Reference(label, settings=(SHORT, f"quantize={name}"), patterns="patterns/code_idioms.yaml")
    for name, label in {"none": "32 bits", "8bit": "8 bits", "4bit": "4 bits"}.items()
}
TEAM = f"{SMOLLM2}/team"  # a pack as somebody brings it: thirty facts and two rules
BROUGHT = Reference("`default`", patterns=str(ROOT / TEAM / "team.yaml"))
OF_TEAM = {"default": BROUGHT, "old": BROUGHT._replace(label="the recipe before", recipe=str(ROOT / TEAM / "old.yaml"))}
EVERYTHING = "patterns,acronyms,capitals,http,ports"
BRIEF = f"{FEW} latency_prompts=0 consistency_prompts=0"
PACKS = {  # the same recipe on packs of any size
    f"{of}/packs": {
        str(size): Reference(f"`{of}`", settings=(BRIEF,), patterns=EVERYTHING, first=size) for size in sizes
    }
    for of, sizes in {TINY: (8, 60, 200, 1000), SMOLLM2: (8,)}.items()
}
ALL = {
    **RUNS,
    **PACKS,
    IDIOMS: {**BITS, "cpu": BITS["none"]._replace(label="`BACKEND=cpu`", backend="cpu")},
    TEAM: OF_TEAM,
}
TOGETHER = {  # runs that are compared with each other: the document, and each run's folder
    SMOLLM2: ("platforms", {"mlx": "default-0", "cpu": "cpu-0"}),
    IDIOMS: ("platforms", {"mlx": "none", "cpu": "cpu"}),
    TEAM: ("recipes", {"old": "old", "default": "default"}),
}


def run(of: str, name: str) -> None:
    """One whole run of a model; its documents go to `ROOT/<model>/<name>/`."""
    wanted = ALL[of][name]
    taught = model.resolve(of.partition("/")[0])
    settled = config.load_config(wanted.recipe, taught.parameters, wanted.seed, config.parse_overrides(wanted.settings))
    with tempfile.TemporaryDirectory() as folder:
        files = find_files(wanted.patterns)
        if wanted.first:
            files = [drawn(files, wanted.first, Path(folder) / f"pack-{wanted.first}.yaml")]
        tables.comparison(pipeline.run(wanted.backend, taught, settled, files, Path(folder), console.note))
        for document, schema in pipeline.DOCUMENTS.items():
            made = documents.read(Path(folder) / f"{document}.json", schema, "make reference")
            documents.write(ROOT / of / name / f"{document}.json", made, schema)


def drawn(files: Sequence[Path], count: int, path: Path) -> Path:
    """A file of so many of these patterns, each as a fact, in the order of their ids: facts, then members of rules."""
    chosen = sorted(load_patterns(files), key=lambda one: (one.rule is not None, one.id))[:count]
    rows = [{"input": one.input, "output": one.output} | ({"also": [*one.also]} if one.also else {}) for one in chosen]
    path.write_text(yaml.safe_dump({"name": "drawn", "examples": rows}, allow_unicode=True), "utf-8")
    return path


def summaries(of: str) -> None:
    """What several runs of a model say together, if they are all there: the seeds, two backends, two recipes."""
    place, (document, folders) = ROOT / of, TOGETHER.get(of, ("", {}))
    several = [place / name for name in ALL[of] if name in SEEDS]
    if len(several) > 1 and all(folder.is_dir() for folder in several):
        documents.write(place / "seeds.json", seeds.summarise(several), "seeds")
    if folders and all((place / name).is_dir() for name in folders.values()):
        runs = [compare_runs.read_run(place / folder, name) for name, folder in folders.items()]
        documents.write(place / f"{document}.json", compare_runs.together(runs, {}), "comparisons")


def main() -> None:
    """Every run, each in a process of its own (Unsloth must come first in its), one after the other."""
    if sys.argv[1:2] == ["--one"]:
        run(*sys.argv[2:])
        return
    chosen = {sys.argv[1]: sys.argv[2:] or ALL[sys.argv[1]]} if sys.argv[1:] else RUNS
    try:
        for of, names in chosen.items():
            with locks.held(ROOT / of, "make reference"):
                for name in names:
                    console.note(f"reference run {name} of {of}")
                    subprocess.run([sys.executable, "-m", "tools.reference", "--one", of, name], check=True)
                summaries(of)
    except EngramError as error:
        sys.exit(f"engram: {error}")


if __name__ == "__main__":
    main()
