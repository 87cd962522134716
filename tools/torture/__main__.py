"""Run the campaign of faults: each part in its own process, bounded and seeded; the sums go to a document.

A part that dies or does not end is a loss too. Exit code 0: nothing was lost; 1: something was; 2: the command line is
wrong.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from engram.plan import documents
from tools.docs.torture_page import TORTURE, figure
from tools.torture import ROOT, Tally


class Part(NamedTuple):
    """A module with `campaign(seed, scale, note)`: its scale in the short form, and the minutes that it may take."""

    name: str
    quick: float = 0.05
    minutes: float = 20
    package: str = "tools.torture."


PARTS = (
    Part("kills", minutes=60),
    Part("broken_files"),
    Part("two_at_once"),
    Part("fuzz", minutes=40),
    Part("hub"),
    Part("hostile"),
    Part("long_runs", 0.02, 60),
)
QUICK_MINUTES = 10  # for a part in the short form, on a busy machine
# variables of the calling Makefile that the commands of the parts must not inherit
OF_MAKE = (
    "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS", "BACKEND", "MODEL", "RECIPE", "METHOD", "SEED", "SEEDS", "PATTERNS",
    "SET", "QUANTIZE", "ADAPTER", "DIR", "BESIDE", "NPROC", "SERVICE", "BASE_IMAGE", "DOCKER_COMPOSE",
)  # fmt: skip
Outcome = tuple[Part, list[Tally]]


def main(arguments: Sequence[str] | None = None, parts: Sequence[Part] = PARTS) -> int:
    """Run the campaign; 1 if anything was lost."""
    asked = _asked(arguments, parts)
    chosen = [part for part in parts if not asked.only or part.name in asked.only]
    started = time.monotonic()
    outcomes = campaign(chosen, asked.seed, asked.quick, asked.jobs)
    say("\n" + "\n".join(table(outcomes, time.monotonic() - started)))
    lost = [line for part, tallies in outcomes for line in _losses(part, tallies, asked)]
    say("\n".join(["", f"{len(lost)} lost", *lost]) if lost else "\nnothing was lost")
    out = asked.out or (None if asked.quick or asked.only else TORTURE)
    if out:
        earlier = documents.read(out, "torture", "make torture") if asked.add else None
        documents.write(out, document(outcomes, asked.seed, asked.quick, earlier), "torture")
        say(f"written: {out}")
    return 1 if lost else 0


def campaign(parts: Sequence[Part], seed: int, quick: bool, jobs: int) -> list[Outcome]:
    """What each part reports, in the parts' order; `jobs` of them run at the same time."""
    running: set[subprocess.Popen[str]] = set()
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_run, part, seed, quick, running) for part in parts]
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
    """The document of the schema `torture`: the rows of these outcomes, and those of an `earlier` one not run again."""
    provenance = documents.provenance()
    rows = [
        {**dataclasses.asdict(tally), "cases": tally.cases, "scale": part.quick if quick else 1.0, "seed": seed}
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
    """The campaign in lines: each part with its cases by kind, losses, seconds and measured figures."""
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
    parser = argparse.ArgumentParser(prog="tools.torture", description=(__doc__ or "").splitlines()[0])
    names = [part.name for part in parts]
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default: 0)")
    parser.add_argument("--quick", action="store_true", help="the short form")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help=f"of {', '.join(names)}")
    parser.add_argument("--jobs", type=int, choices=range(1, 9), default=1, help="parts at the same time (default: 1)")
    out = "the document (default, if all parts run in full: results/reference/torture.json)"
    parser.add_argument("--out", type=Path, help=out)
    parser.add_argument("--add", action="store_true", help="keep the parts of that document which are not run again")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.only if name not in names]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(names)}")
    return asked


def _run(part: Part, seed: int, quick: bool, running: set[subprocess.Popen[str]]) -> list[Tally]:
    """One part in its own process, with its own folder for temporary files."""
    started = time.monotonic()
    minutes = min(part.minutes, QUICK_MINUTES) if quick else part.minutes
    say(f"{part.name}: begins")
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as folder:
        report, temporary = Path(folder) / "report.json", Path(folder) / "tmp"
        temporary.mkdir()
        Path(folder).chmod(0o755)  # a case may run as another user, who must reach the file that is refused
        scale = part.quick if quick else 1.0
        command = [sys.executable, "-m", "tools.torture", "--part", part.package + part.name, str(seed), str(scale)]
        process = subprocess.Popen(
            [*command, str(report)], env=_environment(temporary), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        running.add(process)
        said: list[str] = []
        # a process that the part started may keep the pipe open: don't wait for its end
        listener = Thread(target=_listen, args=(process, part.name, said), daemon=True)
        listener.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60 * minutes)
        _end(process)
        process.wait()
        listener.join(2)
        running.discard(process)
        seconds = time.monotonic() - started
        sound = process.returncode == 0 and report.is_file()
        tallies = [Tally(**fields) for fields in json.loads(report.read_text("utf-8"))] if sound else []
    if not tallies:
        why = f"ended with exit code {process.returncode} after {seconds:.0f} s, {minutes:g} minutes at most"
        tallies = [Tally(part.name, "the part itself", {}, [" | ".join([why, *said])], seconds)]
    tallies = [
        tally if tally.cases or tally.losses else dataclasses.replace(tally, losses=["not one case was run"])
        for tally in tallies
    ]
    cases, lost = sum(tally.cases for tally in tallies), sum(len(tally.losses) for tally in tallies)
    say(f"{part.name}: {cases:,} cases, {lost} lost, {seconds:.0f} s")
    return tallies


def _listen(process: subprocess.Popen[str], name: str, said: list[str]) -> None:
    """Pass on the output of a part, and keep its last lines."""
    for line in process.stdout or ():
        said[:] = [*said[-5:], line.rstrip()]
        say(f"{name}: {said[-1]}")


def _end(process: subprocess.Popen[str]) -> None:
    """End a part with everything that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all ended; macOS says the latter of zombies
        os.killpg(process.pid, signal.SIGKILL)


def _environment(temporary: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    paths = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    return {"HF_HUB_OFFLINE": "1", **kept, "PYTHONPATH": paths, "TMPDIR": str(temporary)}


def _losses(part: Part, tallies: Sequence[Tally], asked: argparse.Namespace) -> Iterator[str]:
    again = ["python", "-m", "tools.torture", "--only", part.name, "--seed", str(asked.seed)]
    for tally in tallies:
        for loss in tally.losses:
            yield f"{tally.part}: {loss}\n    again: {shlex.join([*again, *(['--quick'] if asked.quick else [])])}"


def _part(module: str, seed: str, scale: str, report: str) -> None:
    """Run a part in this process, and write its tallies to a file."""
    found = importlib.import_module(module).campaign(int(seed), float(scale), say)
    Path(report).write_text(json.dumps([dataclasses.asdict(tally) for tally in found]), "utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        _part(*sys.argv[2:])
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the parts end with it, as with an interrupt
        sys.exit(main())
