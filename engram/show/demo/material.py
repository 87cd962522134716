"""The contents of a show: one run's documents, its data, and the rows and pattern lines chosen from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from engram.backends import NAMES
from engram.dataset.build import read_manifest, read_split
from engram.dataset.rows import ASKED, Example
from engram.evaluation import compare_runs, erase
from engram.patterns import yaml_source
from engram.patterns.loading import Pattern, find_files, load_patterns
from engram.support.errors import EngramError
from engram.support.files import read_bytes, sha256, sha256_text
from engram.training import methods
from engram.training.methods import Method

HELD_OUT_SHOWN = 2
LESSONS = 3
_PLACE = re.compile(r"(?P<file>.*):(?P<line>\d+):\d+ \$\.(?P<part>examples|tables)\[(?P<index>\d+)\]")


class Lesson(NamedTuple):
    """One taught pattern: its place and its lines in the pattern file, and a question with its answer."""

    place: str
    lines: tuple[str, ...]
    question: str
    answer: str


@dataclass(frozen=True)
class Material:
    """One run: its folder, comparison, answers before and after, training log if any, and its data.

    `erased` is the measured effect of erasing a fact, if the run has a memory.

    `rows` are those shown, `lessons` the patterns shown as taught, `missing` why they do not come from the pattern
    files, if they do not.
    """

    place: Path
    comparison: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    log: dict[str, Any] | None
    counts: dict[str, int]
    rows: list[Example]
    lessons: list[Lesson]
    missing: str = ""
    erased: dict[str, Any] | None = None

    @property
    def method(self) -> Method:
        """The method of the run."""
        return methods.of(self.comparison["recipe"])

    @property
    def where(self) -> str:
        """The run's folder, without the path of the checkout."""
        return _short(self.place)


def load(place: Path, data: Path, patterns: str | None = None) -> Material:
    """The run in `place`; raises EngramError if results or data are missing, stale, or not of each other."""
    run = read_run(place)
    manifest = read_manifest(data)
    if sha256(data / "manifest.json") != run.comparison["data"]["manifest_sha256"]:
        what = "the results are of other data (another PATTERNS or SEED)"
        raise EngramError(what, where=str(data / "manifest.json"), fix="make demo")
    seed = run.comparison["recipe"]["seed"]
    train = [e for e in read_split(data, "train") if e.phrasing == "bare"]
    lessons, missing = _lessons(train, manifest, patterns)
    rows = choose_rows(asked(run.stages["baseline"]), seed)
    erased = erase.stored(place, run.stages["tuned"])
    return Material(place, run.comparison, run.stages, run.log, manifest["counts"], rows, lessons, missing, erased)


def read_run(place: Path) -> compare_runs.Run:
    """The documents of a run; raises EngramError if there is none yet, or where they are broken or stale."""
    if not any((place / f"{name}.json").is_file() for name in ("baseline", "tuned", "comparison")):
        backend = f" BACKEND={place.name}" if place.name in NAMES else ""
        raise EngramError("no results yet", where=str(place), fix=f"make demo{backend}")
    return compare_runs.read_run(place, place.name)


def choose_rows(examples: Sequence[Example], seed: int) -> list[Example]:
    """The rows of the show, by hash, not by result: of each kind of pattern one taught, two in other words, and two
    held-out ones."""
    by_hash = sorted(examples, key=lambda e: sha256_text(f"demo:{seed}:{e.id}"))
    taught = {e.kind: e for e in reversed(by_hash) if e.split_kind == "recall"}  # the first of each kind
    reworded, held_out = ([e for e in by_hash if e.split_kind == kind] for kind in ("rewording", "generalization"))
    kinds = dict.fromkeys(e.kind for e in examples)
    shown = [taught[kind] for kind in kinds if kind in taught]
    return shown + reworded[:HELD_OUT_SHOWN] + held_out[:HELD_OUT_SHOWN]


def asked(document: dict[str, Any]) -> list[Example]:
    """The test rows that a result document answers."""
    return [Example(**{name: a[name] for name in ASKED}, answer=a["expected"]) for a in document["answers"]]


def _lessons(train: Sequence[Example], manifest: dict[str, Any], patterns: str | None) -> tuple[list[Lesson], str]:
    """Three taught patterns of different kinds, by hash; and why their files' lines are not shown, if they are not."""
    chosen = [
        min((e for e in train if e.kind == kind), key=lambda e: sha256_text(f"taught:{e.id}"))
        for kind in list(dict.fromkeys(e.kind for e in train))[:LESSONS]
    ]
    found, missing = _sources(manifest, patterns)
    return [_lesson(e, found.get(e.pattern)) for e in chosen], missing


def _sources(manifest: dict[str, Any], patterns: str | None) -> tuple[dict[str, Pattern], str]:
    """The patterns by id, where the files are those that were taught."""
    try:
        files = find_files(patterns)
        if sorted(sha256(f) for f in files) != sorted(one["sha256"] for one in manifest["inputs"]):
            return {}, "the pattern files are not as they were when this was taught; these are the rows made of them"
        return {p.id: p for p in load_patterns(files)}, ""
    except EngramError as error:
        return {}, f"the pattern files cannot be read ({error.what}); these are the rows made of them"


def _lesson(example: Example, pattern: Pattern | None) -> Lesson:
    match = _PLACE.match(pattern.place) if pattern else None
    if match is None:
        return Lesson(example.kind, (), example.prompt, example.answer)
    content = read_bytes(Path(match["file"]))
    lines = content.decode("utf-8-sig").splitlines()
    wanted = [int(match["line"])]
    source, item = yaml_source.parse(content, Path(match["file"]).stem), (match["part"], int(match["index"]))
    if match["part"] == "tables":  # what its columns are put into, then the row
        wanted = [source.place((*item, name)).line for name in ("input", "output")] + wanted
    else:
        wanted += [source.place((*item, "output")).line]
    shown = tuple(lines[number - 1] for number in dict.fromkeys(wanted) if number <= len(lines))
    return Lesson(f"{_short(Path(match['file']))}:{match['line']}", shown, example.prompt, example.answer)


def _short(path: Path) -> str:
    return str(Path(*path.parts[-2:]))
