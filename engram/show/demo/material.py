"""The contents of a show: one run's documents, its data, and the rows and pattern lines chosen from them."""

from __future__ import annotations

import contextlib
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

HELD_OUT_SHOWN, GENERAL_SHOWN = 2, 2
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

    `rows` are those shown, `lessons` the patterns shown as taught; `erased` is what erasing a fact of a memory did.
    """

    place: Path
    comparison: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    log: dict[str, Any] | None
    counts: dict[str, int]
    rows: list[Example]
    lessons: list[Lesson]
    erased: dict[str, Any] | None = None

    @property
    def method(self) -> Method:
        """The method of the run."""
        return methods.of(self.comparison["recipe"])

    @property
    def where(self) -> str:
        """The run's folder, without the path of the checkout."""
        return str(Path(*self.place.parts[-2:]))


def load(place: Path, data: Path, patterns: str | None = None) -> Material:
    """The run in `place`; raises EngramError if results or data are missing, stale, or not of each other."""
    run = read_run(place)
    manifest = read_manifest(data)
    if sha256(data / "manifest.json") != run.comparison["data"]["manifest_sha256"]:
        what = "the results are of other data (another PATTERNS or SEED)"
        raise EngramError(what, where=str(data / "manifest.json"), fix="make demo")
    seed = run.comparison["recipe"]["seed"]
    lessons = _lessons([e for e in read_split(data, "train") if e.phrasing == "bare"], manifest, patterns)
    rows, erased = choose(run.stages["baseline"], seed), erase.stored(place, run.stages["tuned"])
    return Material(place, run.comparison, run.stages, run.log, manifest["counts"], rows, lessons, erased)


def read_run(place: Path) -> compare_runs.Run:
    """The documents of a run; raises EngramError if there is none yet, or where they are broken or stale."""
    if not any((place / f"{name}.json").is_file() for name in ("baseline", "tuned", "comparison")):
        backend = f" BACKEND={place.name}" if place.name in NAMES else ""
        raise EngramError("no results yet", where=str(place), fix=f"make demo{backend}")
    return compare_runs.read_run(place, place.name)


def choose(document: dict[str, Any], seed: int) -> list[Example]:
    """The rows of a run's show: those of `choose_rows`, then general questions by hash, which expect no answer."""
    chats = [row for row in document["general"] if "answer" in row]
    chats.sort(key=lambda row: sha256_text(f"demo:{seed}:{row['id']}"))
    names = ("general chat", "chat", "bare", "general")
    general = [Example(row["id"], row["id"], *names, row["prompt"], "") for row in chats[:GENERAL_SHOWN]]
    return choose_rows(asked(document), seed) + general


def choose_rows(examples: Sequence[Example], seed: int) -> list[Example]:
    """The rows of the show, by hash, not by result: of each kind one taught, two in other words, two held out."""
    by_hash = sorted(examples, key=lambda e: sha256_text(f"demo:{seed}:{e.id}"))
    taught = {e.kind: e for e in reversed(by_hash) if e.split_kind == "recall"}  # the first of each kind
    reworded, held_out = ([e for e in by_hash if e.split_kind == kind] for kind in ("rewording", "generalization"))
    kinds = dict.fromkeys(e.kind for e in examples)
    shown = [taught[kind] for kind in kinds if kind in taught]
    return shown + reworded[:HELD_OUT_SHOWN] + held_out[:HELD_OUT_SHOWN]


def asked(document: dict[str, Any]) -> list[Example]:
    """The test rows that a result document answers."""
    return [Example(**{name: a[name] for name in ASKED}, answer=a["expected"]) for a in document["answers"]]


def _lessons(train: Sequence[Example], manifest: dict[str, Any], patterns: str | None) -> list[Lesson]:
    """Three taught patterns of different kinds, by hash; with the lines of their files, if these were taught."""
    chosen = [
        min((e for e in train if e.kind == kind), key=lambda e: sha256_text(f"taught:{e.id}"))
        for kind in list(dict.fromkeys(e.kind for e in train))[:LESSONS]
    ]
    known: dict[str, Pattern] = {}
    with contextlib.suppress(EngramError):
        files = find_files(patterns)
        if sorted(sha256(file) for file in files) == sorted(one["sha256"] for one in manifest["inputs"]):
            known = {pattern.id: pattern for pattern in load_patterns(files)}
    return [_lesson(example, known.get(example.pattern)) for example in chosen]


def _lesson(example: Example, pattern: Pattern | None) -> Lesson:
    match = _PLACE.match(pattern.place) if pattern else None
    if match is None:
        return Lesson(example.kind, (), example.prompt, example.answer)
    file, item = Path(match["file"]), (match["part"], int(match["index"]))
    content = read_bytes(file)
    source, lines = yaml_source.parse(content, file.stem), content.decode("utf-8-sig").splitlines()
    around = {source.place((*item, name)).line for name in ("input", "output")}  # of a row: what it is put into
    shown = tuple(lines[number - 1] for number in sorted(around | {int(match["line"])}))
    return Lesson(f"{Path(*file.parts[-2:])}:{match['line']}", shown, example.prompt, example.answer)
