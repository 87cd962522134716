"""The checklist's lines on model, data, adapter and results: each is what the one before it says, by content."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram import __version__
from engram.backends import choose
from engram.dataset.build import check_data, read_manifest
from engram.evaluation import verify
from engram.evaluation.pipeline import DOCUMENTS, why_data
from engram.models import model
from engram.patterns.loading import find_files, load_patterns
from engram.plan import documents as results
from engram.support import machine
from engram.support.errors import EngramError
from engram.support.files import PACKAGE
from engram.support.text import first

PASS, WARN, FAIL, ASK = STATES = ("pass", "warn", "fail", "ask")
MOST_DETAILS = 10
OF_THE_DISK = (verify.DATA, verify.QUESTIONS, verify.MODEL, verify.ADAPTER)


@dataclass(frozen=True)
class Finding:
    """One check: its state, what was found (to `ask`, a question), what to do or to type, and further lines."""

    name: str
    state: str
    text: str
    fix: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Situation:
    """What the checks look at; `model` is the value of `MODEL`, `auto` included, `place` has the backend's results."""

    backend: str
    model: str
    patterns: str
    data: Path
    adapters: Path
    place: Path
    script: Path
    checkout: Path = PACKAGE.parent

    def make(self, targets: str) -> str:
        """The command that makes these targets with the backend and the patterns looked at."""
        backend = "" if self.backend == choose() else f" BACKEND={self.backend}"
        patterns = "" if self.patterns == "patterns" else f" PATTERNS={shlex.quote(self.patterns)}"
        return f"make {targets}{backend}{patterns}"


def failed(name: str, text: str, fix: str, details: tuple[str, ...] = ()) -> Finding:
    """A finding that fails, with as many of the details as a screen takes."""
    return Finding(name, FAIL, text, fix, tuple(first(details, MOST_DETAILS)))


def refused(name: str, error: EngramError, fix: str = "") -> Finding:
    """An error as a finding that fails."""
    where = f"{error.where}: " if error.where else ""
    return failed(name, where + error.what, fix or error.fix, error.problems)


def unchecked(name: str, why: str) -> Finding:
    """A check that another line's failure makes impossible: one cause fails one line."""
    return Finding(name, WARN, f"not checked: {why}")


def examine(at: Situation) -> list[Finding]:
    """The four lines; an error that a check meets fails its line."""
    found = []
    for name, check in {"models local": _models, "data": _data, "adapter": _adapter, "pipeline": _pipeline}.items():
        try:
            found.append(check(name, at))
        except EngramError as error:
            found.append(refused(name, error))
    return found


def _models(name: str, at: Situation) -> Finding:
    """Whether the model that the demo will load is on this disk, and is the one that the results are of."""
    described = None
    with contextlib.suppress(EngramError):  # the line of the pipeline says so
        described = results.read(at.place / "comparison.json", "comparison", "make demo")["model"]
    spec = described["name"] if at.model == "auto" and described else at.model
    if spec == "auto":
        return unchecked(name, "no results name a model yet")
    here = model.on_this_disk(spec)
    if here is None:
        text = f"{spec} is not on this disk: the demo would download it"
        return failed(name, text, f"make verify-model MODEL={shlex.quote(spec)}")
    if described and here.weights_sha256 != described["weights_sha256"]:
        text = f"{here.name} here has other weights than the {described['name']} of the results"
        return failed(name, text, at.make("demo"))
    return Finding(name, PASS, f"{here.name}, {here.parameters / 1e6:.1f} M parameters, on this disk")


def _data(name: str, at: Situation) -> Finding:
    """Whether the data is valid, does not leak, and is made of today's patterns."""
    manifest, files = read_manifest(at.data), find_files(at.patterns)
    load_patterns(files)
    check_data(at.data)
    if why := why_data(files, at.data, manifest["seed"], manifest["holdout"]):
        return failed(name, f"{at.data} is stale: {why}", at.make("demo record"))
    return Finding(name, PASS, f"{manifest['counts']['patterns']} patterns, as the pattern files have them; no leak")


def _adapter(name: str, at: Situation) -> Finding:
    """Whether the adapter on disk is the one of its training log, trained on exactly the data on disk."""
    path = at.place / "training.json"
    if not path.is_file():
        return failed(name, f"no {path}: no adapter was trained", at.make("train"))
    found = {one.what: one for one in verify.verify(path, _places(at))}
    if missing := found[verify.ADAPTER].skipped:
        return failed(name, missing, at.make("train"))
    try:
        read_manifest(at.data)
    except EngramError as error:  # the line of the data says more
        return unchecked(name, error.what)
    if problems := tuple(line for one in found.values() if one.what != verify.MODEL for line in one.problems):
        return failed(name, "the adapter is not the one trained on this data", at.make("demo record"), problems)
    return Finding(name, PASS, "the one of its training log, trained on exactly this data")


def _pipeline(name: str, at: Situation) -> Finding:
    """Whether every stage ran, one after the other, with the engram and the packages of today."""
    files, again = {stage: at.place / f"{stage}.json" for stage in DOCUMENTS}, at.make("clean demo record")
    documents = {stage: results.read(files[stage], kind, at.make("demo")) for stage, kind in DOCUMENTS.items()}
    found = [one for file in files.values() for one in verify.verify(file, _places(at))]
    problems = [line for one in found if one.what not in OF_THE_DISK for line in one.problems]
    taught, answered = (documents[stage]["adapter"] for stage in ("training", "tuned"))
    if answered is None or answered["sha256"] != taught["sha256"]:
        problems.append("tuned.json has the answers of another adapter than the one of training.json")
    if problems:
        return failed(name, "the results do not follow from each other", again, tuple(problems))
    if causes := dict.fromkeys(line for one in documents.values() for line in since(one["provenance"])):
        return failed(name, "engram or the packages changed since the results were made", again, tuple(causes))
    created = documents["comparison"]["provenance"]["created"]
    return Finding(name, PASS, f"all stages ran with this engram, last on {created[:10]}")


def since(provenance: dict[str, Any]) -> list[str]:
    """The versions that changed since a document was made, a line for each."""
    then, now = ({"engram": provenance["engram"], **provenance["packages"]}, machine.packages())
    now["engram"] = __version__
    return [f"{name} {then[name]} then, {now.get(name, 'none')} now" for name in then if now.get(name) != then[name]]


def _places(at: Situation) -> verify.Places:
    return verify.Places(at.data, at.adapters, None if at.model == "auto" else at.model)
