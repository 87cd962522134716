"""Verify result documents: recompute their figures from the raw answers, check the hashes of data, model, adapter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engram.dataset.build import read_manifest, read_split
from engram.evaluation import attribution, compare, compare_runs, scoring, seeds
from engram.models import model
from engram.plan import documents as results
from engram.plan.config import Config
from engram.support import schema
from engram.support.errors import EngramError
from engram.support.files import sha256
from engram.training import methods

# the checks that need more than the document
DATA, QUESTIONS = "the data's manifest", "the questions, against the test set"
MODEL, ADAPTER = "the model's weights", "the adapter"


class Finding(NamedTuple):
    """One check: its name, the problems found, and the reason if it was skipped."""

    what: str
    problems: tuple[str, ...] = ()
    skipped: str = ""


class Places(NamedTuple):
    """Where the data, the adapters and the model of a document are."""

    data: Path
    adapters: Path
    model: str | None = None  # None: the model that the document names


def verify(path: Path, places: Places) -> list[Finding]:
    """Every check of one document. Raises EngramError if it is no result document of this version."""
    if not path.is_file():
        raise EngramError("no such result", where=str(path), fix="make eval compare")
    document, changed = results.parsed(path, "make it again: make eval compare")
    name = document.get("document") if isinstance(document, dict) else None
    if not isinstance(name, str) or name not in _CHECKS:
        what = f"not a result document ({', '.join(_CHECKS)})"
        raise EngramError(what, where=f"{path} $.document", fix="name one of results/<backend>/*.json")
    schema.check(document, name, str(path))
    checksum = [Finding("the checksum", (changed,))] if changed else []
    return [*checksum, *_CHECKS[name](document, path, places)]


def documents(folder: Path) -> list[Path]:
    """The documents in a results folder; raises EngramError if there is none."""
    found = sorted(p for p in (*folder.glob("*/*.json"), *folder.glob("*.json")) if p.parent.name != "reference")
    if not found:
        raise EngramError("no results to verify", where=str(folder), fix="make eval compare")
    return found


def _result(document: dict[str, Any], path: Path, places: Places) -> Iterator[Finding]:
    scores = []
    expected = {row["id"]: row["expected"] for row in document["answers"]}
    for row in (*document["answers"], *document.get("few_shot", ())):
        right = results.rounded(scoring.score(expected[row["id"]], row["answer"])._asdict())
        scores += [f"{row['id']}.{k}: {row[k]!r}, its answer gives {v!r}" for k, v in right.items() if row[k] != v]
    yield Finding("the scores of each answer", tuple(scores))
    yield Finding("the figures, from the answers", _differences(scoring.derived(document), document))
    if any("read" in row for row in document["answers"]):
        yield Finding("the facts read from the memory, against the answers", tuple(_reads(document["answers"])))
    yield from _on_the_disk(document, path, places)


def _erased(document: dict[str, Any], path: Path, places: Places) -> Iterator[Finding]:
    said, asked = document["answers"], document["asked"]["id"]
    rows = [{"id": name, **answer} for name, answer in said.items()]
    yield Finding("the facts read from the memory, against the answers", tuple(_reads(rows)))
    beside = {"taught": "tuned.json"} | ({} if document["under"] else {"without": "baseline.json"})
    for name, file in beside.items():
        what = f"the answer {'with' if name == 'taught' else 'without'} the memory, against {file}"
        if not (path.parent / file).is_file():
            yield Finding(what, skipped=f"{file} not next to it")
            continue
        stored = results.read(path.parent / file, "result", "make eval")["answers"]
        rows = [{k: row[k] for k in ("answer", "ended")} for row in stored if row["id"] == asked]
        [right] = rows or [{"answer": None}]
        yield Finding(what, _differences(right, {k: said[name][k] for k in right}, f"answers.{name}."))
    yield from _on_the_disk(document, path, places)


def _reads(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield from (f"{row['id']}.read: {wrong}" for row in rows if "read" in row and (wrong := attribution.problem(row)))


def _training(document: dict[str, Any], path: Path, places: Places) -> Iterator[Finding]:
    steps, summary, checks = document["steps"], document["summary"], document["validation"]
    kept = document.get("kept", {"step": checks[-1]["step"] if checks else 0, "of": len(steps)})
    seconds = sum(step["seconds"] for step in steps)
    right = {
        "steps": len(steps),
        "final_loss": steps[-1]["loss"],
        "validation_loss": next((check["loss"] for check in checks if check["step"] == kept["step"]), None),
    }
    wrong = [*_differences(right, {key: summary[key] for key in right}, "summary.")]
    wrong += _apart("summary.train_seconds", summary["train_seconds"], seconds)
    wrong += _apart("summary.tokens_per_second", summary["tokens_per_second"], summary["tokens"] / seconds)
    yield Finding("the summary, from the steps", tuple(wrong))
    settings = {key: value for key, value in document["recipe"].items() if key in Config.__dataclass_fields__}
    rates = results.rounded(methods.of(settings).rates(Config(**settings), kept["of"])[: len(steps)])
    used = [step["learning_rate"] for step in steps]
    pairs = [(i, *pair) for i, pair in enumerate(zip(used, rates, strict=True)) if pair[0] != pair[1]]
    lines = [f"steps[{i}].learning_rate: {rate!r}, the recipe gives {right!r}" for i, rate, right in pairs]
    yield Finding("the learning rates, from the recipe", tuple(lines))
    yield from _on_the_disk(document, path, places)


def _comparison(document: dict[str, Any], path: Path, _: Places) -> Iterator[Finding]:
    sources = {stage: path.parent / f"{stage}.json" for stage in compare.STAGES}
    if missing := [file.name for file in sources.values() if not file.is_file()]:
        yield Finding("the documents compared", skipped=f"{', '.join(missing)} not next to it")
        return
    known = document["sources"]
    changed = (f"sources.{s}: {f.name} is another file now" for s, f in sources.items() if sha256(f) != known[s])
    yield Finding("the documents compared", tuple(changed))
    before, after = compare.results(path.parent)
    unlike = [*results.differing(before, after, compare.SAME), *compare.differing_rows(before, after)]
    yield Finding("that they are comparable", tuple(unlike))
    if not unlike:
        yield Finding("the figures, from the answers", _differences(compare.changes(before, after), document))


def _comparisons(document: dict[str, Any], path: Path, _: Places) -> Iterator[Finding]:
    runs, unreadable = compare_runs.read_runs(path.parent)
    by_name, known = {run.name: run for run in runs}, document["runs"]
    gone = [f"runs.{name}: not in {path.parent}" for name in known if name not in by_name]
    new = [f"runs.{name}: not in the document" for name in by_name if name not in known]
    changed = [name for name, run in by_name.items() if known.get(name) != run.comparison]
    other = [f"runs.{name}: comparison.json is another" for name in changed]
    broken = (f"{name}: {reason}" for name, reason in unreadable.items())
    yield Finding("the runs, against their folders", (*gone, *new, *other, *broken))
    wrong: list[str] = []
    for place, pair in enumerate(document["pairs"]):
        if all(name in by_name for name in pair["runs"]):
            right = compare_runs.pair(*(by_name[name] for name in pair["runs"]))
            wrong += _differences(right, pair, f"pairs[{place}].")
    yield Finding("each two runs, from their answers", tuple(wrong))


def _seeds(document: dict[str, Any], path: Path, _: Places) -> Iterator[Finding]:
    folders = [path.with_suffix("") / str(seed) for seed in document["seeds"]]
    if missing := [folder.name for folder in folders if not (folder / "comparison.json").is_file()]:
        yield Finding("the summary, from its runs", skipped=f"no run of seed {', '.join(missing)} next to it")
        return
    right = {name: part for name, part in seeds.summarise(folders).items() if name != "provenance"}
    yield Finding("the summary, from its runs", _differences(right, document))


_CHECKS: dict[str, Callable[[dict[str, Any], Path, Places], Iterator[Finding]]] = {
    check.__name__[1:]: check for check in (_result, _training, _comparison, _comparisons, _seeds, _erased)
}


def _on_the_disk(document: dict[str, Any], path: Path, places: Places) -> Iterator[Finding]:
    """The data, the model and the adapter that a document names, against those in `places`."""
    if (places.data / "manifest.json").is_file():
        try:
            here = results.data_identity(read_manifest(places.data), places.data)
            yield Finding(DATA, _differences(here, document["data"], "data."))
        except EngramError as error:
            yield Finding(DATA, (error.what, *error.problems))
    else:
        yield Finding(DATA, skipped=f"no {places.data}/manifest.json here")
    if document["document"] == "result" and (places.data / "test.jsonl").is_file():
        yield Finding(QUESTIONS, tuple(_questions(document, places.data)))
    described = document["model"]
    if known := model.on_this_disk(places.model or described["name"]):
        yield Finding(MODEL, _differences(known.describe(), described, "model."))
    else:
        yield Finding(MODEL, skipped=f"{described['name']} is not on this disk (--model names its folder)")
    if document["adapter"]:
        yield _adapter(document, path, places)


def _questions(document: dict[str, Any], data: Path) -> Iterator[str]:
    try:
        rows = {e.id: (e.prompt, e.answer) for e in read_split(data, "test")}
    except EngramError as error:
        yield from (error.what, *error.problems)
        return
    asked = {row["id"]: (row["prompt"], row["expected"]) for row in document["answers"]}
    for name in sorted(name for name in {*rows, *asked} if rows.get(name) != asked.get(name)):
        yield f"{name}: {asked.get(name, 'nothing')!r} here, {rows.get(name, 'nothing')!r} in the test set"


def _adapter(document: dict[str, Any], path: Path, places: Places) -> Finding:
    """The adapter by its hash, in any folder of the adapters: one backend may have used another's."""
    wanted = document["adapter"]["sha256"]
    files = [*places.adapters.glob("*/*.safetensors"), *(path.parent / "adapter").glob("*.safetensors")]
    if wanted in [sha256(file) for file in sorted(files)]:
        return Finding(ADAPTER)
    own = sorted([*(places.adapters / document["backend"]).glob("*.safetensors"), *(path.parent / "adapter").glob("*")])
    if not own or "-with-" in path.parent.name:
        return Finding(ADAPTER, skipped=f"not in {places.adapters}")
    return Finding(ADAPTER, (f"adapter.sha256: {wanted[:12]}…, {own[0]} has {sha256(own[0])[:12]}…",))


