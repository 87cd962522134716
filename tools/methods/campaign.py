"""`make compare-methods`: every method on every set and seed, a run at a time; no run is measured twice."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from engram import backends
from engram.dataset.build import read_split, write_data
from engram.dataset.rows import Example
from engram.models import retention
from engram.models.model import Model
from engram.patterns.loading import find_files, load_patterns
from engram.patterns.writing import pattern_file
from engram.plan import documents
from engram.plan.config import load_config
from engram.support import machine
from engram.support.files import PACKAGE, write_text
from engram.support.statistics import wilson
from tools.methods import contenders, probes
from tools.methods.contenders import Contender, Ground

PATH = PACKAGE.parent / "results" / "reference" / "methods.json"
SEEDS = (0, 1, 2)
# random facts, a fifth of which the split holds out; LoRA's steps on them: four rows of each
FACTS, FACT_STEPS = 6250, 600
SETS = ("patterns", "facts")
MOST = {"patterns": 10_000, "facts": 500}  # questions of a kind, but for recall
IN_CONTEXT = 200  # questions of a kind that are asked with examples: their prompts are long

Note = Callable[[str], None]


def compare(
    document: dict[str, Any],
    backend_name: str,
    model: Model,
    seeds: Sequence[int],
    sets: Sequence[str],
    names: Sequence[str],
    note: Note,
    keep: Callable[[], None],
    count: int = FACTS,
) -> None:
    """Fill `document["runs"]`; `keep` is called after each."""
    for seed in seeds:
        for name in sets:
            known = {run["method"] for run in document["runs"] if run["set"] == name and run["seed"] == seed}
            if set(names) <= known:
                continue
            with tempfile.TemporaryDirectory() as folder:
                at = _ground(backend_name, model, name, seed, Path(folder), count)
                asked = questions(at, name, seed)
                base = _answered(contenders.prepared("baseline", at), asked)
                for method in names:
                    if method in known and method != "LoRA r8":  # `both` stands on it
                        continue
                    one = contenders.prepared(method, at)
                    if method in known:
                        continue
                    run = measured(at, one, name, asked, base)
                    document["runs"].append({"set": name, "seed": seed, **run, **when()})
                    note(f"{name}, seed {seed}, {method}: recall {run['recall']['exact']:.3f}, {run['seconds']:.1f} s")
                    keep()


def when() -> dict[str, Any]:
    """The commit and day of a measurement."""
    known = documents.provenance()
    return {"commit": known["git_commit"], "created": known["created"]}


def _ground(backend_name: str, model: Model, name: str, seed: int, work: Path, count: int) -> Ground:
    settings = {"steps": str(FACT_STEPS * count // FACTS)} if name == "facts" else {}
    config = load_config("default", model.parameters, seed, settings)
    files = find_files()
    if name == "facts":
        rows = [(fact.input, fact.output, "random") for fact in probes.random_facts(count, seed)]
        files = [work / "facts.yaml"]
        write_text(files[0], pattern_file("facts", "random numbers", rows))
    write_data(load_patterns(files), files, work / "data", seed)
    return contenders.ground(backend_name, model, config, work / "data", work)


def questions(at: Ground, name: str, seed: int) -> dict[str, list[tuple[str, str | None]]]:
    """Each kind of question with the answer that is right; None where that is the model's own."""
    rows = read_split(at.data, "test")
    taught = at.taught
    some = random.Random(seed).sample(sorted(taught), min(MOST[name], len(taught)))
    phrase = probes.UNSEEN.replace
    return {
        "recall": _pairs(row for row in rows if row.split_kind == "recall"),
        "generalization": _pairs(row for row in rows if row.split_kind != "recall")[: MOST[name]],
        "near_misses": [(phrase("{input}", text), None) for text in probes.near_misses(some, seed)],
        "paraphrases": [
            (words.replace("{input}", text), taught[text]) for words in probes.PARAPHRASES for text in some
        ],
    }


def measured(
    at: Ground, one: Contender, name: str, asked: dict[str, list[tuple[str, str | None]]], base: dict[str, list[str]]
) -> dict[str, Any]:
    """The figures of one contender."""
    run: dict[str, Any] = {"method": one.name, "taught": len(at.taught), "seconds": one.seconds, "bytes": one.bytes}
    few = IN_CONTEXT if one.name == "in context" else None
    started, count = time.perf_counter(), 0
    for kind, pairs in asked.items():
        right = [answer if answer is not None else base[kind][i] for i, (_, answer) in enumerate(pairs)][:few]
        made = base[kind] if one.name == "baseline" else one.ask([prompt for prompt, _ in pairs[:few]])
        count += len(made)
        run[kind] = share([given == wanted for given, wanted in zip(made, right, strict=True)])
    run["answers_per_second"] = count / (time.perf_counter() - started)
    if one.session is not None and name == "patterns":
        run["general"] = _general(at, one.session)
    return run


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """How many of how many, with Wilson's interval at 95 %."""
    count = len(hits)
    return {"n": count, "exact": sum(hits) / count if count else 0.0, "ci95": wilson(sum(hits), count)}


def _answered(one: Contender, asked: dict[str, list[tuple[str, str | None]]]) -> dict[str, list[str]]:
    return {kind: one.ask([prompt for prompt, _ in pairs]) for kind, pairs in asked.items()}


def _general(at: Ground, session: Any) -> dict[str, Any]:
    """What is left of what the model could do: nats of general text and chat, answers and logits that are the same."""
    backend, rows = backends.get(at.backend_name), retention.general_set(at.model).rows
    encoded = retention.encode_general(at.encoder, rows)
    [nats] = backend.losses(session, encoded, at.encoder)
    chats = [list(one.tokens[: one.prompt_length]) for one, row in zip(encoded, rows) if row.kind == "chat"]
    limit = at.config.max_new_tokens
    started = time.perf_counter()
    made = backend.generate(session, chats, at.encoder.stop_ids, limit)
    seconds = time.perf_counter() - started
    before = backend.generate(at.base, chats, at.encoder.stop_ids, limit)
    whole = [one.tokens for one in encoded]
    same = [a == b for a, b in zip(backend.digests(session, whole), backend.digests(at.base, whole))]
    return {
        "nats": {
            kind: _mean([value for value, row in zip(nats, rows) if row.kind == kind]) for kind in ("text", "chat")
        },
        "answers_changed": share([a != b for a, b in zip(made, before)]),
        "logits_identical": share(same),
        "tokens_per_second": sum(len(answer.tokens) for answer in made) / seconds,
    }


def _pairs(rows: Iterable[Example]) -> list[tuple[str, str | None]]:
    return [(row.prompt, row.answer) for row in rows]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def about(backend_name: str, model: Model) -> dict[str, Any]:
    """What a document says of where it was measured."""
    return {
        "backend": backend_name,
        "device": backends.get(backend_name).device(),
        "model": model.describe(),
        "hardware": machine.hardware(),
    }
