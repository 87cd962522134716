"""Safetensors files: the one reader of headers; tensors read one by one, transposed, converted, and written by bytes.

The library's own functions for NumPy know no bfloat16 and choose the order of the tensors by themselves; here a file
must come back byte by byte.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.support.errors import EngramError, readable_errors
from engram.support.files import read_bytes

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}  # the dtypes of adapters, by safetensors' names
METADATA = "__metadata__"


class Tensor(NamedTuple):
    """One tensor: safetensors' dtype name, shape, and its row-major bytes, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def read(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The header's JSON text, padding included, and the tensors of a safetensors file.

    Raises EngramError if the file is cut short or damaged in any way that safetensors notices.
    """
    content = read_bytes(path)
    try:
        found = _deserialised(content)
        header = content[8 : 8 + int.from_bytes(content[:8], "little")].decode("utf-8")
    except ValueError as error:
        what = f"not a whole safetensors file ({error})"
        raise EngramError(what, where=str(path), fix="copy or train the adapter again") from error
    return header, {name: Tensor(t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in found}


def metadata(header: str) -> dict[str, str]:
    """Return the `__metadata__` of a checked header; empty if it has none."""
    return dict(json.loads(header).get(METADATA) or {})


def new_header(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """A header for these tensors, in the order of their names, wide dtypes first so that each one is aligned.

    Padded with blanks to a multiple of eight bytes, as safetensors does it.
    """
    entries: dict[str, object] = {METADATA: dict(about)}
    start = 0
    for name in sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name].dtype], name)):
        dtype, shape, data = tensors[name]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + len(data)]}
        start += len(data)
    text = json.dumps(entries, separators=(",", ":"))
    return text + " " * (-len(text) % 8)


def pack(header: str, tensors: Mapping[str, Tensor]) -> bytes:
    """The file that has this header and these tensors, each where the header places it.

    Raises ValueError if the header is not one of exactly these names, shapes and dtypes.
    """
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != METADATA}
        described = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
        if described != {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}:
            raise ValueError("the header is of other tensors")
        order = sorted(entries, key=lambda name: entries[name]["data_offsets"][0])
        text = header.encode("utf-8")
        content = len(text).to_bytes(8, "little") + text + b"".join(tensors[name].data for name in order)
        _deserialised(content)  # its check of every offset and length
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"not a header: {error}") from error
    return content


def transposed(tensor: Tensor) -> Tensor:
    """The transpose of a tensor of two dimensions; the numbers move as bytes, so none is rounded."""
    import numpy as np

    rows, columns = tensor.shape
    items = np.frombuffer(tensor.data, dtype=f"<u{ITEM_BYTES[tensor.dtype]}").reshape(rows, columns)
    return Tensor(tensor.dtype, (columns, rows), items.T.tobytes())


def is_finite(tensor: Tensor) -> bool:
    """Whether every number of a tensor is finite; True for dtypes that adapters don't have."""
    import numpy as np

    if tensor.dtype == "BF16":  # which NumPy lacks: all bits of the exponent are set
        return not bool(((np.frombuffer(tensor.data, "<u2") & 0x7F80) == 0x7F80).any())
    kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    return tensor.dtype not in kinds or bool(np.isfinite(np.frombuffer(tensor.data, kinds[tensor.dtype])).all())


def _deserialised(content: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The tensors of a safetensors file, by the library, which checks it; raises ValueError if it is not whole."""
    import safetensors

    untyped: Any = safetensors
    try:
        found: list[tuple[str, dict[str, Any]]] = untyped.deserialize(content)
    except untyped.SafetensorError as error:
        raise ValueError(str(error)) from error
    return found


if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Entry(NamedTuple):
    """One tensor of a file: safetensors' dtype name, shape, and where its bytes lie."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def header(path: Path) -> tuple[bytes, dict[str, Entry]]:
    """A file's own first bytes (length and header), and its tensors in the order of their places in the file.

    Raises EngramError if the header does not describe the file.
    """
    try:
        with readable_errors(path, "read this file"), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = file.read(8)
            text = file.read(min(int.from_bytes(length, "little"), size))
        entries = {name: entry for name, entry in json.loads(text).items() if name != METADATA}
        found = {
            name: Entry(path, e["dtype"], tuple(e["shape"]), 8 + len(text) + e["data_offsets"][0], _size(e))
            for name, e in sorted(entries.items(), key=lambda item: item[1]["data_offsets"][0])
        }
        if 8 + len(text) + sum(entry.size for entry in found.values()) != size:
            raise ValueError("its length is not what the header says")
        if not all(isinstance(number, int) and number >= 0 for entry in found.values() for number in entry.shape):
            raise ValueError("a shape is not one of whole numbers")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        fix = "fetch, copy or make it again"
        raise EngramError(f"not a whole safetensors file ({error})", where=str(path), fix=fix) from error
    return length + text, found


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

    Raises ValueError if one is not finite in that dtype.
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
