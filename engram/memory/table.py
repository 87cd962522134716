"""A memory on the disk: rows and their addresses in one safetensors file, the facts, and what they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.memory import index
from engram.memory.addresses import EMPTY, VERSION, Frame
from engram.memory.facts import Fact
from engram.memory.lookup import Index, Memory
from engram.models.model import LARGEST_SHARD, tensor_shapes
from engram.support import schema, strict_json
from engram.support.errors import EngramError
from engram.support.files import new_folder, read_bytes, sha256, write_bytes, write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS, SETTINGS, FACTS = "memory.safetensors", "memory.json", "facts.jsonl"
FIX = "make train METHOD=memory, or put the files back"


@dataclass(frozen=True)
class Of:
    """What a table belongs to: it answers with these alone. `adapter` is the SHA-256 of a LoRA adapter's weights."""

    model: str
    weights_sha256: str
    tokenizer_sha256: str
    adapter: str | None
    layer: int
    width: int


@dataclass(frozen=True)
class Contents:
    """A table in memory: `rows` float32 [rows, width] in the order of the facts, `counts` how many each fact has,
    `ways` how many tokens of what was asked its addresses hold, and each address uint64 with its row uint32."""

    facts: tuple[Fact, ...]
    counts: tuple[int, ...]
    ways: tuple[tuple[int, ...], ...]
    rows: NDArray[np.float32]
    addresses: NDArray[np.uint64]
    numbers: NDArray[np.uint32]

    @property
    def firsts(self) -> NDArray[np.int64]:
        """The first row of each fact."""
        import numpy as np

        return np.cumsum((0, *self.counts))[:-1]


def is_memory(folder: Path) -> bool:
    """Whether a table lies in this folder, whole or not."""
    return (folder / SETTINGS).is_file() or (folder / WEIGHTS).is_file()


def of(known: Mapping[str, Any]) -> Of:
    """What a table belongs to, from its settings."""
    return Of(**{name: known[name] for name in Of.__dataclass_fields__})


