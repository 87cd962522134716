"""Safetensors files: the one reader of headers; tensors read one by one, transposed, converted, and written by bytes.

The library's own functions for NumPy know no bfloat16 and choose the order of the tensors; here every byte comes back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.support.errors import EngramError, readable_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    head, entries = header(path)
    return head[8:].decode("utf-8"), {name: Tensor(e.dtype, e.shape, raw(e)) for name, e in entries.items()}


def metadata(header: str) -> dict[str, str]:
    """Return the `__metadata__` of a checked header; empty if it has none."""
    return dict(json.loads(header).get(METADATA) or {})


def new_header(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """A header for these tensors, in the order of their names, wide dtypes first so that each one is aligned."""
    order = sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name].dtype], name))
    return _header_text({name: (tensors[name].dtype, tensors[name].shape) for name in order}, about)


def float32_header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """The first bytes of a file that holds tensors of these shapes, in this order, in float32."""
    text = _header_text({name: ("F32", shape) for name, shape in shapes.items()}, {"format": "pt"})
    return len(text).to_bytes(8, "little") + text.encode("ascii")


def _header_text(described: Mapping[str, tuple[str, tuple[int, ...]]], about: Mapping[str, str]) -> str:
    """The header of tensors of these dtypes and shapes, padded with blanks as safetensors does it."""
    entries: dict[str, object] = {METADATA: dict(about)}
    start = 0
    for name, (dtype, shape) in described.items():
        end = start + math.prod(shape) * ITEM_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"))
    return text + " " * (-len(text) % 8)


def pack(header: str, tensors: Mapping[str, Tensor]) -> bytes:
    """The file that has this header and these tensors, each where the header places it.

    Raises ValueError if the header is not one of exactly these names, shapes and dtypes.
    """
    import safetensors

    untyped: Any = safetensors
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != METADATA}
        described = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
        if described != {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}:
            raise ValueError("the header is of other tensors")
        order = sorted(entries, key=lambda name: entries[name]["data_offsets"][0])
        text = header.encode("utf-8")
        content = len(text).to_bytes(8, "little") + text + b"".join(tensors[name].data for name in order)
        untyped.deserialize(content)  # its check of every offset and length
    except (untyped.SafetensorError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
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

    dtype, shape, data = tensor
    return dtype not in ITEM_BYTES or bool(np.isfinite(as_float32(data, dtype, shape)).all())


class Entry(NamedTuple):
    """One tensor of a file: safetensors' dtype name, shape, and where its bytes lie."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def header(path: Path) -> tuple[bytes, dict[str, Entry]]:
    """A file's own first bytes (length and header), and its tensors in the order of their places in the file.

    Raises EngramError if the header does not describe the file, as safetensors checks it.
    """
    from safetensors import SafetensorError, safe_open

    with readable_errors(path, "read this file"):
        try:
            with path.open("rb") as file, safe_open(path, "numpy"):
                head = file.read(8)
                head += file.read(int.from_bytes(head, "little"))
        except SafetensorError as error:
            what, fix = f"not a whole safetensors file ({error})", "fetch, copy or make it again"
            raise EngramError(what, where=str(path), fix=fix) from error
    said = {name: entry for name, entry in json.loads(head[8:]).items() if name != METADATA}
    entries = {}
    for name, entry in sorted(said.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = entry["data_offsets"]
        entries[name] = Entry(path, entry["dtype"], tuple(entry["shape"]), len(head) + start, end - start)
    return head, entries


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
    """The numbers in another dtype, rounded to nearest, ties to even; raises ValueError if one isn't finite in it."""
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
