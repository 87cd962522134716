"""What each part of the recipe does: training runs on SmolLM2 that differ from `default` in one thing each.

`python -m tools.ablation` runs those that `results/reference/<model>/ablation.json` lacks; names choose some. All take
the same number of rows, so that none gains by training longer, and are asked the same questions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from engram.backends import Loaded
from engram.dataset import build, phrasing
from engram.dataset.rows import Example, example
from engram.evaluation import evaluate
from engram.evaluation.scoring import GENERAL
from engram.models import model
from engram.patterns.loading import Pattern, find_files, load_patterns
from engram.plan import config, documents
from engram.support import console, locks
from engram.support.statistics import mcnemar
from engram.training import train
from tools.reference import ROOT, SMOLLM2

PATH = ROOT / SMOLLM2 / "ablation.json"
STEPS, ROWS = 120, 30  # of training; rows of general text and chat that are measured
SAME = f"steps={STEPS} stop_at=0 validate_every=100000 consistency_prompts=0 latency_prompts=0 general_rows={ROWS}"
SOLVED = 2  # members before the question

Rows = list[Example]


def _with_solved(patterns: Sequence[Pattern], rows: Rows) -> Rows:
    """For every taught member of a rule two more rows, in which other taught members are solved before the question."""
    families: defaultdict[tuple[str, str], list[Example]] = defaultdict(list)
    rules = {pattern.id for pattern in patterns if pattern.rule}
    for row in rows:
        if row.pattern in rules and row.phrasing == phrasing.BARE:
            families[row.kind, row.category].append(row)
    more = []
    for members in families.values():
        for i, row in enumerate(members):
            others = itertools.islice(itertools.cycle([*members[i + 1 :], *members[:i]]), 2 * SOLVED)
            pairs = [f"{other.prompt}\n{other.answer}" for other in others]
            for turn in range(2):
                prompt = "\n".join([*pairs[turn * SOLVED : (turn + 1) * SOLVED], row.prompt])
                name = f"{row.pattern}-solved-{turn}"
                more.append(dataclasses.replace(row, id=name, phrasing=phrasing.REWORDED, prompt=prompt))
    return rows + more


def _without_rewordings(patterns: Sequence[Pattern], rows: Rows) -> Rows:
    taught = {row.pattern for row in rows}
    return [example(p, name, "train") for p in patterns if p.id in taught for name in phrasing.TRAIN]


def _four_phrasings(_: Sequence[Pattern], rows: Rows) -> Rows:
    return [row for row in rows if row.phrasing in [*phrasing.TRAIN][:4] or row.phrasing == phrasing.REWORDED]


def _rules_twice(patterns: Sequence[Pattern], rows: Rows) -> Rows:
    """In each round the members of rules come twice: a round goes by what a row's id begins with."""
    rules = {pattern.id for pattern in patterns if pattern.rule}
    return rows + [dataclasses.replace(row, id=f"again{row.id}") for row in rows if row.pattern in rules]


class Arm(NamedTuple):
    """One run: what it changes, in words; its settings; and its training rows, if they are others."""

    label: str
    settings: str = ""
    rows: Callable[[Sequence[Pattern], Rows], Rows] | None = None


ARMS = {
    "default": Arm("`default`"),
    "solved": Arm(f"and rows with {SOLVED} solved members before the question", rows=_with_solved),
    "rules-twice": Arm("members of rules twice as often", rows=_rules_twice),
    "four-phrasings": Arm("four phrasings in place of eight", rows=_four_phrasings),
    "no-rewordings": Arm("no rewordings", rows=_without_rewordings),
    "batch-8": Arm("batches of 8 rows, twice the steps", f"batch_size=8 replay=1 steps={2 * STEPS}"),
    "slower": Arm("learning rate 1e-3", "learning_rate=1e-3"),
    "faster": Arm("learning rate 4e-3", "learning_rate=4e-3"),
    "rank-32": Arm("rank 32", "rank=32 alpha=64"),
    "no-replay": Arm("no replay rows", "replay=0"),
    "weight-1": Arm("replay weight 1", "replay_weight=1"),
    "weight-5": Arm("replay weight 5", "replay_weight=5"),
    "replay-4": Arm("4 replay rows a step", "replay=4"),
}


