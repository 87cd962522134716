"""Every run of `make parity` in its order, and the document made of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from engram.dataset import build
from engram.patterns.loading import find_files, load_patterns
from engram.plan import documents
from engram.support import console as show
from engram.support.errors import EngramError
from tools.parity import compare
from tools.parity.deviations import CONTROLS, DEVIATIONS, Deviation
from tools.parity.run import RECIPES, Order, apart

SECONDS = 900  # for one run


@dataclass(frozen=True)
class Size:
    """How much to run; `stop` cuts the deviations, `prompts` -1 is the whole test set."""

    seeds: Sequence[int]
    steps: int
    recipes: Sequence[str] = tuple(RECIPES)
    controls: Sequence[tuple[str, str]] = tuple((side, name) for name in CONTROLS for side in ("mlx", "torch"))
    deviations: Sequence[str] = field(default_factory=lambda: [deviation.name for deviation in DEVIATIONS])
    stop: int = 50
    prompts: int = -1
    quick: bool = False
    model: str = "tiny"
    patterns: str | None = None


def quick() -> Size:
    """Enough for CI: a broken neutralisation moves the first thirty steps already."""
    wanted = ["bias-correction", "scale-20", "stock-sum"]
    return Size([0], 30, ["parity"], [], wanted, stop=15, prompts=32, quick=True)


def real(model: str) -> Size:
    """A few steps of a real model, which learns the code idioms, beside each backend's own noise."""
    return Size([0], 30, ["default"], deviations=[], model=model, patterns="patterns/code_idioms.yaml")


