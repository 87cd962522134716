"""The stages in their order: each runs if something that it depends on changed, by content."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram import __version__, backends
from engram.backends import Loaded
from engram.dataset import build
from engram.evaluation import compare
from engram.evaluation import evaluate as evaluation
from engram.memory import table
from engram.models import adapters, retention
from engram.models.model import Model
from engram.patterns.loading import load_patterns
from engram.plan import documents
from engram.plan.checkpoint import Saving
from engram.plan.config import Config
from engram.plan.curve import Progress
from engram.support import console
from engram.support.console import Report
from engram.support.errors import EngramError
from engram.support.files import sha256
from engram.training import train
from engram.training.methods import LORA, METHODS

# the stages that lead to each target: the base model answers first, then it is taught; `train` is LoRA's stage
TARGETS = {
    "data": ("data",),
    "train": ("data", "train", "memory"),
    "eval": ("data", "baseline", "train", "memory", "tuned"),
    "compare": ("data", "baseline", "train", "memory", "tuned", "compare"),
}
# the documents of a run, and the schema of each
DOCUMENTS = {"training": "training", "baseline": "result", "tuned": "result", "comparison": "comparison"}
WORDS = {"scoring": "how answers are asked for or scored"} | {n: f"the {n}" for n in ("data", "adapter", "phrasings")}
Teach = Callable[["Work"], Any]  # shows how training goes
Act = tuple[str, Callable[[], str], Callable[[], Any]]  # a stage's name, why it must run, and how


@dataclass(frozen=True)
class Work:
    """Everything that the stages of one run depend on, and where they write.

    `under` is the LoRA run that a memory builds on, `given` an adapter that was taught elsewhere.
    """

    backend: str
    model: Model
    config: Config
    files: tuple[Path, ...]
    data: Path
    taught: Path
    place: Path
    log: Path
    under: Work | None = None
    given: bool = False
    holdout: str = build.RULES

    @functools.cached_property
    def loaded(self) -> Loaded:
        """The model, once it is needed."""
        return Loaded(self.backend, self.model, self.config.quantize)

    @classmethod
    def within(
        cls, backend: str, model: Model, config: Config, files: Sequence[Path], folder: Path, holdout: str = build.RULES
    ) -> Work:
        """A run with everything in one folder: `data/`, `adapter/`, the documents, and `lora/` under a memory."""

        def work(config: Config, taught: str, log: str, under: Work | None = None) -> Work:
            places = (folder / "data", folder / taught, folder, folder / log)
            return cls(backend, model, config, tuple(files), *places, under, holdout=holdout)

        lora = dataclasses.replace(config, method=LORA.name)
        under = work(lora, "lora", "lora.json") if METHODS[config.method].needs_adapter else None
        return work(config, "adapter", "training.json", under)


def follow(
    work: Work, stages: Sequence[str], report: Report, teach: Teach, *, force: Collection[str] = (), dry: bool = False
) -> Iterator[tuple[str, Any]]:
    """Run those of `stages` that are not up to date, and yield the name and the document of each that ran.

    `report` hears why a stage runs, in a line, and which ones needn't. Those in `force` run anyway; with `dry` none.
    """
    fresh: list[str] = []
    stale: list[str] = []  # that would run: what depends on them isn't known
    for name, why, act in _acts(work, stages, teach, report):
        before = [one for one in stale if one != "baseline" or name == "compare"]
        reason = "forced" if name in force else f"after {before[0]}" if before else why()
        if not reason:
            fresh.append(name)
            continue
        if fresh:
            report(f"up to date: {', '.join(fresh)}")
            fresh = []
        report(f"{name}: {reason}" + (" (not run)" if dry else ""))
        if dry:
            stale.append(name)
        else:
            yield name, act()
    if fresh:
        report(f"up to date: {', '.join(fresh)}")


def _acts(work: Work, stages: Sequence[str], teach: Teach, report: Report) -> Iterator[Act]:
    data = (work.files, work.data, work.config.seed, work.holdout)
    for name in stages:
        if name == "data":
            yield name, functools.partial(why_data, *data), functools.partial(write_data, *data)
        elif name == "compare":
            yield name, functools.partial(why_compare, work.place), functools.partial(compare.compare, work.place)
        elif name in compare.STAGES:
            yield name, functools.partial(why_answers, work, name), functools.partial(answer, work, name, report)
        elif not work.given:
            lora = work.config.method == LORA.name
            taught = (work if lora else work.under) if name == "train" else None if lora else work
            if taught:
                yield name, functools.partial(why_train, taught), functools.partial(teach, taught)


def write_data(files: Sequence[Path], folder: Path, seed: int, holdout: str) -> dict[str, Any]:
    """Make the rows of these pattern files in `folder`; return their manifest."""
    return build.write_data(load_patterns(files), files, folder, seed, holdout)


def answer(work: Work, stage: str, report: Report = lambda _: None) -> dict[str, Any]:
    """Answer the test set with the model (`baseline`) or with what it was taught (`tuned`); write the result."""
    adapter, out = work.taught if stage == "tuned" else None, work.place / f"{stage}.json"
    return evaluation.evaluate(work.backend, work.model, adapter, work.config, work.data, out, report, work.loaded)


def run(
    backend: str, model: Model, config: Config, files: Sequence[Path], folder: Path, report: Report
) -> dict[str, Any]:
    """Make data, train, answer before and after, compare; everything goes into `folder`. Returns the comparison."""

    def shown(work: Work) -> None:
        with console.TrainingBar() as progress:
            teach(work, progress)

    for _ in follow(Work.within(backend, model, config, files, folder), TARGETS["compare"], report, shown):
        pass
    return compare.stored(folder)


def teach(work: Work, progress: Progress, saving: Saving | None = None) -> dict[str, Any]:
    """Teach by the recipe's method; see `Method.teach`."""
    under = work.under.taught if work.under else None
    places = (work.data, work.taught, work.log)
    method = METHODS[work.config.method]
    return method.teach(work.backend, work.model, work.config, *places, progress, under, saving, work.loaded)


