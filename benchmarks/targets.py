"""What is aimed at, and whether it is met; for CI a looser guard against what would be a regression."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Parts = Mapping[str, Any]
# the parts of every run, and those that run only by name: their results stay as they were measured
EVERY_RUN = ("race", "overhead", "unsloth", "models", "evaluation", "startup", "data", "planning")
BY_NAME = ("sweep", "real", "cores", "million")
MINUTES = 15  # that the parts of every run may take together


class Target(NamedTuple):
    """A figure of one part, with the bound that it is to keep, and the one that CI guards; None where it does not."""

    part: str
    name: str
    unit: str
    least: bool  # the bound is the least that is wanted; else the most
    bound: float
    guard: float | None
    figure: Callable[[Any], float | None]


def _race(found: Any) -> float | None:
    """Stock mlx-lm's seconds over those of engram's fastest run on the same rows."""
    runs = found["runs"]
    ours = [run["seconds"] for name, run in runs.items() if "taught rows" in name and run["reached"]]
    return float(runs["stock mlx_lm.lora"]["seconds"]) / min(ours) if ours else None


def _default(found: Any) -> float | None:
    ours, stock = (found["runs"][name] for name in ("engram, default recipe", "stock mlx_lm.lora"))
    return float(stock["seconds"] / ours["seconds"]) if ours["reached"] else None


def _over(name: str) -> Callable[[Any], float]:
    """How much more engram takes for a real token than another way, in percent; the middle of the rounds' ratios."""

    def figure(found: Any) -> float:
        pairs = zip(found["rounds"]["engram"], found["rounds"][name])  # of a slow peer there are fewer rounds
        return 100 * (statistics.median(ours / other for ours, other in pairs) - 1)

    return figure


def _evaluation(key: str) -> Callable[[Any], float | None]:
    def figure(found: Any) -> float | None:
        ratios = [stage[key] for stage in found["stages"].values()]
        return None if None in ratios else min(ratios)

    return figure


def _identical(found: Any) -> float:
    """Of all peers in engram's precision on MLX, the least share of answers that are engram's, in percent."""
    peers = [stage["peers"]["mlx_lm"] for stage in found["stages"].values()]
    return min(100 * peer["identical"] / peer["answers"] for peer in peers)


def _same_tokens(found: Any) -> float | None:
    """As `_identical`, of answers whose tokens are engram's, whatever a peer makes of them as text."""
    if "profile" not in found:
        return None
    shares = []
    for name, stage in found["stages"].items():
        peer = stage["peers"]["mlx_lm"]
        same = sum(gap["same_tokens"] for gap in found["profile"][name]["gaps"])
        shares.append(100 * (peer["identical"] + same) / peer["answers"])
    return min(shares)


TARGETS = [
    Target(
        "race", "time to 95 % recall, the same rows, against stock mlx_lm.lora at its best", "×", True, 3, None, _race
    ),
    Target("race", "the same with the default recipe's replay rows", "×", True, 3, None, _default),
    Target("real", "SmolLM2: time to 95 % recall, the same rows, against stock mlx_lm.lora", "×", True, 4, None, _race),
    Target("real", "SmolLM2: the same with the default recipe's replay rows", "×", True, 4, None, _default),
    Target("overhead", "a real token over a bare loop on the same batches", "% more", False, 3, 30, _over("bare loop")),
    Target("overhead", "a real token over mlx-lm's own trainer", "% more", False, 3, 3, _over("mlx-lm's trainer")),
    Target(
        *("unsloth", "answer tokens a second, BACKEND=cpu over plain TRL at its defaults", "×", True, 2, 1.5),
        lambda found: found["median"]["engram cpu"] / found["median"]["plain TRL"],
    ),
    Target(
        "evaluation", "answers a second over a loop of mlx_lm.generate", "×", True, 10, 5, _evaluation("times_loop")
    ),
    Target(
        *("evaluation", "answers a second over lm_eval at its default batch size", "×", True, 5, None),
        _evaluation("times_lm_eval_default"),
    ),
    Target(
        *("evaluation", "answers a second over lm_eval at its best", "×", True, 5, None), _evaluation("times_lm_eval")
    ),
    Target("evaluation", "answers that are those of the loop", "%", True, 100, 95, _identical),
    Target("evaluation", "answers whose tokens are those of the loop", "%", True, 100, None, _same_tokens),
    Target("startup", "engram --help", "s", False, 0.15, None, lambda found: found["help"]["median"]),
    Target(
        "startup", "make with nothing to do", "s", False, 0.3, None, lambda found: found["make_nothing_to_do"]["median"]
    ),
    Target(
        *("data", "rows validated on one core", "rows/s", True, 50_000, None),
        lambda found: found["sizes"][-1]["rows_alone"]["rows_per_second"],
    ),
    Target(
        *("data", "exponent of the data stage's time over patterns", "", False, 1.1, 1.2),
        lambda found: found["exponents"]["data"],
    ),
    Target(
        *("million", "exponent of the data stage's time, from 100,000 patterns to a million", "", False, 1.1, None),
        lambda found: found["exponents"]["data"],
    ),
    Target(
        *("million", "peak memory of a million patterns", "MiB", False, 4096, None),
        lambda found: max(found["sizes"][-1][name]["peak_mib"] for name in ("validate", "data", "check")),
    ),
    Target(
        *("million", "rows validated on one core, of a million patterns", "rows/s", True, 50_000, None),
        lambda found: found["sizes"][-1]["rows_alone"]["rows_per_second"],
    ),
]


def judge(parts: Parts, quick: bool) -> list[dict[str, Any]]:
    """Each target of the parts that there are: measured, and whether it is met; where `quick`, the guards."""
    found = [] if quick else _whole(parts)
    for target in TARGETS:
        bound = target.guard if quick else target.bound
        if target.part not in parts or bound is None:
            continue
        measured = target.figure(parts[target.part]["result"])
        # None: a run that did not get there
        met = measured is not None and (measured >= bound if target.least else measured <= bound)
        sign = "≥" if target.least else "≤"
        found.append({"part": target.part, "name": target.name, "unit": target.unit, "bound": f"{sign} {bound:g}"})
        found[-1] |= {"measured": measured or 0.0, "met": met}
    return found


def _whole(parts: Parts) -> list[dict[str, Any]]:
    """How long the parts of every run took together, where all of them were measured."""
    if not all(name in parts for name in EVERY_RUN):
        return []
    minutes = sum(parts[name]["seconds"] for name in EVERY_RUN) / 60
    row = {"part": "all", "name": "make bench, all parts together", "unit": "min", "bound": f"≤ {MINUTES}"}
    return [{**row, "measured": minutes, "met": minutes <= MINUTES}]
