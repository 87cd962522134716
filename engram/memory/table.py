"""A memory on disk: rows and their addresses in one safetensors file, the facts, and the model they belong to.

Facts are inserted, deleted and merged in its `Contents`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engram.memory import addresses, lookup
from engram.memory.addresses import EMPTY, VERSION
from engram.memory.facts import Fact, Placed, named
from engram.memory.lookup import Memory
from engram.models import adapters, hub
from engram.models.model import Model
from engram.models.safetensors_file import header, metadata
from engram.models.tokenizer import load_encoder
from engram.support import schema, strict_json
from engram.support.errors import EngramError
from engram.support.files import new_folder, read_bytes, sha256, write_bytes, write_text
from engram.support.untrusted import refuse_links

WEIGHTS, SETTINGS, FACTS = "memory.safetensors", "memory.json", "facts.jsonl"
FIX = "make train METHOD=memory, or put the files back"


@dataclass(frozen=True)
class Of:
    """The model, tokenizer, adapter and block that a table works with; `adapter` is the SHA-256 of LoRA weights."""

    model: str
    weights_sha256: str
    tokenizer_sha256: str
    adapter: str | None
    layer: int
    width: int


class Entry(NamedTuple):
    """A fact in a table: how many rows it has, and the input lengths in tokens that its addresses use."""

    fact: Fact
    rows: int
    orders: tuple[int, ...]


@dataclass(frozen=True)
class Contents:
    """A table for editing: `rows` float32 [rows, width] in the order of the `entries`, and each address uint64 with its
    row uint32 in `numbers`."""

    entries: tuple[Entry, ...]
    rows: NDArray[np.float32]
    addresses: NDArray[np.uint64]
    numbers: NDArray[np.uint32]

    @property
    def facts(self) -> list[Fact]:
        """The facts."""
        return [one.fact for one in self.entries]

    @property
    def firsts(self) -> NDArray[np.int64]:
        """The first row of each fact."""
        return np.cumsum((0, *(one.rows for one in self.entries)))[:-1]


class Opened(NamedTuple):
    """A checked folder of `adapters/`: a LoRA adapter (`lora` is its folder), a memory read before block `layer`, or
    both. `sha256` identifies the weights: the memory's, which names the adapter under it, else the adapter's."""

    folder: Path
    sha256: str
    lora: Path | None
    memory: Memory | None
    layer: int = 0

    def without_memory(self) -> Opened | None:
        """The LoRA adapter alone; None if there is none."""
        return self._replace(memory=None) if self.lora else None


def is_memory(folder: Path) -> bool:
    """Whether the folder holds a table, complete or not."""
    return (folder / SETTINGS).is_file() or (folder / WEIGHTS).is_file()


def has_lora(folder: Path) -> bool:
    """Whether the folder holds the weights of a LoRA adapter."""
    return any((folder / name).is_file() for name in adapters.LAYOUTS)


def opened(folder: Path | Opened, model: Model, preferred: str = "") -> Opened:
    """Check and open a folder of `adapters/`; the table's arrays stay on disk. An opened folder is returned unchanged.

    `preferred` is the LoRA weights file to use if both layouts are there. Raises EngramError if files are missing or
    damaged, or a memory belongs to another model, tokenizer or adapter.
    """
    if isinstance(folder, Opened):
        return folder
    if not is_memory(folder):
        return Opened(folder, adapters.read_adapter(folder, preferred)[1], folder, None)
    refuse_links(folder, "copy the files into the folder")
    known = intact(folder)
    frame = addresses.frame(load_encoder(model))
    lora = folder if has_lora(folder) else None
    under = adapters.read_adapter(folder, preferred)[1] if lora else None
    right = {"weights_sha256": model.weights_sha256, "tokenizer_sha256": frame.sha256}
    refuse_other(folder, known, right | {"hash": VERSION, "adapter": under})
    arrays, orders = mapped(folder / WEIGHTS), tuple(sorted(known["orders"], reverse=True))
    memory = Memory(arrays["slots"], arrays["numbers"], known["addresses"], orders, frame, arrays["rows"])
    return Opened(folder, known["files"][WEIGHTS], lora, memory, int(known["layer"]))


def of(known: Mapping[str, Any]) -> Of:
    """The model and adapter that a table belongs to, from its settings."""
    return Of(**{name: known[name] for name in Of.__dataclass_fields__})


def write(folder: Path, of: Of, contents: Contents, lora: Path | None = None) -> None:
    """Replace the table of a folder, whole or not at all, with a copy of the LoRA adapter in the folder `lora`."""
    from safetensors.numpy import save

    with new_folder(folder) as work:
        if lora and has_lora(lora):
            for path in (lora / name for name in (*adapters.LAYOUTS, adapters.CONFIG)):
                if path.is_file():
                    write_bytes(work / path.name, read_bytes(path))
        slots, numbers = lookup.build(contents.addresses, contents.numbers)
        about = {"of": json.dumps(asdict(of))}  # one entry: safetensors writes several in any order
        write_bytes(work / WEIGHTS, save({"slots": slots, "numbers": numbers, "rows": contents.rows}, about))
        lines = [
            {"input": one.fact.input, "output": one.fact.output, "rows": one.rows, "orders": list(one.orders)}
            for one in contents.entries
        ]
        write_text(work / FACTS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        document = {
            "document": "memory",
            "schema_version": 1,
            "hash": VERSION,
            **asdict(of),
            "orders": sorted({order for one in contents.entries for order in one.orders}),
            "addresses": len(contents.addresses),
            "rows": len(contents.rows),
            "facts": len(contents.entries),
            "files": {name: sha256(work / name, hub.LARGEST) for name in (WEIGHTS, FACTS)},
        }
        schema.check(document, "memory", str(folder / SETTINGS))
        write_text(work / SETTINGS, json.dumps(document, indent=1) + "\n")


def settings(folder: Path) -> dict[str, Any]:
    """The content of `memory.json`; raises EngramError if it is missing or invalid."""
    path = folder / SETTINGS
    if not path.is_file():
        raise EngramError(f"no memory here: {SETTINGS} missing", where=str(folder), fix="make train METHOD=memory")
    document: dict[str, Any] = strict_json.read(path, FIX)
    schema.check(document, "memory", str(path), FIX)
    return document


def intact(folder: Path) -> dict[str, Any]:
    """The settings of a table whose files are unchanged since they were written; raises EngramError otherwise."""
    known = settings(folder)
    files = {folder / name: sha for name, sha in known["files"].items()}
    broken = [f.name for f, sha in files.items() if not f.is_file() or sha256(f, hub.LARGEST) != sha]
    if not broken:
        said = json.loads(metadata(header(folder / WEIGHTS)[0][8:].decode("utf-8")).get("of", "{}"))
        broken = [f"{SETTINGS}: {name}" for name in Of.__dataclass_fields__ if said.get(name) != known[name]]
    if broken:
        what = f"the memory is damaged: {', '.join(broken)} missing or changed since it was written"
        raise EngramError(what, where=str(folder), fix=FIX)
    return known


def refuse_other(folder: Path, known: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    """Raise an EngramError, with both values of each field, if a table does not belong to the `right` model."""
    sides = [(name, known[name], value) for name, value in right.items() if known[name] != value]
    if lines := [f"{name}: {str(there)[:12]} there, {str(here)[:12]} here" for name, there, here in sides]:
        what = f"this memory is of another model, adapter or layer (it was taught to {known['model']})"
        raise EngramError(what, where=str(folder), problems=lines, fix="teach it again: make train METHOD=…")


def mapped(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, mapped into memory; raises EngramError if it is cut short or not a table's."""
    kinds = {"U64": np.uint64, "U32": np.uint32, "F32": np.float32}
    arrays: dict[str, NDArray[Any]] = {}
    try:
        for name, one in header(path)[1].items():
            kind = kinds[one.dtype]
            # an empty array cannot be mapped
            arrays[name] = np.memmap(path, kind, "r", one.start, one.shape) if one.size else np.zeros(one.shape, kind)
        if arrays.keys() != {"slots", "numbers", "rows"}:
            raise ValueError("others are there")
    except (KeyError, ValueError) as error:
        raise EngramError(f"not the arrays of a memory ({error})", where=str(path), fix=FIX) from error
    return arrays


