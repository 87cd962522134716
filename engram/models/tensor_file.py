"""Safetensors files as bytes: read whole and checked, transposed without rounding, written to a given header.

The library's own functions for NumPy know no bfloat16 and choose the order of the tensors by themselves; here a file
must come back byte by byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from engram.support.errors import EngramError
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

    Raises EngramError where the file is cut short or damaged in any way that safetensors notices.
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
    """What a checked header's `__metadata__` holds; empty where it has none."""
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

    Raises ValueError where the header is not one of exactly these names, shapes and dtypes.
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
    """Whether no number of a tensor is NaN or infinite; of dtypes that adapters do not have, nothing is said."""
    import numpy as np

    if tensor.dtype == "BF16":  # which NumPy lacks: all bits of the exponent are set
        return not bool(((np.frombuffer(tensor.data, "<u2") & 0x7F80) == 0x7F80).any())
    kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    return tensor.dtype not in kinds or bool(np.isfinite(np.frombuffer(tensor.data, kinds[tensor.dtype])).all())


def _deserialised(content: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The tensors of a safetensors file, by the library, which checks it; raises ValueError where it is not whole."""
    import safetensors

    untyped: Any = safetensors
    try:
        found: list[tuple[str, dict[str, Any]]] = untyped.deserialize(content)
    except untyped.SafetensorError as error:
        raise ValueError(str(error)) from error
    return found
