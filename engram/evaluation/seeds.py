"""Several seeds of one recipe: every run whole, their mean and spread, and one test over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engram.dataset import build
from engram.evaluation import compare, pipeline
from engram.evaluation.scoring import GENERAL, SPLITS
from engram.models.model import Model
from engram.patterns.loading import load_patterns
from engram.plan import documents
from engram.plan.config import Config
from engram.support import locks
from engram.support.errors import EngramError
from engram.support.files import sha256
from engram.support.statistics import paired_bootstrap, spread

SAME = ("backend", "model", "scoring")
MOST = 100  # seeds in one campaign


def parse(text: str) -> list[int]:
    """`1,2,3` or `0-4` as numbers, each once, in order; raises EngramError for anything else."""
    try:
        found = [number for part in text.split(",") for number in _range(part.strip())]
    except ValueError as error:
        raise EngramError(
            f"not a list of seeds: {text!r}", where="SEEDS", fix="for example: SEEDS=1,2,3 or SEEDS=0-4"
        ) from error
    return list(dict.fromkeys(found))


def campaign(
    backend: str,
    model: Model,
    configs: Sequence[Config],
    files: Sequence[Path],
    folder: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Run each configuration (alike but for the seed) in `folder/<backend>/<seed>/`, write and return their
    summary; of a method other than LoRA in `folder/<backend>-<method>/<seed>/`.

    A seed whose run is there already, of the same model, data and recipe, is not run again.
    """
    name = backend if configs[0].method == "lora" else f"{backend}-{configs[0].method}"
    places = [folder / name / str(config.seed) for config in configs]
    with locks.held(folder / name, "engram seeds"):
        for config, place in zip(configs, places):
            if _is_done(model, config, files, place):
                report(f"seed {config.seed}: done already")
            else:
                report(f"seed {config.seed}")
                pipeline.run(backend, model, config, files, place, report)
        document = summarise(places)
        documents.write(folder / f"{name}.json", document, "seeds")
    return document


def summarise(places: Sequence[Path]) -> dict[str, Any]:
    """The runs in these folders as one document; raises EngramError where more than the seed differs."""
    comparisons = [compare.stored(place) for place in places]
    _refuse_unlike(comparisons, places)
    pairs = [pair for place in places for pair in _pairs(place)]
    return {
        "document": "seeds",
        "schema_version": documents.SCHEMA_VERSION,
        **{name: comparisons[0][name] for name in SAME},
        "recipe": _seedless(comparisons[0]),
        "seeds": [one["recipe"]["seed"] for one in comparisons],
        "sources": [sha256(place / "comparison.json") for place in places],
        "splits": {name: _split(name, comparisons, pairs) for name in SPLITS},
        "retention": {
            **{f"{kind}_nats": _spread(one["retention"][kind]["nats"] for one in comparisons) for kind in GENERAL},
            "changed": _spread(one["retention"]["changed"]["share"] for one in comparisons),
        },
        "training": {
            key: _spread(one["training"] and one["training"][key] for one in comparisons)
            for key in ("train_seconds", "tokens_per_second", "final_loss")
        },
        "provenance": documents.provenance(),
    }


def _range(part: str) -> range:
    first, _, last = part.partition("-")
    numbers = range(int(first), int(last or first) + 1)
    if not 0 < len(numbers) <= MOST:
        raise ValueError(part)
    return numbers


def _is_done(model: Model, config: Config, files: Sequence[Path], place: Path) -> bool:
    if not (place / "comparison.json").is_file():
        return False
    try:
        known = compare.stored(place)
    except EngramError:
        return False  # of an older version, or broken: made anew
    manifest = build.write_data(load_patterns(files), files, place / "data", config.seed)
    wanted = {
        "model": model.describe(),
        "data": documents.data_identity(manifest, place / "data"),
        "recipe": documents.rounded(config.as_dict()),
    }
    return all(known[name] == value for name, value in wanted.items())


def _refuse_unlike(comparisons: Sequence[dict[str, Any]], places: Sequence[Path]) -> None:
    problems = []
    for one, place in zip(comparisons[1:], places[1:]):
        lines = documents.differing(comparisons[0], one, SAME)
        lines += documents.differing({"recipe": _seedless(comparisons[0])}, {"recipe": _seedless(one)}, ("recipe",))
        problems += [f"{place.name}: {line}" for line in lines]
    if problems:
        what = "these runs differ in more than the seed"
        raise EngramError(what, where=str(places[0].parent), problems=problems, fix="make seeds SEEDS=…")


def _seedless(comparison: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in comparison["recipe"].items() if key != "seed"}


def _pairs(place: Path) -> Sequence[tuple[dict[str, Any], dict[str, Any]]]:
    before, after = (documents.read(place / f"{stage}.json", "result", "make seeds") for stage in ("baseline", "tuned"))
    return compare.paired(before["answers"], after["answers"])


def _split(
    name: str,
    comparisons: Sequence[dict[str, Any]],
    pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]],
) -> dict[str, Any]:
    """One split over all runs; the interval resamples patterns, since one pattern stands in several runs."""
    chosen = [(b, a) for b, a in pairs if b["split_kind"] == name]
    outcomes = [[row["exact"] for row in side] for side in zip(*chosen)] if chosen else [[], []]
    patterns = [b["pattern"] for b, _ in chosen]
    interval = paired_bootstrap(outcomes[0], outcomes[1], patterns)
    return {
        **{
            side: _spread(one[stage][name]["exact"] for one in comparisons)
            for side, stage in (("before", "baseline"), ("after", "tuned"))
        },
        "change": _spread(one["improvement"][name]["exact"] for one in comparisons),
        "pooled": {
            "rows": len(chosen),
            "patterns": len(set(patterns)),
            "change": (sum(outcomes[1]) - sum(outcomes[0])) / len(chosen) if chosen else None,
            "ci95": interval,
        },
    }


def _spread(values: Any) -> dict[str, Any]:
    return spread([value for value in values if value is not None])
