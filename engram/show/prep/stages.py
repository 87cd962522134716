"""Model, data, adapter and results: each is what the one before it says, by content and not by file times."""

from __future__ import annotations

import shlex
from typing import Any

from engram import __version__
from engram.dataset.build import check_data, read_manifest
from engram.evaluation import verify
from engram.evaluation.pipeline import DOCUMENTS, why_data
from engram.models import model
from engram.patterns.loading import find_files, load_patterns
from engram.plan import documents as results
from engram.show.prep.finding import PASS, Finding, Situation, failed, refused, unchecked
from engram.support import machine
from engram.support.errors import EngramError

OF_THE_DISK = (verify.DATA, verify.QUESTIONS, verify.MODEL, verify.ADAPTER)


def models(at: Situation) -> Finding:
    """Whether the model that the demo will load is on this disk, and is the one that the results are of."""
    name = "models local"
    try:
        described = results.read(at.place / "comparison.json", "comparison", "make demo")["model"]
    except EngramError:  # the line of the pipeline says so
        described = None
    spec = described["name"] if at.model == "auto" and described else at.model
    if spec == "auto":
        return unchecked(name, "no results name a model yet")
    try:
        here = model.on_this_disk(spec)
    except EngramError as error:
        return refused(name, error)
    if here is None:
        text = f"{spec} is not on this disk: the demo would download it"
        return failed(name, text, f"make verify-model MODEL={shlex.quote(spec)}")
    if described and here.weights_sha256 != described["weights_sha256"]:
        text = f"{here.name} here has other weights than the {described['name']} of the results"
        return failed(name, text, at.make("demo"))
    return Finding(name, PASS, f"{here.name}, {here.parameters / 1e6:.1f} M parameters, on this disk")


def data(at: Situation) -> Finding:
    """Whether the data is valid, does not leak, and is made of today's patterns."""
    name = "data"
    try:
        manifest, files = read_manifest(at.data), find_files(at.patterns)
        load_patterns(files)
        check_data(at.data)
        why = why_data(files, at.data, manifest["seed"], manifest["holdout"])
    except EngramError as error:
        return refused(name, error)
    if why:
        return failed(name, f"{at.data} is stale: {why}", at.make("demo record"))
    return Finding(name, PASS, f"{manifest['counts']['patterns']} patterns, as the pattern files have them; no leak")


def adapter(at: Situation) -> Finding:
    """Whether the adapter on disk is the one of its training log, trained on exactly the data on disk."""
    name, path = "adapter", at.place / "training.json"
    if not path.is_file():
        return failed(name, f"no {path}: no adapter was trained", at.make("train"))
    try:
        found = {one.what: one for one in verify.verify(path, _places(at))}
    except EngramError as error:
        return refused(name, error)
    if missing := found[verify.ADAPTER].skipped:
        return failed(name, missing, at.make("train"))
    try:
        read_manifest(at.data)
    except EngramError as error:  # the line of the data says more
        return unchecked(name, error.what)
    if problems := tuple(line for one in found.values() if one.what != verify.MODEL for line in one.problems):
        return failed(name, "the adapter is not the one trained on this data", at.make("demo record"), problems)
    return Finding(name, PASS, "the one of its training log, trained on exactly this data")


def pipeline(at: Situation) -> Finding:
    """Whether every stage ran, one after the other, with the engram and the packages of today."""
    name, again = "pipeline", at.make("clean demo record")
    try:
        documents = {
            stage: results.read(at.place / f"{stage}.json", kind, at.make("demo")) for stage, kind in DOCUMENTS.items()
        }
        found = [one for stage in DOCUMENTS for one in verify.verify(at.place / f"{stage}.json", _places(at))]
    except EngramError as error:
        return refused(name, error)
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
