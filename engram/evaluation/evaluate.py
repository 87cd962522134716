"""The evaluation stage: a model, with or without its adapter, and the test set → a result document."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engram import backends
from engram.backends import Backend, Loaded
from engram.dataset import phrasing
from engram.dataset.build import read_manifest, read_split
from engram.dataset.rows import ASKED, Example
from engram.evaluation import attribution, erase, scoring
from engram.evaluation.attribution import Reader
from engram.memory import table
from engram.memory.table import is_memory
from engram.models import retention
from engram.models.model import Model
from engram.models.retention import GeneralSet
from engram.models.tokenizer import Encoded, Encoder, load_encoder
from engram.plan import documents
from engram.plan.batches import Likely, encode
from engram.plan.config import Config
from engram.support import locks
from engram.support.errors import EngramError
from engram.support.files import sha256_text
from engram.training.train import unlike

Rows = list[dict[str, Any]]


def evaluate(
    backend_name: str,
    model: Model,
    adapter: Path | None,
    config: Config,
    data: Path,
    out: Path,
    report: Callable[[str], None] = print,
    loaded: Loaded | None = None,
) -> dict[str, Any]:
    """Answer the whole test set and the general rows, score them, and write the result document; return it.

    `adapter` None is the baseline. `report` receives a line at each part. `loaded` is the model that this process has
    in memory, if any. Next to the result of a memory goes the
    measurement of an erased fact (`erase.write`). Raises EngramError for missing or changed data, a model or adapter
    that cannot be used, an adapter that is not the one of the training log next to `out`, and an empty test set.
    """
    loaded = loaded or Loaded(backend_name, model, config.quantize)
    with locks.held(out, "engram eval"):
        identity = documents.data_identity(read_manifest(data), data)
        known = retention.general_set(model)
        log = out.with_name("training.json")
        document = _measured(loaded, adapter, config, data, identity, known, log, report)
        documents.write(out, document, "result")
        if adapter and is_memory(adapter):
            erase.write(loaded, adapter, document, config, out.with_name(erase.NAME), report)
    return document


def _measured(
    loaded: Loaded,
    adapter: Path | None,
    config: Config,
    data: Path,
    identity: dict[str, Any],
    known: GeneralSet,
    log: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    started, model, backend = time.perf_counter(), loaded.model, backends.get(loaded.backend)
    examples = read_split(data, "test")
    documents.refuse_changed_data(identity, data)
    if not examples:
        raise EngramError("the test set is empty", where=str(data / "test.jsonl"), fix="make data")
    opened = table.opened(adapter, model, backend.WEIGHTS) if adapter else None
    adapter_hash = opened.sha256 if opened else None
    if adapter and log.is_file():
        trained = documents.read(log, "training", "make train")
        if problems := unlike(trained, adapter, backend.WEIGHTS, adapter_hash or ""):
            fix = f"make train, or, where another adapter is meant, rm {log}"
            raise EngramError(f"not the adapter that {log} tells of", where=str(adapter), problems=problems, fix=fix)
    encoder = load_encoder(model)
    general = retention.encode_general(encoder, known.rows)
    base = backend.likely(loaded.session(), general, encoder) if opened else ()
    session = loaded.session(opened)
    reader = attribution.reader(opened)
    report(f"answering {len(examples)} test prompts and {len(known.rows)} rows of general text and chat")
    at = (backend, session, encoder)
    raw, seconds = dict[str, Any](), {"load_seconds": time.perf_counter() - started}
    parts: tuple[tuple[str, str, Callable[[], Rows]], ...] = (
        ("answers", "answer_seconds", lambda: _answers(*at, examples, config, reader)),
        ("repeats", "consistency_seconds", lambda: _repeats(*at, examples, config)),
        ("general", "retention_seconds", lambda: _general(*at, known, general, base, config)),
        ("timed", "latency_seconds", lambda: _timed(*at, examples, config)),
    )
    for part, name, measure in parts:
        started = time.perf_counter()
        raw[part] = measure()
        seconds[name] = time.perf_counter() - started
    raw = documents.rounded(raw)  # the figures follow from the written numbers, to the last digit
    return {
        "document": "result",
        "schema_version": documents.SCHEMA_VERSION,
        "stage": "tuned" if adapter else "baseline",
        "backend": loaded.backend,
        "device": backend.device(),
        "model": model.describe(),
        "adapter": {"sha256": adapter_hash} if adapter_hash else None,
        "data": identity,
        "recipe": config.as_dict(),
        "scoring": scoring_identity(config, known),
        "provenance": documents.provenance(),
        **scoring.derived(raw),
        "timings": seconds,
        **raw,
    }


def scoring_identity(config: Config, known: GeneralSet) -> dict[str, Any]:
    """All that decides how answers are asked for and scored."""
    return {
        "version": scoring.VERSION,
        "max_new_tokens": config.max_new_tokens,
        "phrasings": [*phrasing.VALID, *phrasing.TEST],
        "samples": config.samples,
        "temperature": config.temperature,
        "general": {"name": known.name, "sha256": known.sha256},
    }


def timed(tokens: Iterator[int]) -> tuple[list[int], float, float]:
    """The tokens of a stream, the seconds to the first one, and the seconds of the rest."""
    started = time.perf_counter()
    first = next(tokens, None)
    middle = time.perf_counter()
    rest = list(tokens)
    return ([] if first is None else [first, *rest]), middle - started, time.perf_counter() - middle


def _answers(
    backend: Backend,
    session: Any,
    encoder: Encoder,
    examples: Sequence[Example],
    config: Config,
    reader: Reader | None,
) -> Rows:
    """Each test row's greedy answer, its scores, the mean nats per token of the expected answer, and the facts whose
    rows were read for it."""
    prompts = encoder.prompts([example.prompt for example in examples])
    generated = backend.generate(session, prompts, encoder.stop_ids, config.max_new_tokens)
    nats = backend.score(session, encode(encoder, examples, config.max_length), encoder)
    rows = []
    for prompt, example, answer, nll in zip(prompts, examples, generated, nats, strict=True):
        text = encoder.text(answer.tokens)
        row = {name: getattr(example, name) for name in ASKED}
        row |= {"expected": example.answer, "answer": text, "ended": answer.ended}
        row |= {**scoring.score(example.answer, text)._asdict(), "nll": nll}
        rows.append(row | attribution.noted(reader, encoder, prompt, answer))
    return rows


def _repeats(backend: Backend, session: Any, encoder: Encoder, examples: Sequence[Example], config: Config) -> Rows:
    """Some taught patterns, answered under each phrasing that training never saw (greedy), and several times over."""
    taught = [example for example in examples if example.split_kind == "recall"]
    chosen = _chosen("consistency", taught, config, config.consistency_prompts)
    names = [*phrasing.VALID, *phrasing.TEST]
    prompts = encoder.prompts([phrasing.phrase(name, e.input) for e in chosen for name in names])
    again = encoder.prompts([e.prompt for e in chosen for _ in range(config.samples)])
    stop, limit = encoder.stop_ids, config.max_new_tokens
    greedy = [encoder.text(a.tokens) for a in backend.generate(session, prompts, stop, limit)]
    drawn = backend.generate(session, again, stop, limit, config.temperature, config.seed) if again else []
    sampled = [encoder.text(answer.tokens) for answer in drawn]
    return [
        {
            "pattern": example.pattern,
            "expected": example.answer,
            "greedy": greedy[i * len(names) : (i + 1) * len(names)],
            "sampled": sampled[i * config.samples : (i + 1) * config.samples],
        }
        for i, example in enumerate(chosen)
    ]


def _general(
    backend: Backend,
    session: Any,
    encoder: Encoder,
    known: GeneralSet,
    encoded: Sequence[Encoded],
    base: Sequence[Likely],
    config: Config,
) -> Rows:
    """The general rows' nats, the KL divergence from `base` where it is given, and the greedy answers to the chats."""
    means = backend.score(session, encoded, encoder)
    apart = backend.score(session, encoded, encoder, base) if base else [None] * len(encoded)
    asked = {row.id: list(e.tokens[: e.prompt_length]) for row, e in zip(known.rows, encoded) if row.kind == "chat"}
    answers = backend.generate(session, list(asked.values()), encoder.stop_ids, config.max_new_tokens)
    by_id = dict(zip(asked, answers, strict=True))
    rows: Rows = []
    for row, e, mean, kl in zip(known.rows, encoded, means, apart, strict=True):
        measured = {"id": row.id, "kind": row.kind, "tokens": e.answer_length, "nats": mean * e.answer_length}
        measured |= {} if kl is None else {"kl": kl * e.answer_length}
        if row.id in by_id:
            answer = by_id[row.id]
            measured |= {"prompt": row.prompt, "answer": encoder.text(answer.tokens), "ended": answer.ended}
        rows.append(measured)
    return rows


def _timed(backend: Backend, session: Any, encoder: Encoder, examples: Sequence[Example], config: Config) -> Rows:
    """Single prompts, one at a time, after one that warms up."""
    chosen = _chosen("latency", examples, config, config.latency_prompts)
    rows = []
    for example in [*chosen[:1], *chosen]:
        ids = encoder.prompt(example.prompt)
        tokens, first, rest = timed(backend.stream(session, ids, encoder.stop_ids, config.max_new_tokens))
        rows.append({"id": example.id, "tokens": len(tokens), "first_seconds": first, "rest_seconds": rest})
    return rows[1:]


def _chosen(purpose: str, examples: Sequence[Example], config: Config, count: int) -> list[Example]:
    return sorted(examples, key=lambda e: sha256_text(f"{purpose}:{config.seed}:{e.id}"))[:count]
