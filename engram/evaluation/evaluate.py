"""The evaluation stage: a model, with or without its adapter, and the test set → a result document."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from engram.plan.curve import Answer
from engram.support import locks
from engram.support.console import Report
from engram.support.errors import EngramError
from engram.support.files import sha256_text
from engram.training import replay
from engram.training.train import unlike

Rows = list[dict[str, Any]]


class Asked(NamedTuple):
    """The model that is asked, and how."""

    backend: Backend
    session: Any
    encoder: Encoder
    config: Config

    def texts(self, prompts: Sequence[Sequence[int]], *drawn: Any) -> list[tuple[str, Answer]]:
        """The answers to prompts, greedy or `drawn` at a temperature and with a seed, and their texts."""
        stop, limit = self.encoder.stop_ids, self.config.max_new_tokens
        answers = self.backend.generate(self.session, prompts, stop, limit, *drawn) if prompts else []
        return [(self.encoder.text(answer.tokens), answer) for answer in answers]


def evaluate(
    backend_name: str,
    model: Model,
    adapter: Path | None,
    config: Config,
    data: Path,
    out: Path,
    report: Report = print,
    loaded: Loaded | None = None,
) -> dict[str, Any]:
    """Answer the whole test set and the general rows, score them, and write the result document; return it.

    `adapter` None is the baseline. `report` receives a line at each part. `loaded` is the model that this process has
    in memory, if any. Next to the result of a memory goes the measurement of an erased fact (`erase.write`). Raises
    EngramError for missing or changed data, a model or adapter that cannot be used, an adapter that is not the one of
    the training log next to `out`, and an empty test set.
    """
    loaded = loaded or Loaded(backend_name, model, config.quantize)
    with locks.held(out, "engram eval"):
        document = _measured(loaded, adapter, config, data, out.with_name("training.json"), report)
        documents.write(out, document, "result")
        if adapter and is_memory(adapter):
            erase.write(loaded, adapter, document, config, out.with_name(erase.NAME), report)
    return document


def test_set(data: Path) -> tuple[dict[str, Any], list[Example]]:
    """What documents say of the data in a folder, and its test rows; raises EngramError if it changed or has none."""
    identity, examples = documents.data_identity(read_manifest(data), data), read_split(data, "test")
    documents.refuse_changed_data(identity, data)
    if not examples:
        raise EngramError("the test set is empty", where=str(data / "test.jsonl"), fix="make data")
    return identity, examples


def _measured(
    loaded: Loaded, adapter: Path | None, config: Config, data: Path, log: Path, report: Report
) -> dict[str, Any]:
    started, model, backend = time.perf_counter(), loaded.model, backends.get(loaded.backend)
    identity, examples = test_set(data)
    opened = table.opened(adapter, model, backend.WEIGHTS) if adapter else None
    if adapter and opened and log.is_file():
        trained = documents.read(log, "training", "make train")
        if problems := unlike(trained, adapter, backend.WEIGHTS, opened.sha256):
            fix = f"make train, or, where another adapter is meant, rm {log}"
            raise EngramError(f"not the adapter that {log} tells of", where=str(adapter), problems=problems, fix=fix)
    encoder = load_encoder(model)
    known = retention.general_set(model).first(config.general_rows)
    general = retention.encode_general(encoder, known.rows)
    base = replay.likely(loaded, encoder, general, f"{known.name} {known.sha256}") if opened else ()
    at, reader = Asked(backend, loaded.session(opened), encoder, config), attribution.reader(opened)
    report(f"answering {len(examples)} test prompts and {len(known.rows)} rows of general text and chat")
    raw, seconds = dict[str, Any](), {"load_seconds": time.perf_counter() - started}
    parts: list[tuple[str, str, Callable[[], Rows]]] = [
        ("answers", "answer_seconds", lambda: _answers(at, examples, reader)),
        ("repeats", "consistency_seconds", lambda: _repeats(at, examples)),
        ("general", "retention_seconds", lambda: _general(at, known, general, base)),
        ("timed", "latency_seconds", lambda: _timed(at, examples)),
    ]
    if config.shots and not adapter:
        parts.append(("few_shot", "few_shot_seconds", lambda: _few_shot(at, examples, data)))
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
        "adapter": {"sha256": opened.sha256} if opened else None,
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


def _answers(at: Asked, examples: Sequence[Example], reader: Reader | None) -> Rows:
    """Each test row's greedy answer, its scores, the expected answer's mean nats per token, and the facts read."""
    prompts = at.encoder.prompts([example.prompt for example in examples])
    answers = at.texts(prompts)
    [nats] = at.backend.losses(at.session, encode(at.encoder, examples, at.config.max_length), at.encoder)
    return [
        {name: getattr(example, name) for name in ASKED}
        | {"expected": example.answer, "answer": text, "ended": answer.ended}
        | {**scoring.score(example.answer, text)._asdict(), "nll": nll}
        | attribution.noted(reader, at.encoder, prompt, answer)
        for prompt, example, (text, answer), nll in zip(prompts, examples, answers, nats, strict=True)
    ]


def _few_shot(at: Asked, examples: Sequence[Example], data: Path) -> Rows:
    """Each test row's greedy answer after `config.shots` solved examples: other taught patterns of its category."""
    taught: defaultdict[str, dict[str, Example]] = defaultdict(dict)
    for row in sorted(read_split(data, "train"), key=lambda row: row.pattern):
        if row.phrasing == phrasing.BARE:
            taught[row.category][row.pattern] = row
    asked = []
    for example in examples:
        others = [row for name, row in taught[example.category].items() if name != example.pattern]
        told = [message for row in others[: at.config.shots] for message in row.messages()]
        asked.append([*told, example.messages()[0]])
    return [
        {"id": e.id, "answer": text, "ended": answer.ended, **scoring.score(e.answer, text)._asdict()}
        for e, (text, answer) in zip(examples, at.texts(at.encoder.chats(asked)), strict=True)
    ]


