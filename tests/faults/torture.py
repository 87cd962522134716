#!/usr/bin/env python3
"""The campaign of faults: every part in a process of its own, bounded and seeded, added up at the end.

A part that dies or does not end is a loss like any other. Exit code 0: nothing was lost; 1: something was; 2: the
command line is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

FAULTS = Path(__file__).resolve().parent
ROOT = FAULTS.parents[1]
sys.path[:0] = [str(FAULTS), str(FAULTS.parent), str(ROOT)]

from tally import Tally

from engram.plan import documents
from tools.docs.torture_page import TORTURE, figure


class Part(NamedTuple):
    """A module with `campaign(seed, scale, note)`: its scale in the short form, and the minutes that it may take."""

    name: str
    quick: float = 0.05
    minutes: float = 20


PARTS = (
    Part("kills", minutes=60),
    Part("broken_files"),
    Part("two_at_once"),
    Part("fuzz", minutes=40),
    Part("hub"),
    Part("hostile"),
    Part("long_runs", 0.02, 60),
)
QUICK_MINUTES = 10  # what a part may take in the short form, on a machine that is busy
# what the Makefile that calls this hands down, and what the commands that the parts call must not inherit
OF_MAKE = (
    *("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS", "BACKEND", "MODEL", "RECIPE", "SEED", "SEEDS", "PATTERNS", "SET"),
    *("QUANTIZE", "ADAPTER", "DIR", "BESIDE", "SERVICE", "BASE_IMAGE", "DOCKER_COMPOSE"),
)
Say = Callable[[str], None]
Outcome = tuple[Part, list[Tally]]


def main(arguments: Sequence[str] | None = None, parts: Sequence[Part] = PARTS) -> int:
    """Run the campaign; 1 where anything was lost."""
    asked = _asked(arguments, parts)
    chosen = [part for part in parts if not asked.only or part.name in asked.only]
    started = time.monotonic()
    outcomes = campaign(chosen, asked.seed, asked.quick, asked.jobs, say)
    seconds = time.monotonic() - started
    say("\n" + "\n".join(table(outcomes, seconds)))
    lost = [line for part, tallies in outcomes for line in _losses(part, tallies, asked)]
    say("\n".join(["", f"{len(lost)} lost", *lost]) if lost else "\nnothing was lost")
    out = asked.out or (None if asked.quick or asked.only else TORTURE)
    if out:
        earlier = documents.read(out, "torture", "make torture") if asked.add else None
        documents.write(out, document(outcomes, asked.seed, asked.quick, earlier), "torture")
        say(f"written: {out}")
    return 1 if lost else 0


def campaign(parts: Sequence[Part], seed: int, quick: bool, jobs: int, say: Say) -> list[Outcome]:
    """What each part reports, in the parts' order; `jobs` of them run at the same time."""
    running: set[subprocess.Popen[str]] = set()
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_run, part, seed, quick, say, running) for part in parts]
        try:
            return [(part, each.result()) for part, each in zip(parts, waiting, strict=True)]
        except BaseException:  # an interrupt ends the parts too
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                _end(process)
            raise


