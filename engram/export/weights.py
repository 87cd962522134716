"""A model's safetensors files read tensor by tensor, so that a model never has to fit into memory twice."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engram.models.model import weight_files
from engram.models.tensor_file import ITEM_BYTES, METADATA
from engram.support.errors import EngramError, readable_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIX = "fetch or copy the model again"


class Entry(NamedTuple):
    """One tensor of a file: safetensors' dtype name, shape, and where its bytes lie."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def header(path: Path) -> tuple[bytes, dict[str, Entry]]:
    """A file's own first bytes (length and header), and its tensors in the order in which they lie.

    Raises EngramError where the header does not describe the file.
    """
    try:
        with readable_errors(path, "read this file"), path.open("rb") as file:
            length = file.read(8)
            text = file.read(min(int.from_bytes(length, "little"), path.stat().st_size))
        entries = {name: entry for name, entry in json.loads(text).items() if name != METADATA}
        found = {
            name: Entry(path, e["dtype"], tuple(e["shape"]), 8 + len(text) + e["data_offsets"][0], _size(e))
            for name, e in sorted(entries.items(), key=lambda item: item[1]["data_offsets"][0])
        }
        if 8 + len(text) + sum(entry.size for entry in found.values()) != path.stat().st_size:
            raise ValueError("it is shorter or longer than its header says")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise EngramError(f"not a whole safetensors file ({error})", where=path.name, fix=FIX) from error
    return length + text, found


def tensors(folder: Path) -> dict[str, Entry]:
    """Every tensor of a model folder, whatever shard it lies in."""
    return {name: entry for path in weight_files(folder) for name, entry in header(path)[1].items()}


def raw(entry: Entry) -> bytes:
    """The tensor's bytes as they lie in the file."""
    with readable_errors(entry.file, "read this file"), entry.file.open("rb") as file:
        file.seek(entry.start)
        return file.read(entry.size)


def as_float32(data: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The numbers of a tensor (`F32`, `F16`, `BF16`) in float32, exactly."""
    import numpy as np

    if dtype == "BF16":
        wide = np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(shape)
    return np.frombuffer(data, dtype="<f4" if dtype == "F32" else "<f2").astype(np.float32).reshape(shape)


def as_bytes(values: NDArray[np.float32], dtype: str) -> bytes:
    """The numbers in another dtype, each rounded to the nearest, ties to even.

    Raises ValueError where one is not finite in that dtype.
    """
    import numpy as np

    if dtype == "BF16":
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        narrow = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        finite = ((narrow & 0x7F80) != 0x7F80).all() and np.isfinite(values).all()
    else:
        with np.errstate(over="ignore"):
            narrow = values.astype("<f4" if dtype == "F32" else "<f2")
        finite = np.isfinite(narrow).all()
    if not finite:
        raise ValueError(f"a number does not fit {dtype}")
    return narrow.tobytes()


def float32_header(entries: Mapping[str, Entry]) -> bytes:
    """The first bytes of a file that holds these tensors, in this order, in float32."""
    said: dict[str, object] = {METADATA: {"format": "pt"}}
    start = 0
    for name, entry in entries.items():
        end = start + 4 * math.prod(entry.shape)
        said[name] = {"dtype": "F32", "shape": list(entry.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(said, separators=(",", ":"))
    text += " " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text.encode("ascii")


def _size(entry: dict[str, list[int]]) -> int:
    start, end = entry["data_offsets"]
    wanted = ITEM_BYTES.get(str(entry["dtype"]))
    if wanted and math.prod(entry["shape"]) * wanted != end - start:
        raise ValueError("shape and length of a tensor disagree")
    return end - start


def pieces(folder: Path) -> Iterator[tuple[Path, bytes, dict[str, Entry]]]:
    """Each weights file of a model folder, its header's bytes, and its tensors in the order in which they lie."""
    for path in weight_files(folder):
        yield path, *header(path)