def read(folder: Path) -> Contents:
    """The table for editing, if it is `intact`; raises EngramError if its arrays cannot be read."""
    arrays = mapped(folder / WEIGHTS)
    taken = arrays["slots"] != EMPTY
    found, numbers = np.array(arrays["slots"])[taken], np.array(arrays["numbers"])[taken]
    order = np.lexsort((found, numbers))
    return Contents(tuple(facts(folder)), np.array(arrays["rows"]), found[order], numbers[order])


def facts(folder: Path) -> Iterator[Entry]:
    """The facts of a table that is `intact`."""
    for line in read_bytes(folder / FACTS).splitlines():
        known = strict_json.parse(line)
        yield Entry(Fact(known["input"], known["output"]), known["rows"], tuple(known["orders"]))


# --- editing: each of these makes a new table in which every other row keeps its bits


def empty(width: int) -> Contents:
    """A table without facts."""
    return Contents((), np.zeros((0, width), np.float32), np.zeros(0, np.uint64), np.zeros(0, np.uint32))


def inserted(known: Contents, placed: Sequence[Placed], rows: NDArray[np.float32]) -> Contents:
    """The table with these facts added; `rows` are those of all their answer tokens, float32 [tokens, width].

    Raises EngramError naming the facts that the table already has or contradicts.
    """
    refuse_known(known, placed)
    parts, numbers, first = [known.addresses], [known.numbers], len(known.rows)
    entries = [Entry(one.fact, len(one.tokens), tuple(sorted({count for count, _ in one.asked}))) for one in placed]
    for one in placed:
        parts.append(one.addresses.reshape(-1))
        numbers.append(np.tile(np.arange(first, first + len(one.tokens), dtype=np.uint32), len(one.asked)))
        first += len(one.tokens)
    added = np.concatenate([known.rows, rows]), np.concatenate(parts), np.concatenate(numbers)
    return Contents((*known.entries, *entries), *added)


