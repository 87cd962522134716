"""`make bench`: engram beside what a user would pick instead, on the same machine and data, in one run.

Writes `results/reference/bench.json`, a part at a time; parts that are not asked for stay as they were measured, each
with its own provenance. `--quick` is the short form that CI runs: it writes nothing there, and fails where a ratio is
worse than its guard. Ratios and counts are judged, never seconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import answering
import cores
import data_scale
import evaluation
import race
import scaling
import startup
import sweep
import training
from targets import BY_NAME, EVERY_RUN, judge

from engram.models.model import resolve
from engram.plan import documents
from engram.support import console as show
from engram.support import locks
from engram.support.errors import EngramError
from tools.docs.performance_page import BENCH, MAKE

ROOT = Path(__file__).resolve().parent.parent


REAL_LIMIT = 1500  # seconds of one training of the real model


class Place(NamedTuple):
    """Where a part works: the data of the bundled patterns, a folder for itself, and the parts measured before."""

    data: Path
    folder: Path
    known: Mapping[str, Any]
    quick: bool


def _race(place: Place) -> dict[str, Any]:
    if "sweep" not in place.known:
        raise EngramError("nothing to race against", where=MAKE, fix='make bench ARGS="--parts sweep"')
    return race.measure(resolve("tiny"), place.data, place.folder, place.known["sweep"]["result"], show.note)


def _real(place: Place) -> dict[str, Any]:
    """Sweep and race of the real model, which learns the bundled code idioms."""
    model, data = resolve(scaling.LARGE), place.folder / "data"
    _data_of("patterns/code_idioms.yaml", data)
    swept = sweep.measure(model, data, place.folder, show.note, sweep.LARGE, REAL_LIMIT)
    return swept | race.measure(model, data, place.folder, swept, show.note, REAL_LIMIT)


def _overhead(place: Place) -> dict[str, Any]:
    return training.overhead(place.data, place.folder, *((2, 15) if place.quick else (5, 28)))


def _unsloth(place: Place) -> dict[str, Any]:
    return training.unsloth(place.data, place.folder, *((1, 12) if place.quick else (1, 20)))


def _models(place: Place) -> dict[str, Any]:
    return scaling.models(place.data, place.folder, show.note)


def _evaluation(place: Place) -> dict[str, Any]:
    if not place.quick:
        found = evaluation.measure("tiny", place.folder, rounds=2)
        return found | {"profile": answering.profiled("tiny", place.folder, found["stages"])}
    return evaluation.measure("tiny", place.folder, 1, ("engram mlx", "mlx_lm", "lm_eval batch 64"))


def _startup(place: Place) -> dict[str, Any]:
    if place.quick:
        return startup.measure()
    return startup.measure(resolve(scaling.LARGE).path)


def _data(place: Place) -> dict[str, Any]:
    return _scaled(place, (1000, 10_000) if place.quick else (100, 1000, 10_000, 100_000))


def _million(place: Place) -> dict[str, Any]:
    return _scaled(place, (100_000, 1_000_000))


def _scaled(place: Place, counts: Sequence[int]) -> dict[str, Any]:
    sizes = []
    for count in counts:
        sizes.append(data_scale.measure(count, place.folder / str(count)))
        show.note(f"{count:,} patterns: {sizes[-1]['data']['seconds']:.1f} s, {sizes[-1]['data']['peak_mib']:.0f} MiB")
    large = [size for size in sizes if size["patterns"] >= 1000]
    slopes = {name: data_scale.growth(large, name) for name in data_scale.COMMANDS} if len(large) > 1 else {}
    return {"sizes": sizes, "exponents": slopes}


def _planning(place: Place) -> dict[str, Any]:
    return scaling.planning(place.folder, (100, 1000, 10_000), show.note)


def _cores(place: Place) -> dict[str, Any]:
    return cores.measure(place.folder, rounds=1)


def _sweep(place: Place) -> dict[str, Any]:
    return sweep.measure(resolve("tiny"), place.data, place.folder, show.note)


PARTS: dict[str, Callable[[Place], dict[str, Any]]] = {  # in the order of EVERY_RUN, then of BY_NAME
    "race": _race,
    "overhead": _overhead,
    "unsloth": _unsloth,
    "models": _models,
    "evaluation": _evaluation,
    "startup": _startup,
    "data": _data,
    "planning": _planning,
    "sweep": _sweep,
    "real": _real,
    "cores": _cores,
    "million": _million,
}
QUICK = ("overhead", "unsloth", "evaluation", "startup", "data")


def main() -> None:
    """Run the parts, write the document, tell the targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the short form: guards only, nothing is written")
    parser.add_argument(
        "--parts", default="", help=f"with commas, of: {', '.join(PARTS)}; all but {', '.join(BY_NAME)}"
    )
    arguments = parser.parse_args()
    names = [name for name in arguments.parts.split(",") if name] or list(QUICK if arguments.quick else EVERY_RUN)
    if unknown := [name for name in names if name not in PARTS]:
        sys.exit(f"engram: no such part: {', '.join(unknown)}; known are {', '.join(PARTS)}")
    try:
        with locks.held(BENCH, MAKE):
            document = bench(names, arguments.quick)
    except EngramError as error:
        sys.exit(f"engram: {error}")
    missed = tell(document["targets"])
    if arguments.quick and missed:
        sys.exit(f"engram: slower than its guard: {', '.join(missed)}")


def bench(names: Sequence[str], quick: bool) -> dict[str, Any]:
    """Run these parts, one after the other; the document, which is written after each of them unless `quick`."""
    parts: dict[str, Any] = {}
    if BENCH.is_file() and not quick:
        parts = documents.read(BENCH, "bench", MAKE)["parts"]
    document: dict[str, Any] = {}
    commit = documents.provenance()["git_commit"]  # later the document itself is a changed file
    with tempfile.TemporaryDirectory(prefix="engram-bench-") as folder:
        data = Path(folder) / "data"
        _data_of("patterns", data)
        for name in names:
            show.note(f"== {name}")
            started, load = time.monotonic(), os.getloadavg()[0]
            place = Place(data, Path(folder) / "parts" / name, parts, quick)
            place.folder.mkdir(parents=True)
            found = PARTS[name](place)
            provenance = {**documents.provenance(), "git_commit": commit}
            parts[name] = {"seconds": time.monotonic() - started, "load": load, "provenance": provenance}
            parts[name]["result"] = found
            ordered = {name: parts[name] for name in PARTS if name in parts}
            document = {
                "document": "bench",
                "schema_version": 1,
                "parts": ordered,
            }
            document["targets"] = judge(documents.rounded(ordered), quick)  # as who reads the document would
            if not quick:
                documents.write(BENCH, document, "bench")
    return document


def _data_of(patterns: str, data: Path) -> None:
    command = [sys.executable, "-m", "engram.cli", "data", "--patterns", patterns, "--data", str(data)]
    subprocess.run(command, check=True, cwd=ROOT)


def tell(targets: Sequence[Mapping[str, Any]]) -> list[str]:
    """Print each target, what was measured and whether it is met; the names of those that are not."""
    console = show.make_console()
    for one in targets:
        mark = "✓" if one["met"] else "✗"
        console.print(f"{mark} {one['name']}: {one['measured']:.4g} {one['unit']} (target {one['bound']})")
    return [one["name"] for one in targets if not one["met"]]


if __name__ == "__main__":
    main()
