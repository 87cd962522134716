"""The contents of the page: the runs that can be compared with the first, and a note of everything else."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from engram.evaluation import compare_runs
from engram.plan import documents
from engram.show.video import cast
from engram.show.video.cast import Cast
from engram.support.errors import EngramError


class Note(NamedTuple):
    """Something that is not on the page: what, why (a line for each reason), and the command that makes it."""

    what: str
    why: tuple[str, ...]
    command: str
    serious: bool = True  # it exists and is wrong; the rest was not made yet


@dataclass
class Found:
    """The documents of a results folder: the runs, the leading one first, each two of them tested, and all the rest."""

    runs: list[compare_runs.Run]
    pairs: list[dict[str, Any]]
    notes: list[Note]
    seeds: list[dict[str, Any]] = field(default_factory=list)
    cast: Cast | None = None
    cast_of: str = ""

    @property
    def first(self) -> compare_runs.Run:
        """The run that leads the page."""
        return self.runs[0]


def gather(folder: Path, first: str | None = None) -> Found:
    """Read a results folder; `first` names the run that leads, by default the first by name.

    What cannot be read or compared with the first is noted. Raises EngramError without a run, or the one asked for.
    """
    runs, unreadable = compare_runs.read_runs(folder)
    lead = next((run for run in runs if first in (None, run.name)), None)
    if lead is None:
        problems = [f"{name}: {reason}" for name, reason in unreadable.items() if first in (None, name)]
        what = "no results to report" if first is None else f"no results of {first} to report"
        fix = _again(first) if first else "make eval compare"
        raise EngramError(what, where=str(folder), problems=problems, fix=fix)
    notes = [Note(f"run {name}", (reason,), _again(name)) for name, reason in unreadable.items()]
    shown = [lead]
    for run in (run for run in runs if run is not lead):
        if differences := compare_runs.pair(lead, run)["refused"]:
            here, there = (one.comparison["model"]["name"] for one in (run, lead))
            what = f"run {run.name} ({here}), which is not comparable with {lead.name} ({there})"
            command = f"{_again(run.name)} MODEL={there} SEED={lead.comparison['recipe']['seed']}"
            notes.append(Note(what, tuple(differences), command))
        else:
            shown.append(run)
    for run in shown:
        if run.log is None:
            command = f"make train compare BACKEND={run.comparison['backend']}"
            notes.append(Note(f"loss curve of {run.name}", ("no training log of this adapter",), command, False))
    pairs = [compare_runs.pair(one, other) for one, other in itertools.combinations(shown, 2)]
    found = Found(shown, [pair for pair in pairs if not pair["refused"]], notes)
    _read_seeds(found, folder)
    _read_cast(found, folder)
    return found


def _again(name: str) -> str:
    """The command that makes a run's documents again."""
    backend, _, adapter = name.partition("-with-")
    backend, _, method = backend.partition("-")
    settings = f" METHOD={method}" if method else f" ADAPTER=adapters/{adapter}" if adapter else ""
    return f"make eval compare BACKEND={backend}{settings}"


def _read_seeds(found: Found, folder: Path) -> None:
    """The documents of several seeds, as far as they are of the leading run's model."""
    model = found.first.comparison["model"]
    for path in sorted((folder / "seeds").glob("*.json")):
        what, command = f"seeds of {path.stem}", f"make seeds BACKEND={path.stem}"
        try:
            document = documents.read(path, "seeds", command)
        except EngramError as error:
            found.notes.append(Note(what, (error.what, *error.problems[:3]), command))
            continue
        if document["model"]["weights_sha256"] == model["weights_sha256"]:
            found.seeds.append(document)
        else:
            why = f"of another model ({document['model']['name']})"
            found.notes.append(Note(what, (why,), f"{command} MODEL={model['name']}"))
    if not (folder / "seeds").is_dir():
        why = "one run does not say how much the seed matters"
        found.notes.append(Note("several seeds", (why,), "make seeds", False))


def _read_cast(found: Found, folder: Path) -> None:
    """The first recording there is, in the order of the runs; a broken one is noted."""
    run = next((run for run in found.runs if (folder / run.name / "demo.cast").is_file()), found.first)
    path, command = folder / run.name / "demo.cast", f"make record BACKEND={run.comparison['backend']}"
    if not path.is_file():
        found.notes.append(Note("recording of the demo", ("none was made yet",), command, False))
    elif importlib.util.find_spec("pyte") is None:
        found.notes.append(
            Note(f"recording of {run.name}", ("pyte is not installed",), "make setup-video report", False)
        )
    else:
        try:
            found.cast, found.cast_of = cast.read(path), run.name
        except EngramError as error:
            why = (error.what, *error.problems[:3])
            found.notes.append(Note(f"recording of {run.name}", why, f"rm {path} && {command}"))
