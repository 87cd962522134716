"""Model, data, adapter and results: each is what the one before it says, by content and not by file times."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from engram import __version__
from engram.dataset.build import check_data, read_manifest
from engram.evaluation import verify
from engram.evaluation.pipeline import DOCUMENTS, why_data
from engram.models import model
from engram.patterns.loading import find_files, load_patterns
from engram.plan import documents as results
from engram.plan.documents import differing
from engram.show.prep import finding
from engram.show.prep.finding import PASS, Finding, Situation, failed, refused, unchecked
from engram.support import machine
from engram.support.errors import EngramError

OF_THE_DISK = (verify.DATA, verify.QUESTIONS, verify.MODEL, verify.ADAPTER)
CHAIN = ("backend", "model", "data")  # what every document of one run has in common


def models(at: Situation) -> Finding:
    """Whether the model that the demo will load is on this disk, and is the one that the results are of."""
    name = "models local"
    described = _described(at)
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
        found = verify.verify(path, _places(at))
    except EngramError as error:
        return refused(name, error)
    by_name = {one.what: one for one in found}
    if by_name[verify.ADAPTER].skipped:
        return failed(name, by_name[verify.ADAPTER].skipped, at.make("train"))
    readable = _readable(at.data)
    looked_at = [one for one in found if one.what != verify.MODEL and (readable or one.what != verify.DATA)]
    again = at.make("demo record")
    if problems := tuple(line for one in looked_at for line in one.problems):
        return failed(name, "the adapter is not the one trained on this data", again, problems)
    if not readable:
        return unchecked(name, f"{at.data} is missing or changed")
    digest = results.read(path, "training", "make train")["adapter"]["sha256"]
    return Finding(name, PASS, f"{digest[:12]}…, trained on exactly this data")


def pipeline(at: Situation) -> Finding:
    """Whether every stage ran, one after the other, with the code and packages of today."""
    name = "pipeline"
    try:
        documents = {
            stage: results.read(at.place / f"{stage}.json", kind, at.make("demo")) for stage, kind in DOCUMENTS.items()
        }
        found = [one for stage in DOCUMENTS for one in verify.verify(at.place / f"{stage}.json", _places(at))]
    except EngramError as error:
        return refused(name, error)
    problems = [line for one in found if one.what not in OF_THE_DISK for line in one.problems]
    problems += _links(documents)
    if problems:
        return failed(name, "the results do not follow from each other", at.make("clean demo record"), tuple(problems))
    causes = dict.fromkeys(line for one in documents.values() for line in since(one["provenance"], at.checkout))
    if causes:
        text = "the code or the packages changed since the results were made"
        return failed(name, text, at.make("clean demo record"), tuple(causes))
    return Finding(
        name, PASS, f"all stages ran with this code, last on {documents['comparison']['provenance']['created'][:10]}"
    )


def _links(documents: dict[str, dict[str, Any]]) -> list[str]:
    """Where the documents of one run do not speak of the same backend, model, data and adapter."""
    training, tuned = documents["training"], documents["tuned"]
    lines = [
        f"{stage}: {line}" for stage, document in documents.items() for line in differing(training, document, CHAIN)
    ]
    if tuned["adapter"] is None or tuned["adapter"]["sha256"] != training["adapter"]["sha256"]:
        lines.append("tuned: adapter.sha256: answers of another adapter than training.json's")
    return lines


def _described(at: Situation) -> dict[str, Any] | None:
    """The model that the results are of."""
    try:
        document: dict[str, Any] = results.read(at.place / "comparison.json", "comparison", "make demo")
    except EngramError:  # the line of the pipeline says so
        return None
    described: dict[str, Any] = document["model"]
    return described


def _readable(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except EngramError:  # the line of the data says so
        return False
    return True


def _places(at: Situation) -> verify.Places:
    return verify.Places(at.data, at.adapters, None if at.model == "auto" else at.model)


# Rooms that look at results, show them or take the model away. A change there makes no result old; the show is compared
# with the recordings instead.
NO_STAGES = (
    *(f"engram/{room}/" for room in ("show", "export", "cli", "bundled/fonts")),
    *(f"engram/evaluation/{name}.py" for name in ("compare_runs", "harness", "tables", "verify")),
)


def since(provenance: dict[str, Any], checkout: Path) -> list[str]:
    """The changes since a document was made, a line for each cause.

    In a checkout that knows the document's commit, the stages' files are compared with it, by content: what was
    uncommitted then, and still is, counts as changed. Elsewhere the version is all there is.
    """
    now, then, commit = machine.packages(), provenance["packages"], (provenance["git_commit"] or "").rstrip("+")
    lines = [f"{name} {then[name]} then, {now.get(name, 'none')} now" for name in then if now.get(name) != then[name]]
    tracked = finding.ask(checkout, "diff", "--name-only", commit, "--", "engram") if commit else None
    new = finding.ask(checkout, "ls-files", "--others", "--exclude-standard", "--", "engram")
    if tracked is None or new is None or not (checkout / ".git").exists():
        version = provenance["engram"]
        return lines + ([] if version == __version__ else [f"engram {version} then, {__version__} now"])
    return lines + [f"{name}: changed since" for name in (*tracked.splitlines(), *new.splitlines()) if _is_stage(name)]


def _is_stage(name: str) -> bool:
    return name.endswith((".py", ".jsonl")) and not name.startswith(NO_STAGES)
