"""Small valid result documents, made by hand and consistent in themselves, for tests that spoil them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engram.evaluation import scoring
from engram.plan import documents
from engram.plan.config import Config, learning_rates

HASH = {letter: letter * 64 for letter in "abcdef"}
FEW, MANY = [False] * 18 + [True] * 2, [True] * 16 + [False] * 2 + [True] * 2
SCORING = {
    "version": 2, "max_new_tokens": 32, "phrasings": ["reply", "tell"], "samples": 2, "temperature": 0.7,
    "general": {"name": "general", "sha256": HASH["f"]},
}  # fmt: skip


def answer(number: int, split_kind: str, exact: bool, category: str = "c") -> dict[str, Any]:
    text = "yes" if exact else "no"
    return {
        "id": f"{number}-tell", "pattern": str(number), "kind": "k", "category": category, "phrasing": "tell",
        "split_kind": split_kind, "prompt": f"Tell me, in short: {number}", "expected": "yes",
        "answer": text, "ended": True, **scoring.score("yes", text)._asdict(), "nll": 0.5,
    }  # fmt: skip


def general(nats: float, text: str) -> list[dict[str, Any]]:
    """Four chats and four texts of ten tokens; every chat gets the same answer."""
    chats = [
        {"id": f"chat-{i}", "kind": "chat", "tokens": 10, "nats": nats + i, "prompt": f"Hello {i}", "answer": text,
         "ended": True}
        for i in range(4)
    ]  # fmt: skip
    return [*chats, *({"id": f"text-{i}", "kind": "text", "tokens": 10, "nats": nats + i} for i in range(4))]


def result(
    stage: str, recall: list[bool], generalization: list[bool], backend: str = "mlx", category: str = "c"
) -> dict[str, Any]:
    """A small valid result document: its figures follow from its answers."""
    kinds = ["recall"] * len(recall) + ["generalization"] * len(generalization)
    outcomes = zip(kinds, recall + generalization, strict=True)
    tuned = stage == "tuned"
    raw = documents.rounded({
        "answers": [answer(i, kind, exact, category) for i, (kind, exact) in enumerate(outcomes)],
        "repeats": [{"pattern": "0", "expected": "yes", "greedy": ["yes", "no"], "sampled": ["yes", "yes"]}],
        "general": general(20.0 if tuned else 10.0, "ok" if tuned else "Hello!"),
        "timed": [{"id": "0-tell", "tokens": 3, "first_seconds": 0.1, "rest_seconds": 0.2}],
    })  # fmt: skip
    return {
        "document": "result",
        "schema_version": 2,
        "stage": stage,
        "backend": backend,
        "device": "cpu",
        "model": {"name": "tiny", "revision": None, "weights_sha256": HASH["a"], "parameters": 1000},
        "adapter": {"sha256": HASH["b"]} if tuned else None,
        "data": {"manifest_sha256": HASH["c"], "seed": 0},
        "recipe": Config().as_dict(),
        "scoring": SCORING,
        "provenance": documents.provenance(),
        **scoring.derived(raw),
        "timings": {"answer_seconds": 2.0},
        **raw,
    }


def training(adapter: str, backend: str = "mlx", losses: tuple[float, ...] = (1.0,)) -> dict[str, Any]:
    document = result("tuned", [True], [], backend)
    rates = learning_rates(Config(), len(losses))
    return {
        "document": "training",
        **{name: document[name] for name in ("schema_version", "backend", "device", "model", "data")},
        **{name: document[name] for name in ("recipe", "provenance")},
        "replay": None,
        "adapter": {"sha256": adapter, "parameters": 10},
        "steps": [
            {"step": i + 1, "loss": loss, "learning_rate": rate, "answer_tokens": 3, "seconds": 0.1}
            for i, (loss, rate) in enumerate(zip(losses, rates, strict=True))
        ],
        "validation": [],
        "summary": {
            "steps": len(losses), "rows": 1, "tokens": 9, "train_seconds": 0.1 * len(losses), "wall_seconds": 1.0,
            "tokens_per_second": 90.0 / len(losses), "peak_memory_bytes": 1, "final_loss": losses[-1],
            "validation_loss": None,
        },
    }  # fmt: skip


def write_run(place: Path, backend: str = "mlx", before: list[bool] = FEW, after: list[bool] = MANY) -> None:
    """A baseline and a tuned result: recall as given, one of four held-out patterns right in both."""
    for stage, recall in (("baseline", before), ("tuned", after)):
        documents.write(place / f"{stage}.json", result(stage, recall, [False, True, False, False], backend), "result")


def edit(path: Path, *keys: Any, to: Any) -> None:
    """Change one value of a written document, as somebody would who knows of the checksum."""
    document = json.loads(path.read_text("utf-8"))
    document.pop(documents.CHECKSUM, None)
    part = document
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    path.write_text(json.dumps(document))