def write(folder: Path, of: Of, contents: Contents, beside: Sequence[Path] = ()) -> None:
    """Write a table, whole or not at all, in the place of the one that is there; files of `beside` go with it."""
    with new_folder(folder) as work:
        for path in beside:
            write_bytes(work / path.name, read_bytes(path))
        write_weights(work / WEIGHTS, contents, of)
        lines = [
            {"input": fact.input, "output": fact.output, "rows": count, "orders": list(orders)}
            for fact, count, orders in zip(contents.facts, contents.counts, contents.ways)
        ]
        write_text(work / FACTS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        files = {name: sha256(work / name, LARGEST_SHARD) for name in (WEIGHTS, FACTS)}
        document = {
            "document": "memory",
            "schema_version": 1,
            "hash": VERSION,
            **asdict(of),
            "orders": sorted({order for orders in contents.ways for order in orders}),
            "addresses": len(contents.addresses),
            "rows": len(contents.rows),
            "facts": len(contents.facts),
            "files": files,
        }
        schema.check(document, "memory", str(folder / SETTINGS))
        write_text(work / SETTINGS, json.dumps(document, indent=1) + "\n")


def write_weights(path: Path, contents: Contents, of: Of) -> None:
    """The arrays as a safetensors file, which says itself what it belongs to."""
    from safetensors.numpy import save

    slots, numbers = index.build(contents.addresses, contents.numbers)
    about = {"of": json.dumps(asdict(of))}  # one entry: safetensors writes several in any order
    write_bytes(path, save({"slots": slots, "numbers": numbers, "rows": contents.rows}, about))


def settings(folder: Path) -> dict[str, Any]:
    """What `memory.json` says; raises EngramError where there is none, or where it is not one."""
    path = folder / SETTINGS
    if not path.is_file():
        raise EngramError(f"no memory here: {SETTINGS} missing", where=str(folder), fix="make train METHOD=memory")
    document = strict_json.read(path, FIX)
    schema.check(document, "memory", str(path), FIX)
    checked: dict[str, Any] = document
    return checked


def intact(folder: Path) -> dict[str, Any]:
    """The settings of a table whose files are as they were written; raises EngramError where one is not."""
    known = settings(folder)
    broken = [
        name
        for name, digest in known["files"].items()
        if not (folder / name).is_file() or sha256(folder / name, LARGEST_SHARD) != digest
    ]
    if not broken:
        there = json.loads(_header(folder / WEIGHTS).get("__metadata__", {}).get("of", "{}"))
        broken = [f"{SETTINGS}: {name}" for name in Of.__dataclass_fields__ if there.get(name) != known[name]]
    if broken:
        what = f"the memory is damaged: {', '.join(broken)} missing or changed since it was written"
        raise EngramError(what, where=str(folder), fix=FIX)
    return known


def refuse_other(folder: Path, known: dict[str, Any], right: Mapping[str, Any]) -> None:
    """Raise an EngramError, naming each field with both values, where a table does not belong to what is `right`."""
    differing = {name: value for name, value in right.items() if known[name] != value}
    lines = [f"{name}: {shown(known[name])} there, {shown(value)} here" for name, value in differing.items()]
    if lines:
        what = f"this memory is of another model, adapter or layer (it was taught to {known['model']})"
        raise EngramError(what, where=str(folder), problems=lines, fix="teach it anew: make train METHOD=memory")


def shown(value: Any) -> str:
    """A value of the settings, hashes by their first digits."""
    return value[:12] if isinstance(value, str) else str(value)


def opened(folder: Path, frame: Frame, known: dict[str, Any]) -> Memory:
    """The table with its arrays left on the disk: what is never asked for is never read."""
    arrays = _sound(folder / WEIGHTS, known)
    found = Index(arrays["slots"], arrays["numbers"], known["addresses"], tuple(sorted(known["orders"], reverse=True)))
    return Memory(found, frame, arrays["rows"])


def mapped(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, mapped into memory; raises EngramError where it is not whole."""
    import numpy as np

    tensor_shapes(path)  # its length is what its header says
    kinds = {"U64": np.uint64, "U32": np.uint32, "F32": np.float32}
    header = _header(path)
    size = int(header.pop("__size__"))
    header.pop("__metadata__", None)
    arrays: dict[str, NDArray[Any]] = {}
    try:
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            kind, shape = kinds[entry["dtype"]], tuple(entry["shape"])
            if begin == end:  # nothing cannot be mapped
                arrays[name] = np.zeros(shape, kind)
            else:
                arrays[name] = np.memmap(path, kind, "r", 8 + size + begin, shape)
    except (KeyError, ValueError) as error:
        raise EngramError(f"not the arrays of a memory ({error})", where=str(path), fix=FIX) from error
    return arrays


def _sound(path: Path, known: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays, in which every search ends and every row number has a row; raises EngramError where not."""
    arrays = mapped(path)
    slots, numbers, rows = (arrays.get(name) for name in ("slots", "numbers", "rows"))
    sound = (
        slots is not None
        and numbers is not None
        and rows is not None
        and slots.ndim == numbers.ndim == 1
        and len(slots) == len(numbers) >= index.fewest(known["addresses"])
        and rows.shape == (known["rows"], known["width"])
        and slots[-1] == EMPTY
        and int((slots != EMPTY).sum()) == known["addresses"]
        and (not known["addresses"] or int(numbers[slots != EMPTY].max()) < len(rows))
    )
    if not sound:
        raise EngramError("the arrays of this memory do not fit together", where=str(path), fix=FIX)
    return arrays


def _header(path: Path) -> dict[str, Any]:
    """A safetensors file's header, and how long it is, `__size__`."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return {**json.loads(file.read(size)), "__size__": size}


def read(folder: Path) -> Contents:
    """The table as it is edited; raises EngramError where its facts or its arrays cannot be read."""
    import numpy as np

    arrays = _sound(folder / WEIGHTS, settings(folder))
    lines = list(_facts(folder / FACTS))
    if sum(int(line["rows"]) for line in lines) != len(arrays["rows"]):
        raise EngramError("the facts of this memory do not fit its rows", where=str(folder / FACTS), fix=FIX)
    slots = np.array(arrays["slots"])
    taken = slots != EMPTY
    addresses, numbers = slots[taken], np.array(arrays["numbers"])[taken]
    order = np.lexsort((addresses, numbers))
    return Contents(
        tuple(Fact(line["input"], line["output"]) for line in lines),
        tuple(int(line["rows"]) for line in lines),
        tuple(tuple(map(int, line["orders"])) for line in lines),
        np.array(arrays["rows"]),
        addresses[order],
        numbers[order],
    )


def facts(folder: Path) -> tuple[list[Fact], list[int]]:
    """The facts of a table and how many rows each has; raises EngramError where they cannot be read."""
    lines = [(Fact(line["input"], line["output"]), int(line["rows"])) for line in _facts(folder / FACTS)]
    return [fact for fact, _ in lines], [count for _, count in lines]


def _facts(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        try:
            document = strict_json.parse(line)
            if not isinstance(document["input"], str) or not isinstance(document["output"], str):
                raise ValueError("input and output must be text")
            yield document
        except (ValueError, KeyError, TypeError) as error:
            raise EngramError(f"a fact cannot be read: {error}", where=f"{path}:{number}", fix=FIX) from error
