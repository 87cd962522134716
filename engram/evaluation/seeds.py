"""One run for each of several seeds, and their summary: mean, spread, and intervals that resample patterns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engram.evaluation import compare, pipeline
from engram.evaluation.compare import Pairs
from engram.evaluation.scoring import GENERAL
from engram.models.model import Model
from engram.plan import documents
from engram.plan.config import Config
from engram.support import locks
from engram.support.console import Report
from engram.support.errors import EngramError
from engram.support.files import sha256
from engram.support.statistics import paired_bootstrap, spread
from engram.training.methods import METHODS

SAME = ("backend", "model", "scoring")  # of the runs of several seeds
MOST_SEEDS = 100


def parse_seeds(text: str) -> list[int]:
    """`1,2,3` or `0-4` as numbers, each once, in order; raises EngramError for anything else."""
    found: dict[int, None] = {}
    try:
        for part in text.split(","):
            first, _, last = part.strip().partition("-")
            numbers = range(int(first), int(last or first) + 1)
            if not 0 < len(numbers) <= MOST_SEEDS:
                raise ValueError(part)
            found |= dict.fromkeys(numbers)
    except ValueError as error:
        fix = "for example: SEEDS=1,2,3 or SEEDS=0-4"
        raise EngramError(f"not a list of seeds: {text!r}", where="SEEDS", fix=fix) from error
    return [*found]


def campaign(
    backend: str, model: Model, configs: Sequence[Config], files: Sequence[Path], folder: Path, report: Report
) -> dict[str, Any]:
    """Run each configuration (equal but for the seed) in `folder/<backend>/<seed>/`; write and return their summary.

    For a method other than LoRA the folder is `folder/<backend>-<method>/<seed>/`. What is up to date isn't repeated.
    """
    name = METHODS[configs[0].method].label(backend)
    places = [folder / name / str(config.seed) for config in configs]
    with locks.held(folder / name, "engram seeds"):
        for config, place in zip(configs, places):
            report(f"seed {config.seed}")
            pipeline.run(backend, model, config, files, place, report)
        document = summarise(places)
        documents.write(folder / f"{name}.json", document, "seeds")
    return document


def summarise(places: Sequence[Path]) -> dict[str, Any]:
    """The runs in these folders as one document; raises EngramError if they differ in more than the seed."""
    comparisons = [compare.stored(place) for place in places]
    recipes = [{key: value for key, value in one["recipe"].items() if key != "seed"} for one in comparisons]
    known = set.intersection(*({*one["model"]} for one in comparisons))  # older runs don't have every hash
    alike = [one | {"recipe": r, "model": {k: one["model"][k] for k in known}} for one, r in zip(comparisons, recipes)]
    differing = [documents.differing(alike[0], one, (*SAME, "recipe")) for one in alike]
    unlike = [f"{place.name}: {line}" for place, lines in zip(places, differing) for line in lines]
    compare.refuse("these runs differ in more than the seed", places[0].parent, unlike, "make seeds SEEDS=…")
    runs = [[result["answers"] for result in compare.results(place)] for place in places]
    pairs = [pair for answers in runs for pair in compare.paired(*answers)]
    kept = [one["retention"] for one in comparisons]
    diverged = GENERAL if all("kl" in one for one in kept) else ()
    shared = [name for name in comparisons[0]["improvement"] if all(name in one["improvement"] for one in comparisons)]
    return {
        "document": "seeds",
        "schema_version": documents.SCHEMA_VERSION,
        **{name: comparisons[0][name] for name in SAME},
        "recipe": recipes[0],
        "seeds": [one["recipe"]["seed"] for one in comparisons],
        "sources": [sha256(place / "comparison.json") for place in places],
        "splits": {name: _split(name, comparisons, compare.of_split(pairs, name)) for name in shared},
        "retention": {
            **{f"{kind}_nats": spread(one[kind]["nats"] for one in kept) for kind in GENERAL},
            **{f"{kind}_kl": spread(one["kl"][kind]["nats"] for one in kept) for kind in diverged},
            "changed": spread(one["changed"]["share"] for one in kept),
        },
        "training": {
            key: spread(one["training"] and one["training"][key] for one in comparisons)
            for key in ("train_seconds", "tokens_per_second", "final_loss")
        },
        "provenance": documents.provenance(),
    }


def _split(name: str, comparisons: Sequence[dict[str, Any]], pairs: Pairs) -> dict[str, Any]:
    """One split over all runs; the interval resamples patterns, since one pattern is in several runs."""
    before, after = ([pair[side]["exact"] for pair in pairs] for side in (0, 1))
    patterns = [one["pattern"] for one, _ in pairs]
    return {
        "before": spread(one["baseline"][name]["exact"] for one in comparisons),
        "after": spread(one["tuned"][name]["exact"] for one in comparisons),
        "change": spread(one["improvement"][name]["exact"] for one in comparisons),
        "pooled": {
            "rows": len(pairs),
            "patterns": len(set(patterns)),
            "change": (sum(after) - sum(before)) / len(pairs) if pairs else None,
            "ci95": paired_bootstrap(before, after, patterns),
        },
    }