@contextlib.contextmanager
def _teaching(arm: Arm) -> Iterator[None]:
    """The data stage, with the training rows of an arm."""
    whole = build.split

    @functools.wraps(whole)
    def changed(patterns: Sequence[Pattern], *args: Any) -> dict[str, Rows]:
        rows = whole(patterns, *args)
        return rows | {"train": arm.rows(patterns, rows["train"])} if arm.rows else rows

    with mock.patch.object(build, "split", changed):
        yield


def run(name: str, seed: int = 0) -> dict[str, Any]:
    """One arm: taught, asked the whole test set, and its figures."""
    arm, taught = ARMS[name], model.resolve(SMOLLM2)
    settings = config.parse_overrides((SAME, arm.settings))
    settled = config.load_config("default", taught.parameters, seed, settings)
    loaded = Loaded("mlx", taught)
    with tempfile.TemporaryDirectory() as folder:
        place, files = Path(folder), find_files()
        with _teaching(arm):
            build.write_data(load_patterns(files), files, place / "data", seed)
        log, adapter = place / "training.json", place / "adapter"
        with console.TrainingBar() as shown:
            made = train.train("mlx", taught, settled, place / "data", adapter, log, shown, loaded=loaded)
        out = place / "tuned.json"
        tuned = evaluate.evaluate("mlx", taught, adapter, settled, place / "data", out, console.note, loaded)
    rules = tuned["splits"]["generalization"]["by_category"]
    return {
        "name": name,
        "label": arm.label,
        "seed": seed,
        "settings": settings,
        "summary": made["summary"],
        "splits": {
            kind: {key: found[key] for key in ("n", "exact", "ci95")} for kind, found in tuned["splits"].items()
        },
        "rules": {family: found["exact"] for family, found in rules.items()},
        "perplexity": {kind: tuned["retention"][kind]["perplexity"] for kind in GENERAL},
        "kl": {kind: _kl([row for row in tuned["general"] if row["kind"] == kind]) for kind in GENERAL},
        "right": {
            kind: "".join(str(int(row["exact"])) for row in tuned["answers"] if row["split_kind"] == kind)
            for kind in tuned["splits"]
        },
        "provenance": documents.provenance(),
    }


def _kl(rows: Sequence[dict[str, Any]]) -> float:
    """The mean divergence from the untaught model, nats per token."""
    return float(sum(row["kl"] for row in rows) / sum(row["tokens"] for row in rows))


def p_value(one: dict[str, Any], other: dict[str, Any], kind: str) -> float | None:
    """McNemar's, of two arms' answers to the same questions."""
    return mcnemar(*([mark == "1" for mark in run["right"][kind]] for run in (one, other)))


def main() -> None:
    """Run what is missing, and keep each as soon as it is done."""
    for name in sys.argv[1:] or ARMS:
        done = documents.read(PATH, "ablation", "")["runs"] if PATH.is_file() else []
        if any(one["name"] == name for one in done):
            continue
        console.note(f"{name}: {ARMS[name].label}")
        made = run(name)
        with locks.held(PATH, "the ablation"):
            done = documents.read(PATH, "ablation", "")["runs"] if PATH.is_file() else []
            runs = sorted([*done, made], key=lambda one: [*ARMS].index(one["name"]))
            head = {"document": "ablation", "schema_version": documents.SCHEMA_VERSION}
            documents.write(PATH, head | {"model": model.resolve(SMOLLM2).describe(), "runs": runs}, "ablation")


if __name__ == "__main__":
    main()
