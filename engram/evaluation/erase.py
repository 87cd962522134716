"""A fact erased from a copy of a memory, and put back: asked before, between and after, beside the model without it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import backends
from engram.dataset.rows import ASKED, Example
from engram.evaluation import attribution
from engram.memory import addresses, edit, facts, table
from engram.memory.facts import Fact
from engram.memory.table import Opened
from engram.models.model import Model
from engram.plan import documents
from engram.plan.config import Config
from engram.plan.encoding import Encoder, load_encoder
from engram.support.errors import EngramError
from engram.support.files import sha256_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME, FIX = "erased.json", "make eval METHOD=memory"
LARGEST = 1 << 28  # bytes of a table that is copied for it
LOOKED_AT, LONGEST = 8, 40  # questions among which one is chosen, and characters of its answer
SAME = ("schema_version", "backend", "device", "model", "adapter", "data", "recipe")  # as in the result beside it


def choose(examples: Sequence[Example], seed: int) -> Example | None:
    """The question that is asked, None where nothing was taught: by hash, then the longest answer that fits a line."""
    taught = [e for e in examples if e.split_kind == "recall"]
    fitting = [e for e in taught if len(e.answer) <= LONGEST] or taught
    first = sorted(fitting, key=lambda e: sha256_text(f"erase:{seed}:{e.id}"))[:LOOKED_AT]
    return max(first, key=lambda e: len(e.answer), default=None)


def write(
    model: Model, folder: Path, tuned: dict[str, Any], config: Config, out: Path, report: Callable[[str], None]
) -> None:
    """Measure it of the memory that a result document is of, and write that to `out`.

    Where it cannot be measured, `report` hears why, and no file of another memory is left there.
    """
    examples = [Example(**{name: a[name] for name in ASKED}, answer=a["expected"]) for a in tuned["answers"]]
    example = choose(examples, config.seed)
    reason = "nothing was taught" if example is None else missing(folder, example)
    if example is None or reason:
        out.unlink(missing_ok=True)
        report(f"erasing a fact is not measured: {reason}")
        return
    measured = measure(tuned["backend"], model, folder, example, config)
    known = {name: tuned[name] for name in SAME}
    documents.write(out, {"document": "erased", **known, "provenance": documents.provenance(), **measured}, "erased")


def stored(place: Path, tuned: dict[str, Any]) -> dict[str, Any] | None:
    """What was measured of the run in `place`, None where it was not; raises EngramError where it is of another run."""
    path = place / NAME
    if not path.is_file():
        return None
    document = documents.read(path, "erased", FIX)
    if unlike := documents.differing(document, tuned, SAME):
        raise EngramError(
            "a fact was erased from another memory than the results are of", where=str(path), problems=unlike, fix=FIX
        )
    for said in document["answers"].values():
        attribution.facts_of(said)
    return document


def missing(folder: Path, example: Example) -> str:
    """Why a question's fact cannot be erased from the memory of this folder; nothing where it can."""
    if (folder / table.WEIGHTS).stat().st_size > LARGEST:
        return f"the table is larger than {LARGEST >> 20} MiB, and would be copied"
    known = [one.fact for one in table.facts(folder)]
    return "" if any(_is_of(fact, example) for fact in known) else "the memory does not have the fact that is asked for"


def measure(backend_name: str, model: Model, folder: Path, example: Example, config: Config) -> dict[str, Any]:
    """Ask with the fact, without it, with it put back, and without the memory; `missing` must say nothing.

    The fact goes from a copy in a folder for the time being, by what `engram memory delete` does, and comes back with
    the same rows; the memory itself is only read.
    """
    import numpy as np

    encoder = load_encoder(model)
    asker = _Asker(backend_name, model, encoder, encoder.prompt(example.prompt), config)
    opened = table.opened(folder, model, backends.get(backend_name).WEIGHTS)
    known, whole = table.settings(folder), asker.ask(opened)
    contents = table.read(folder)
    at = next(i for i, fact in enumerate(contents.facts) if _is_of(fact, example))
    fact, first, count = contents.facts[at], int(contents.firsts[at]), contents.entries[at].rows
    left = edit.deleted(contents, [fact.input])
    placed = facts.place(encoder, addresses.frame(encoder), [fact])
    with tempfile.TemporaryDirectory(prefix="engram-") as name:
        copy, of = Path(name) / "memory", table.of(known)
        table.write(copy, of, left, folder)
        erased, kept = asker.ask(copy), table.read(copy).rows
        back = edit.inserted(left, placed, contents.rows[first : first + count])
        table.write(copy, of, back, folder)
        restored = asker.ask(copy)
    without = asker.ask(opened.without_memory())
    others = _same(np.delete(contents.rows, slice(first, first + count), axis=0), kept)
    said = {"taught": whole, "erased": erased, "restored": restored, "without": without}
    return {
        "asked": {name: getattr(example, name) for name in ASKED} | {"expected": example.answer},
        "fact": {"input": fact.input, "output": fact.output},
        "under": known["adapter"],
        "rows": {"erased": count, "left": len(kept), "same": others},
        "answers": {name: one.written for name, one in said.items()},
        "logits": {"same": erased.logits == without.logits, "tokens": erased.tokens},
    }


class _Said(NamedTuple):
    """An answer as it is written, how many tokens it has with its question, and the digest of the logits after them."""

    written: dict[str, Any]
    tokens: int
    logits: str


class _Asker(NamedTuple):
    """One question, for a model with whatever lies in a folder."""

    backend: str
    model: Model
    encoder: Encoder
    prompt: list[int]
    config: Config

    def ask(self, folder: Path | Opened | None) -> _Said:
        backend = backends.get(self.backend)
        opened = table.opened(folder, self.model, backend.WEIGHTS) if folder else None
        session = backend.load(self.model, opened, self.config.quantize)
        limit = self.config.max_new_tokens
        answer = backend.generate(session, [self.prompt], self.encoder.stop_ids, limit)[0]
        ids = [*self.prompt, *answer.tokens]
        written = {"answer": self.encoder.text(answer.tokens), "ended": answer.ended, "tokens": answer.tokens}
        reader = attribution.reader(opened)
        noted = attribution.noted(reader, self.encoder, self.prompt, answer)
        return _Said(written | noted, len(ids), backend.digests(session, [ids])[0])


def _is_of(fact: Fact, example: Example) -> bool:
    return fact.input.strip() == example.input.strip()


def _same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two arrays are alike in shape and in every bit."""
    return one.shape == other.shape and one.tobytes() == other.tobytes()
