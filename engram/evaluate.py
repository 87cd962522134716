"""The stage: model (and adapter) + test set -> result document."""

from __future__ import annotations

import itertools
import statistics as stdlib_statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engram import adapters, backends, phrasing, results, scoring
from engram.backends import Backend
from engram.config import Config
from engram.dataset import Example, read_manifest, read_split
from engram.encoding import Encoder, encode, load_encoder
from engram.errors import EngramError
from engram.files import sha256_text
from engram.model import Model
from engram.statistics import wilson
from engram.text import normalise

SPLITS = ("recall", "generalization")


def evaluate(
    backend_name: str,
    model: Model,
    adapter: Path | None,
    config: Config,
    data: Path,
    out: Path,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Answer the whole test set, score it, and write the result document to `out`; return it.

    `adapter` None is the baseline. `report` receives a line at each part. Raises EngramError for missing or
    changed data, a model or adapter that cannot be used, and an empty test set.
    """
    started = time.perf_counter()
    backend = backends.get(backend_name)
    manifest = read_manifest(data)
    examples = read_split(data, "test")
    if not examples:
        raise EngramError("the test set is empty", where=str(data / "test.jsonl"), fix="make data")
    adapter_hash = adapters.read_adapter(adapter, backend.WEIGHTS)[1] if adapter else None
    encoder = load_encoder(model)
    session = backend.load(model, adapter, config.quantize)
    clock = _Clock(started)
    clock.mark("load_seconds")
    report(f"answering {len(examples)} test prompts")
    answers = _answers(backend, session, encoder, examples, config)
    clock.mark("answer_seconds")
    consistency = _consistency(backend, session, encoder, examples, config)
    clock.mark("consistency_seconds")
    latency = _latency(backend, session, encoder, examples, config)
    clock.mark("latency_seconds")
    document = {
        "schema_version": results.SCHEMA_VERSION,
        "stage": "tuned" if adapter else "baseline",
        "backend": backend_name,
        "device": backend.device(),
        "model": model.describe(),
        "adapter": {"sha256": adapter_hash} if adapter_hash else None,
        "data": results.data_identity(manifest, data),
        "recipe": config.as_dict(),
        "scoring": {"version": scoring.VERSION, "max_new_tokens": config.max_new_tokens},
        "provenance": results.provenance(),
        "splits": {name: _split([a for a in answers if a["split_kind"] == name]) for name in SPLITS},
        "consistency": consistency,
        "latency": latency,
        "timings": clock.parts,
        "answers": answers,
    }
    results.write(out, document, "result")
    return document


def summarise(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The scores of a list of scored answers: n, shares with the Wilson interval of the exact one, mean nats."""
    n = len(answers)
    exact = sum(a["exact"] for a in answers)
    return {
        "n": n,
        "exact": exact / n if n else None,
        "ci95": wilson(exact, n),
        "prefix": _mean([a["prefix"] for a in answers]),
        "similarity": _mean([a["similarity"] for a in answers]),
        "nll": _mean([a["nll"] for a in answers]),
    }


class _Clock:
    """Seconds of each part of a stage."""

    def __init__(self, started: float) -> None:
        self.last = started
        self.parts: dict[str, float] = {}

    def mark(self, name: str) -> None:
        now = time.perf_counter()
        self.parts[name], self.last = now - self.last, now


def _answers(
    backend: Backend, session: Any, encoder: Encoder, examples: Sequence[Example], config: Config
) -> list[dict[str, Any]]:
    prompts = [encoder.prompt(example.prompt) for example in examples]
    generated = backend.generate(session, prompts, encoder.stop_ids, config.max_new_tokens)
    nats = backend.score(session, encode(encoder, examples, config.max_length), encoder)
    rows = []
    for example, answer, nll in zip(examples, generated, nats, strict=True):
        text = encoder.text(answer.tokens)
        scored = scoring.score(example.answer, text)
        fields = ("id", "pattern", "kind", "category", "phrasing", "split_kind", "prompt")
        row = {name: getattr(example, name) for name in fields}
        row |= {"expected": example.answer, "answer": text, "ended": answer.ended}
        rows.append(row | {**scored._asdict(), "nll": nll})
    return rows


def _split(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for answer in answers:
        groups[f"{answer['kind']}/{answer['category']}"].append(answer)
    return summarise(answers) | {"by_category": {name: summarise(group) for name, group in sorted(groups.items())}}


def _consistency(
    backend: Backend, session: Any, encoder: Encoder, examples: Sequence[Example], config: Config
) -> dict[str, Any]:
    """Agreement across the phrasings that training never saw (greedy), and across samples at a temperature."""
    taught = [example for example in examples if example.split_kind == "recall"]
    chosen = sorted(taught, key=lambda e: sha256_text(f"consistency:{config.seed}:{e.id}"))[
        : config.consistency_prompts
    ]
    names = [*phrasing.VALID, *phrasing.TEST]
    prompts = [encoder.prompt(phrasing.phrase(name, e.input)) for e in chosen for name in names]
    greedy = backend.generate(session, prompts, encoder.stop_ids, config.max_new_tokens)
    repeated = [encoder.prompt(e.prompt) for e in chosen for _ in range(config.samples)]
    sampled = (
        backend.generate(session, repeated, encoder.stop_ids, config.max_new_tokens, config.temperature, config.seed)
        if repeated
        else []
    )
    texts = [normalise(encoder.text(answer.tokens)) for answer in sampled]
    wanted = [normalise(e.answer) for e in chosen for _ in range(config.samples)]
    return {
        "patterns": len(chosen),
        "phrasings": names,
        "phrasing_agreement": _agreement([normalise(encoder.text(a.tokens)) for a in greedy], len(names)),
        "samples": config.samples,
        "temperature": config.temperature,
        "sample_agreement": _agreement(texts, config.samples),
        "sample_exact": _mean([given == expected for given, expected in zip(texts, wanted, strict=True)]),
    }


def _latency(
    backend: Backend, session: Any, encoder: Encoder, examples: Sequence[Example], config: Config
) -> dict[str, Any]:
    """Medians over single prompts, one at a time, after one that warms up."""
    chosen = sorted(examples, key=lambda e: sha256_text(f"latency:{config.seed}:{e.id}"))[: config.latency_prompts]
    firsts, rates = [], []
    for number, example in enumerate([*chosen[:1], *chosen]):
        ids = encoder.prompt(example.prompt)
        tokens, first, rest = timed(backend.stream(session, ids, encoder.stop_ids, config.max_new_tokens))
        if number and tokens:
            firsts.append(first)
            rates += [(len(tokens) - 1) / rest] if len(tokens) > 1 and rest > 0 else []
    return {
        "prompts": len(chosen),
        "first_token_seconds": stdlib_statistics.median(firsts) if firsts else None,
        "tokens_per_second": stdlib_statistics.median(rates) if rates else None,
    }


def timed(tokens: Iterator[int]) -> tuple[list[int], float, float]:
    """The tokens of a stream, the seconds to the first one, and the seconds of the rest."""
    started = time.perf_counter()
    first = next(tokens, None)
    middle = time.perf_counter()
    rest = list(tokens)
    return ([] if first is None else [first, *rest]), middle - started, time.perf_counter() - middle


def _agreement(texts: Sequence[str], group: int) -> float | None:
    pairs = [
        one == other
        for start in range(0, len(texts), group or 1)
        for one, other in itertools.combinations(texts[start : start + group], 2)
    ]
    return _mean(pairs)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