def _repeats(at: Asked, examples: Sequence[Example]) -> Rows:
    """Some taught patterns, answered under each phrasing that training never saw (greedy), and several times over."""
    config, names = at.config, [*phrasing.VALID, *phrasing.TEST]
    taught = [example for example in examples if example.split_kind == "recall"]
    chosen = _chosen("consistency", taught, config.seed, config.consistency_prompts)
    prompts = at.encoder.prompts([phrasing.phrase(name, e.input) for e in chosen for name in names])
    again = at.encoder.prompts([e.prompt for e in chosen for _ in range(config.samples)])
    greedy = [text for text, _ in at.texts(prompts)]
    sampled = [text for text, _ in at.texts(again, config.temperature, config.seed)]
    return [
        {
            "pattern": example.pattern,
            "expected": example.answer,
            "greedy": greedy[i * len(names) : (i + 1) * len(names)],
            "sampled": sampled[i * config.samples : (i + 1) * config.samples],
        }
        for i, example in enumerate(chosen)
    ]


def _general(at: Asked, known: GeneralSet, encoded: Sequence[Encoded], base: Sequence[Likely]) -> Rows:
    """The general rows' nats, the KL divergence from `base` where it is given, and the greedy answers to the chats."""
    means, *apart = at.backend.losses(at.session, encoded, at.encoder, base)
    asked = {row.id: list(e.tokens[: e.prompt_length]) for row, e in zip(known.rows, encoded) if row.kind == "chat"}
    answers = dict(zip(asked, at.texts([*asked.values()]), strict=True))
    rows: Rows = []
    for i, (row, e) in enumerate(zip(known.rows, encoded, strict=True)):
        measured = {"id": row.id, "kind": row.kind, "tokens": e.answer_length, "nats": means[i] * e.answer_length}
        measured |= {"kl": apart[0][i] * e.answer_length} if apart else {}
        if row.id in answers:
            text, answer = answers[row.id]
            measured |= {"prompt": row.prompt, "answer": text, "ended": answer.ended}
        rows.append(measured)
    return rows


def _timed(at: Asked, examples: Sequence[Example]) -> Rows:
    """Single prompts, one at a time, after one that warms up."""
    chosen = _chosen("latency", examples, at.config.seed, at.config.latency_prompts)
    rows = []
    for example in [*chosen[:1], *chosen]:
        ids = at.encoder.prompt(example.prompt)
        tokens, first, rest = timed(at.backend.stream(at.session, ids, at.encoder.stop_ids, at.config.max_new_tokens))
        rows.append({"id": example.id, "tokens": len(tokens), "first_seconds": first, "rest_seconds": rest})
    return rows[1:]


def _chosen(purpose: str, examples: Sequence[Example], seed: int, count: int) -> list[Example]:
    return sorted(examples, key=lambda e: sha256_text(f"{purpose}:{seed}:{e.id}"))[:count]
