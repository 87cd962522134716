"""engram: teach a small chat model the patterns that never change, and show honestly what it learned.

The Python API, one function for each stage: `load_patterns`, `teach`, `evaluate`, `compare`. Importing engram loads
neither torch nor mlx; the stages do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from engram.evaluation.pipeline import Work
    from engram.patterns.loading import Pattern

__version__ = "0.1.0"
__all__ = ["Patterns", "Run", "__version__", "compare", "evaluate", "load_patterns", "teach"]


@dataclass(frozen=True)
class Patterns:
    """Checked patterns, and the files that they were read from."""

    patterns: tuple[Pattern, ...]
    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.patterns)


@dataclass(frozen=True)
class Run:
    """A model that was taught: `folder` holds `data/`, `adapter/` and the result documents; `log` is the training's."""

    work: Work
    log: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where everything is."""
        return self.work.place


def load_patterns(patterns: str | Path = "patterns") -> Patterns:
    """Read and check patterns: a folder, a file, a pack's name, or several with commas.

    Raises EngramError with every problem of every file.
    """
    from engram.patterns import loading

    files = loading.find_files(str(patterns))
    return Patterns(tuple(loading.load_patterns(files)), tuple(files))


def teach(
    patterns: Patterns,
    model: str = "auto",
    backend: str = "auto",
    recipe: str = "default",
    seed: int = 0,
    out: str | Path = "run",
    holdout: Literal["rules", "none"] = "rules",
    **settings: Any,
) -> Run:
    """Split the patterns, train on the rows of the taught ones, and write everything to the folder `out`.

    `model`, `backend`, `recipe` and `seed` are those of `engram train`; `settings` override single settings of the
    recipe (`steps=100`, `method="memory"`). With `holdout="none"` every member of a rule is taught. An interrupted
    training continues, and one that is up to date is not repeated. Raises EngramError as the stages do.
    """
    from engram import backends
    from engram.evaluation import pipeline
    from engram.models import model as models
    from engram.plan import documents
    from engram.plan.config import load_config
    from engram.training.processes import Silent

    name, chosen = backends.choose(backend), models.resolve(model)
    config = load_config(recipe, chosen.parameters, seed, {key: str(value) for key, value in settings.items()})
    work = pipeline.Work.within(name, chosen, config, patterns.files, Path(out), holdout)
    for _ in pipeline.follow(
        work, pipeline.TARGETS["train"], lambda _: None, lambda one: pipeline.teach(one, Silent())
    ):
        pass
    return Run(work, documents.read(work.log, "training", "teach"))


def evaluate(run: Run, stage: Literal["baseline", "tuned"] = "tuned") -> dict[str, Any]:
    """Answer the test set with the model (`baseline`) or with what was taught (`tuned`), and score it.

    Writes and returns the result document (docs/measuring.md).
    """
    from engram.evaluation import pipeline

    return pipeline.answer(run.work, stage)


def compare(run: Run) -> dict[str, Any]:
    """Compare baseline and tuned, paired; write and return `comparison.json`.

    Each split's `improvement` has its n, difference, interval, p-value and verdict. Raises EngramError if a stage
    has not been evaluated, or where the two are not comparable.
    """
    from engram.evaluation import compare as comparison

    return comparison.compare(run.folder)