def document(
    outcomes: Sequence[Outcome], seed: int, quick: bool, earlier: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The outcomes as `schemas/torture.schema.json` has them, after those of an `earlier` document not run again."""
    provenance = documents.provenance()
    rows = [
        {**_plain(tally), "cases": tally.cases, "scale": part.quick if quick else 1.0, "seed": seed}
        | {"git_commit": provenance["git_commit"]}
        for part, tallies in outcomes
        for tally in tallies
    ]
    again = {row["part"] for row in rows}
    rows = [row for row in (earlier or {"parts": []})["parts"] if row["part"] not in again] + rows
    totals = {"cases": sum(row["cases"] for row in rows), "losses": sum(len(row["losses"]) for row in rows)}
    return {
        "document": "torture",
        "schema_version": 1,
        "form": "quick" if quick else "full",
        "provenance": provenance,
        "parts": rows,
        "totals": {"parts": len(rows), **totals, "seconds": sum(row["seconds"] for row in rows)},
    }


def table(outcomes: Sequence[Outcome], seconds: float) -> Iterator[str]:
    """The campaign in lines: each part with its cases by kind, losses, seconds and what it measured."""
    tallies = [tally for _, tallies in outcomes for tally in tallies]
    yield f"{'part':<16} {'cases':>9} {'losses':>6} {'seconds':>8}"
    for tally in tallies:
        yield f"{tally.part:<16} {tally.cases:>9,} {len(tally.losses):>6} {tally.seconds:>8.1f}  {tally.what}"
        if tally.kinds:
            yield "    " + ", ".join(f"{kind} {number:,}" for kind, number in tally.kinds.items())
        yield from (f"    {name}: {figure(value)}" for name, value in tally.measured.items())
    lost = sum(len(tally.losses) for tally in tallies)
    yield f"{'in all':<16} {sum(tally.cases for tally in tallies):>9,} {lost:>6} {seconds:>8.1f}"


def say(line: str) -> None:
    """Print at once: a campaign is watched while it runs."""
    print(line, flush=True)


def _asked(arguments: Sequence[str] | None, parts: Sequence[Part]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [part.name for part in parts]
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default: 0)")
    parser.add_argument("--quick", action="store_true", help="the short form, for CI")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help=f"of {', '.join(names)}")
    parser.add_argument("--jobs", type=int, choices=range(1, 9), default=1, help="parts at the same time (default: 1)")
    parser.add_argument(
        "--out",
        type=Path,
        help="the document (default, where all parts run in full: results/reference/)",
    )
    parser.add_argument("--add", action="store_true", help="keep the parts of that document which are not run again")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.only if name not in names]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(names)}")
    return asked


def _run(part: Part, seed: int, quick: bool, say: Say, running: set[subprocess.Popen[str]]) -> list[Tally]:
    """One part in a process of its own, with a folder of its own for temporary files."""
    started = time.monotonic()
    minutes = min(part.minutes, QUICK_MINUTES) if quick else part.minutes
    say(f"{part.name}: begins")
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as folder:
        report = Path(folder) / "report.json"
        (Path(folder) / "tmp").mkdir()
        Path(folder).chmod(0o755)  # a case may be another user, who must get as far as what is refused
        command = [sys.executable, __file__, "--part", part.name, str(seed), str(part.quick if quick else 1.0), report]
        process = subprocess.Popen(
            command, env=_environment(Path(folder) / "tmp"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        running.add(process)
        said: list[str] = []
        # what it started may hold on to its output, so nobody waits for the end of that
        ears = Thread(target=_listen, args=(process, part.name, said, say), daemon=True)
        ears.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60 * minutes)
        _end(process)  # with whatever it left behind
        process.wait()
        ears.join(2)
        running.discard(process)
        seconds = time.monotonic() - started
        tallies = _read(report) if process.returncode == 0 else []
    if not tallies:
        why = f"ended with exit code {process.returncode} after {seconds:.0f} s, {minutes:g} minutes at most"
        tallies = [Tally(part.name, "the part itself", {}, [" | ".join([why, *said])], seconds)]
    cases = sum(tally.cases for tally in tallies)
    say(f"{part.name}: {cases:,} cases, {sum(len(t.losses) for t in tallies)} lost, {seconds:.0f} s")
    return [_with_cases(tally) for tally in tallies]


def _listen(process: subprocess.Popen[str], name: str, said: list[str], say: Say) -> None:
    """Pass on what a part says, and remember the last lines."""
    for line in process.stdout or ():
        said[:] = [*said[-5:], line.rstrip()]
        say(f"{name}: {said[-1]}")


def _end(process: subprocess.Popen[str]) -> None:
    """End a part with everything that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS says the latter of zombies
        os.killpg(process.pid, signal.SIGKILL)


def _environment(temporary: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    paths = [str(ROOT), str(FAULTS.parent), str(FAULTS), *filter(None, [kept.get("PYTHONPATH")])]
    return {"HF_HUB_OFFLINE": "1", **kept, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(temporary)}


def _with_cases(tally: Tally) -> Tally:
    """A part in which nothing happened has shown nothing."""
    if tally.cases or tally.losses:
        return tally
    return dataclasses.replace(tally, losses=["not one case was run"])


def _losses(part: Part, tallies: Sequence[Tally], asked: argparse.Namespace) -> Iterator[str]:
    again = ["python", "tests/faults/torture.py", "--only", part.name, "--seed", str(asked.seed)]
    for tally in tallies:
        for loss in tally.losses:
            yield f"{tally.part}: {loss}\n    again: {shlex.join([*again, *(['--quick'] if asked.quick else [])])}"


def _plain(tally: Tally) -> dict[str, Any]:
    fields = dataclasses.asdict(tally)
    return {**fields, "kinds": dict(tally.kinds), "losses": list(tally.losses), "measured": dict(tally.measured)}


def _read(report: Path) -> list[Tally]:
    return [Tally(**fields) for fields in json.loads(report.read_text("utf-8"))] if report.is_file() else []


def _part(name: str, seed: str, scale: str, report: str) -> None:
    """In the part's own process: its campaign, and what it found as a file."""
    found = importlib.import_module(name).campaign(int(seed), float(scale), say)
    Path(report).write_text(json.dumps([_plain(tally) for tally in found]), "utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        _part(*sys.argv[2:])
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the parts end with it, as with an interrupt
        sys.exit(main())