# why a stage must run; empty where what it made is up to date


def why_data(files: Sequence[Path], folder: Path, seed: int, holdout: str) -> str:
    """Which pattern file, or what else, differs from those that the data were made of."""
    path = folder / "manifest.json"
    if not path.is_file():
        return f"no {path} yet"
    try:
        manifest = build.read_manifest(folder)
    except EngramError as error:
        return error.what
    before = [(one["file"], one["sha256"]) for one in manifest["inputs"]]
    now = [(file.name, sha256(file)) for file in files]
    if before != now:
        lines = [f"{file} {'changed' if of[0] in dict(before) else 'is new'}"
                 for file, of in zip(files, now) if of not in before]  # fmt: skip
        lines += [f"{name} is gone" for name, _ in before if name not in dict(now)]
        return ", ".join(lines[:3]) + (f" and {len(lines) - 3} more" if len(lines) > 3 else "") or "another order"
    right = build.constants(seed, holdout)
    return _changed(manifest, {name: right[name] for name in ("seed", *right)})


def why_train(work: Work) -> str:
    """What the adapter or memory there was not taught with."""
    wanted = _common(work)
    try:
        log = _read(work.log, "training")
        for name in train.EVALUATION:
            wanted["recipe"].pop(name, None)
            log["recipe"].pop(name, None)
        weights, found = backends.WEIGHTS[work.backend], _digest(work.taught, work.backend)
        if reason := _changed(log, wanted):
            return reason
        if problems := train.unlike(log, work.taught, weights, found):
            return f"not the adapter of its log: {problems[0]}"
        if work.under and table.settings(work.taught)["adapter"] != _digest(work.under.taught, work.backend):
            return "the adapter under it changed"
    except EngramError as error:
        return error.what
    return ""


def why_answers(work: Work, stage: str) -> str:
    """What a result document is not of."""
    known = retention.general_set(work.model).first(work.config.general_rows)
    scoring = documents.rounded(evaluation.scoring_identity(work.config, known))
    try:
        found = {"sha256": _digest(work.taught, work.backend)} if stage == "tuned" else None
        wanted = {**_common(work), "scoring": scoring, "adapter": found}
        return _changed(_read(work.place / f"{stage}.json", "result"), wanted)
    except EngramError as error:
        return error.what


def why_compare(place: Path) -> str:
    """Which document in the folder of a run changed since the comparison was made."""
    try:
        known = _read(place / "comparison.json", "comparison")
        after = compare.results(place)[1]
        for stage in compare.STAGES:
            if known["sources"][stage] != sha256(place / f"{stage}.json"):
                return f"{stage}.json changed"
        same = known["training"] == compare.training_summary(place / "training.json", after)
        return "" if same else "training.json changed"
    except EngramError as error:
        return error.what


def _common(work: Work) -> dict[str, Any]:
    """What every document of a run says of itself."""
    data = documents.data_identity(build.read_manifest(work.data), work.data)
    recipe = documents.rounded(work.config.as_dict())
    return {"backend": work.backend, "model": work.model.describe(), "data": data, "recipe": recipe}


def _digest(folder: Path, backend: str) -> str:
    """The SHA-256 of what was taught: of the memory's weights, else of the adapter's."""
    if table.is_memory(folder):
        return str(table.intact(folder)["files"][table.WEIGHTS])
    return adapters.read_adapter(folder, backends.WEIGHTS[backend])[1]


def _read(path: Path, name: str) -> dict[str, Any]:
    """A document; raises EngramError, with the reason to make it again, if it can't be used."""
    if not path.is_file():
        raise EngramError(f"no {path} yet")
    document = documents.read(path, name, "")
    if (version := document["provenance"]["engram"]) != __version__:
        raise EngramError(f"made by engram {version}")
    return document


def _changed(document: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first field in which a document differs from what is wanted now, in words."""
    for name, now in wanted.items():
        then: Any = document.get(name)
        if then == now:
            continue
        if name == "recipe":
            keys = [k for k in now if then.get(k) != now[k] and k != "name"] or ["name"]
            return ", ".join(f"{key} {then.get(key)} → {now[key]}" for key in keys[:3])
        if name == "model" and then["name"] == now["name"]:
            return f"the files of the model {now['name']} changed"
        if name in WORDS:
            return f"{WORDS[name]} changed"
        return f"model {then['name']} → {now['name']}" if name == "model" else f"{name} {then} → {now}"
    return ""