def _apart(name: str, stored: float, right: float) -> list[str]:
    """A sum of rounded numbers is near the rounded sum, not equal to it."""
    return [] if abs(stored - right) <= 1e-4 * abs(right) else [f"{name}: {stored!r}, the steps give {right:.6g}"]


def _differences(right: Any, stored: Any, place: str = "") -> tuple[str, ...]:
    """A line for each value in `right` that `stored` does not have in the same place."""
    right = json.loads(json.dumps(results.rounded(right)))  # as it is after writing and reading
    if isinstance(right, dict) and isinstance(stored, dict):
        extra = [f"{place}{key}: not derived from the answers" for key in stored if key not in right and place]
        return (*extra, *(line for k, v in right.items() for line in _differences(v, stored.get(k), f"{place}{k}.")))
    if isinstance(right, list) and isinstance(stored, list) and len(right) == len(stored):
        return tuple(line for i, v in enumerate(right) for line in _differences(v, stored[i], f"{place}{i}."))
    if isinstance(right, float) and isinstance(stored, float) and right:
        digit = 10.0 ** (math.floor(math.log10(abs(right))) - 5)  # the sixth, documents' last: another machine's sum
        if abs(right - stored) < 1.5 * digit:  # may round it the other way
            return ()
    return () if right == stored else (f"{place.rstrip('.')}: {stored!r}, recomputed {right!r}",)
