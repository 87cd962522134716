"""Erase a fact from a copy of a memory and put it back: ask before, between and after, and without the memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engram import backends
from engram.backends import Loaded
from engram.dataset.rows import ASKED, Example
from engram.evaluation import attribution
from engram.memory import addresses, facts, table
from engram.memory.table import Opened
from engram.models.tokenizer import load_encoder
from engram.plan import documents
from engram.plan.config import Config
from engram.support.console import Report
from engram.support.errors import EngramError
from engram.support.files import sha256_text

NAME, FIX = "erased.json", "make eval METHOD=memory"
LARGEST = 1 << 28  # bytes of a table that is copied for it
LOOKED_AT, LONGEST = 8, 40  # questions among which one is chosen, and characters of its answer
SAME = ("schema_version", "backend", "device", "model", "adapter", "data", "recipe")  # as in the result next to it


def choose(examples: Sequence[Example], seed: int) -> Example | None:
    """The question to ask, None if nothing was taught: by hash, then the longest answer that fits a line."""
    taught = [e for e in examples if e.split_kind == "recall"]
    fitting = [e for e in taught if len(e.answer) <= LONGEST] or taught
    first = sorted(fitting, key=lambda e: sha256_text(f"erase:{seed}:{e.id}"))[:LOOKED_AT]
    return max(first, key=lambda e: len(e.answer), default=None)


def write(loaded: Loaded, folder: Path, tuned: dict[str, Any], config: Config, out: Path, report: Report) -> None:
    """Measure the memory of a result document, and write the measurement to `out`.

    Where that is impossible, `report` receives the reason, and an earlier file at `out` is removed.
    """
    examples = [Example(**{name: a[name] for name in ASKED}, answer=a["expected"]) for a in tuned["answers"]]
    example, reason = choose(examples, config.seed), ""
    if example is None:
        reason = "nothing was taught"
    elif (folder / table.WEIGHTS).stat().st_size > LARGEST:
        reason = f"the table is larger than {LARGEST >> 20} MiB, and would be copied"
    elif not any(one.fact.input.strip() == example.input.strip() for one in table.facts(folder)):
        reason = "the memory does not have the fact that is asked for"
    if example is None or reason:
        out.unlink(missing_ok=True)
        report(f"erasing a fact is not measured: {reason}")
        return
    measured = measure(loaded, folder, example, config.max_new_tokens)
    known = {name: tuned[name] for name in SAME}
    documents.write(out, {"document": "erased", **known, "provenance": documents.provenance(), **measured}, "erased")


def stored(place: Path, tuned: dict[str, Any]) -> dict[str, Any] | None:
    """The measurement in a run's folder, None without one; raises EngramError if it is of another run."""
    path = place / NAME
    if not path.is_file():
        return None
    document = documents.read(path, "erased", FIX)
    if unlike := documents.differing(document, tuned, SAME):
        what = "a fact was erased from another memory than the results are of"
        raise EngramError(what, where=str(path), problems=unlike, fix=FIX)
    for said in document["answers"].values():
        attribution.facts_of(said)
    return document


def measure(loaded: Loaded, folder: Path, example: Example, limit: int) -> dict[str, Any]:
    """Ask with the fact, which the memory must have, without it, with it put back, and without the memory.

    The fact is deleted from a temporary copy as by `engram memory delete`, and comes back with the same rows.
    """
    import numpy as np

    model, backend, encoder = loaded.model, backends.get(loaded.backend), load_encoder(loaded.model)
    prompt = encoder.prompt(example.prompt)

    def ask(place: Path | Opened | None) -> tuple[dict[str, Any], int, str]:
        """An answer as a document has it, its tokens with the question's, and the digest of the logits after them."""
        found = table.opened(place, model, backend.WEIGHTS) if place else None
        session = loaded.session(found)
        answer = backend.generate(session, [prompt], encoder.stop_ids, limit)[0]
        ids = [*prompt, *answer.tokens]
        written = {"answer": encoder.text(answer.tokens), "ended": answer.ended, "tokens": answer.tokens}
        noted = attribution.noted(attribution.reader(found), encoder, prompt, answer)
        return written | noted, len(ids), backend.digests(session, [ids])[0]

    opened = table.opened(folder, model, backend.WEIGHTS)
    known, contents, whole = table.settings(folder), table.read(folder), ask(opened)
    at = next(i for i, fact in enumerate(contents.facts) if fact.input.strip() == example.input.strip())
    fact, first, count = contents.facts[at], int(contents.firsts[at]), contents.entries[at].rows
    left = table.deleted(contents, [fact.input])
    placed = facts.place(encoder, addresses.frame(encoder), [fact])
    with tempfile.TemporaryDirectory(prefix="engram-") as name:
        copy, of = Path(name) / "memory", table.of(known)
        table.write(copy, of, left, folder)
        erased, kept = ask(copy), table.read(copy).rows
        table.write(copy, of, table.inserted(left, placed, contents.rows[first : first + count]), folder)
        restored = ask(copy)
    others = np.delete(contents.rows, slice(first, first + count), axis=0)
    without = ask(opened.without_memory())
    said = {"taught": whole, "erased": erased, "restored": restored, "without": without}
    return {
        "asked": {name: getattr(example, name) for name in ASKED} | {"expected": example.answer},
        "fact": {"input": fact.input, "output": fact.output},
        "under": known["adapter"],
        "rows": {"erased": count, "left": len(kept), "same": others.tobytes() == kept.tobytes()},
        "answers": {name: written for name, (written, _, _) in said.items()},
        "logits": {"same": erased[2] == without[2], "tokens": erased[1]},
    }