def refuse_known(known: Contents, placed: Sequence[Placed]) -> None:
    """Raise an EngramError naming each fact that the table already has or that contradicts one of its facts."""
    slots, numbers = lookup.build(known.addresses, known.numbers)
    problems = []
    for one in placed:
        rows = lookup.find(slots, numbers, len(known.addresses), one.addresses[:, 0])
        if (rows != lookup.MISS).any():
            there = known.entries[int(np.searchsorted(known.firsts, rows.max(), side="right")) - 1].fact
            same = there.output == one.fact.output
            problems.append(f"{named(one.fact)}: {'is there already' if same else f'contradicts {named(there)}'}")
    if problems:
        what = f"{len(problems)} facts are refused, and nothing is changed"
        raise EngramError(what, where="memory", problems=problems[:20], fix="engram memory delete the old one first")


def deleted(known: Contents, inputs: Sequence[str]) -> Contents:
    """The table without the facts of these inputs; raises EngramError naming inputs that it does not have."""
    wanted = {text.lstrip() for text in inputs}
    if missing := wanted - {fact.input.lstrip() for fact in known.facts}:
        problems = sorted(missing)[:20]
        raise EngramError("no such fact", where="memory", problems=problems, fix="engram memory list shows the inputs")
    keep = [i for i, fact in enumerate(known.facts) if fact.input.lstrip() not in wanted]
    owner = np.repeat(np.arange(len(known.entries)), [one.rows for one in known.entries])
    kept = np.isin(owner, keep)
    moved = np.cumsum(kept) - 1
    stay = kept[known.numbers]
    numbers = moved[known.numbers[stay]].astype(np.uint32)
    return Contents(tuple(known.entries[i] for i in keep), known.rows[kept], known.addresses[stay], numbers)


def merged(one: Contents, other: Contents, placed: Sequence[Placed]) -> Contents:
    """Both tables in one; `placed` are the other's facts. Facts in both are taken from the first.

    Raises EngramError naming the facts that contradict each other.
    """
    known = set(one.facts)
    new = [i for i, fact in enumerate(other.facts) if fact not in known]
    rows = [other.rows[first : first + entry.rows] for first, entry in zip(other.firsts, other.entries)]
    return inserted(one, [placed[i] for i in new], np.concatenate([one.rows[:0], *(rows[i] for i in new)]))