def run(backend: str, size: Size, root: Path, jobs: int) -> dict[str, Any]:
    """Everything; the document, not yet written. Raises EngramError where the matched runs did not come about."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    for seed in size.seeds:
        files = find_files(size.patterns)
        build.write_data(load_patterns(files), files, root / f"data-{seed}", seed)
    found = _all(_orders(backend, size, root), jobs)
    pairs = [_pair(found, root, recipe, seed) for recipe in size.recipes for seed in size.seeds]
    base = (size.recipes[0], size.seeds[0])
    missing = [{"part": name, "reason": made["reason"]} for name, made in found.items() if "reason" in made]
    if backend == "cpu":
        missing.append({"part": "a GPU", "reason": "not run: BACKEND=cpu"})
    first = found[_name(*base, "mlx", "")]
    controls = [
        {"seed": seed, "name": name, "side": side, "what": CONTROLS[name]}
        | {"curves": _against(found, (base[0], seed), side, name)}
        for seed in size.seeds
        for side, name in size.controls
        if "reason" not in found[_name(base[0], seed, side, name)]
    ]
    return {
        "schema_version": 1,
        "backend": backend,
        "quick": size.quick,
        "model": first["model"],
        "recipes": {name: found[_name(name, size.seeds[0], "mlx", "")]["recipe"] for name in size.recipes},
        "pairs": pairs,
        "controls": controls,
        "deviations": [_deviation(found, base, deviation) for deviation in _chosen(found, size, base)],
        "half_precision": _half(found, base),
        "targets": compare.targets(pairs, backend == "cpu", {base[0]: noise(controls)} if controls else {}),
        "not_run": missing,
        "seconds": sum(made.get("seconds", 0.0) for made in found.values()),
        "load": load,
        "provenance": documents.provenance(),
    }


def noise(controls: Sequence[dict[str, Any]]) -> float:
    """The largest difference of one backend from itself, nats."""
    return max(float(one["curves"]["largest"]) for one in controls)


def exit_code(document: dict[str, Any]) -> int:
    """1 where a target that decides is missed, else 0."""
    return int(any(target["decides"] and not target["met"] for target in document["targets"]))


def tell(document: dict[str, Any]) -> None:
    """The result as tables."""
    console = show.make_console()
    targets = Table("recipe", "target", "limit", "measured (worst seed)", "", title="MLX against Unsloth", box=None)
    for target in document["targets"]:
        state = "met" if target["met"] else "MISSED"
        measured, limit = f"{target['measured']:.2g}", f"{target['limit']:g}"
        targets.add_row(target["recipe"], NAMES[target["name"]], limit, measured, state)
    console.print(targets)
    if document["controls"]:
        floor = Table("one backend against itself", "seed", "first 100", "all", title="The noise floor", box=None)
        for control in document["controls"]:
            apart_ = control["curves"]
            figures = [str(control["seed"]), shown(apart_["first_100"]), shown(apart_["largest"])]
            floor.add_row(f"{control['side']}, {control['what']}", *figures)
        console.print(floor)
    table = Table("left as the stock programs have it", "steps", "largest difference, nats", title="Defaults", box=None)
    for deviation in sorted(document["deviations"], key=lambda d: -d["curves"]["largest"]):
        table.add_row(deviation["title"], str(deviation["curves"]["steps"]), shown(deviation["curves"]["largest"]))
    console.print(table)
    for missing in document["not_run"]:
        console.print(f"not run: {missing['part']}: {missing['reason']}")
    for target in document["targets"]:
        if target["decides"] and not target["met"]:
            name, measured = NAMES[target["name"]], f"{target['measured']:.2g}"
            console.print(f"missed: {target['recipe']}, {name}: {measured}, limit {target['limit']:g}")


NAMES = {
    "noise": "losses over all steps, times the noise floor",
    "first_100": "losses over the first 100 steps, nats",
    "first_200": "losses over 200 steps, nats",
    "largest": "losses over all steps, nats",
    "same_answers": "same greedy answers, share",
}


def shown(value: float | None) -> str:
    """A difference in two digits, as people write it; `–` where there is none."""
    return "–" if value is None else f"{value:.2g}" if value >= 0.01 else f"{value:.1e}".replace("e-0", "e-")


def _name(recipe: str, seed: int, side: str, change: str) -> str:
    return "-".join(part for part in (recipe, str(seed), side, change) if part)


def _orders(backend: str, size: Size, root: Path) -> dict[str, Order]:
    """Every run by its name, the long ones first; `torch` is Unsloth on `backend`."""
    orders = {}

    def add(recipe: str, seed: int, side: str, change: str = "", stop: int = 0, prompts: int = 0) -> None:
        name = _name(recipe, seed, side, change)
        where = backend if side == "torch" else "mlx"
        data, folder = str(root / f"data-{seed}"), str(root / name)
        orders[name] = Order(where, recipe, seed, size.steps, stop, change, prompts, data, folder, size.model)

    for seed in size.seeds:
        for recipe in size.recipes:
            add(recipe, seed, "mlx", prompts=size.prompts)
            add(recipe, seed, "torch", prompts=size.prompts)
        for side, name in size.controls:
            add(size.recipes[0], seed, side, name)
    for deviation in DEVIATIONS:
        if deviation.name in size.deviations:
            add(size.recipes[0], size.seeds[0], _side(deviation), deviation.name, min(size.stop, deviation.steps))
    return orders


def _all(orders: dict[str, Order], jobs: int) -> dict[str, dict[str, Any]]:
    def one(name: str) -> dict[str, Any]:
        made = apart(orders[name], SECONDS)
        show.note(f"{name}: {made['reason'] if 'reason' in made else format(made['seconds'], '.0f') + ' s'}")
        return made

    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(orders, pool.map(one, orders)))


def _pair(found: dict[str, dict[str, Any]], root: Path, recipe: str, seed: int) -> dict[str, Any]:
    names = [_name(recipe, seed, side, "") for side in ("mlx", "torch")]
    reasons = [f"{name}: {found[name]['reason']}" for name in names if "reason" in found[name]]
    if reasons:
        fix = "make doctor BACKEND=cpu"
        raise EngramError("a run that everything is compared with did not end", problems=reasons, fix=fix)
    return {"recipe": recipe, "seed": seed} | compare.pair(
        found[names[0]], found[names[1]], [root / name for name in names]
    )


def _against(found: dict[str, dict[str, Any]], base: tuple[str, int], side: str, change: str) -> dict[str, Any]:
    """A changed run against the unchanged one of the same backend."""
    one, other = (found[_name(*base, side, name)]["losses"] for name in ("", change))
    return compare.curves(one, other)


def _chosen(found: dict[str, dict[str, Any]], size: Size, base: tuple[str, int]) -> list[Deviation]:
    asked = [deviation for deviation in DEVIATIONS if deviation.name in size.deviations]
    return [d for d in asked if "reason" not in found[_name(*base, _side(d), d.name)]]


def _side(deviation: Deviation) -> str:
    return "mlx" if deviation.side == "mlx" else "torch"


def _deviation(found: dict[str, dict[str, Any]], base: tuple[str, int], deviation: Deviation) -> dict[str, Any]:
    texts = ("name", "title", "whose", "default", "source", "engram", "test")
    described = {name: getattr(deviation, name) for name in texts}
    side = _side(deviation)
    return described | {"side": side, "curves": _against(found, base, side, deviation.name)}


def _half(found: dict[str, dict[str, Any]], base: tuple[str, int]) -> dict[str, Any] | None:
    """MLX's bfloat16 curve against torch's; None where one of them was not run."""
    one, other = (found.get(_name(*base, side, f"bf16-{side}"), {"reason": ""}) for side in ("mlx", "torch"))
    return None if "reason" in one or "reason" in other else compare.curves(one["losses"], other["losses"])
