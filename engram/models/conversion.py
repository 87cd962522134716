"""Convert LoRA adapters between the layouts of PEFT and mlx-lm, and back byte by byte.

What the other layout cannot hold (the text of the configuration, the order of the tensors) travels in the metadata of
the weights file, which both stock loaders ignore; PEFT would warn of an unknown key in the configuration. On the way
back it is used only where it still describes the same adapter.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from engram.models import adapters, mlx_layout, peft_layout, safetensors_file
from engram.models.adapters import Lora, RefusedError, grid
from engram.support import locks, strict_json
from engram.support.errors import EngramError, readable_errors
from engram.support.files import new_folder, read_bytes, write_bytes
from engram.support.text import visible

ORIGIN = "engram"  # the key in the weights file's metadata
NAMES = {"peft": adapters.PEFT_WEIGHTS, "mlx": adapters.MLX_WEIGHTS}  # as `--to` calls the layouts
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LAYOUTS: dict[str, ModuleType] = {layout.WEIGHTS: layout for layout in (mlx_layout, peft_layout)}


class Files(NamedTuple):
    """An adapter as its two files say it: the configuration's text, the weights' header and their tensors."""

    weights: str
    config: str
    header: str
    tensors: dict[str, safetensors_file.Tensor]


def read(folder: Path, preferred: str = "") -> Lora:
    """The adapter in a folder of either layout, `preferred` (a weights file's name) where both are there.

    Raises EngramError if it cannot be read, and, with every reason, where it is not plain LoRA on linear layers.
    """
    return _understood(_files(folder, preferred), folder)


def convert(source: Path, target: Path, to: str = "") -> str:
    """Write the adapter of folder `source` to the new folder `target` in the layout `to`; return the layout's name.

    `to` is `peft` or `mlx`, by default the one that `source` is not in. Raises EngramError, and writes nothing,
    where the adapter cannot be converted and where `target` holds something.
    """
    with readable_errors(target, "look into this folder"):
        place = target.resolve()  # the source too may be called by another name
        full = place.is_dir() and any(place.iterdir())
    if full:
        raise EngramError("something stands there already", where=str(target), fix="name a new folder, or empty it")
    weights = adapters.weights_file(source)
    wanted = NAMES[to] if to else next(name for name in _LAYOUTS if name != weights)
    if weights == wanted:
        what = f"already in {adapters.LAYOUTS[weights][0]}'s layout"
        raise EngramError(what, where=str(source), fix="copy the folder, or name the other layout with --to")
    made = _translated(_files(source), wanted, source)
    with locks.held(target, "engram adapter convert"), new_folder(target) as work:
        _write(made, work)
    return adapters.LAYOUTS[wanted][0]


@contextlib.contextmanager
def readable(folder: Path, weights: str) -> Iterator[Path]:
    """Yield a folder with this adapter in the layout of `weights`: its own, or a temporary one."""
    if adapters.weights_file(folder, weights) == weights:
        _files(folder, weights)
        yield folder
        return
    made = _translated(_files(folder), weights, folder)
    with readable_errors(Path(tempfile.gettempdir()), "make a folder here"):
        scratch = tempfile.TemporaryDirectory(prefix="engram-adapter-")
    with scratch as place:
        _write(made, Path(place))
        yield Path(place)


def describe(folder: Path) -> dict[str, str]:
    """Describe an adapter in named lines: layout, model, rank, scale, dropout, targets, layers, parameters, hash."""
    files, (_, digest) = _files(folder), adapters.read_adapter(folder)
    lora = _understood(files, folder)
    known = grid(lora.layers)
    return {
        "layout": adapters.LAYOUTS[files.weights][0],
        "model": lora.base or "not named",
        "rank": str(lora.rank),
        "scale": f"{lora.scale:.6g}",
        "dropout": f"{lora.dropout:g}",
        "targets": " ".join([*known.inside, *known.outside] if known else lora.layers),
        "blocks": ("every one, " if known.whole else "") + _ranges(known.blocks) if known else "differ by target",
        "layers": str(len(lora.layers)),
        "parameters": f"{sum(a.shape[0] * a.shape[1] + b.shape[0] * b.shape[1] for a, b in lora.layers.values()):,}",
        "dtype": " ".join(sorted({DTYPES[factor.dtype] for pair in lora.layers.values() for factor in pair})),
        "sha256": digest,
    }


def _ranges(blocks: list[int]) -> str:
    """`0-5`, or `0, 3` where there are gaps."""
    whole = len(blocks) > 1 and blocks == list(range(blocks[0], blocks[-1] + 1))
    return f"{blocks[0]}-{blocks[-1]}" if whole else ", ".join(map(str, blocks))


def _files(folder: Path, preferred: str = "") -> Files:
    weights = adapters.weights_file(folder, preferred)
    adapters.read_adapter(folder, weights)
    config = read_bytes(folder / adapters.CONFIG).decode("utf-8")
    header, tensors = safetensors_file.read(folder / weights)
    if wrong := [name for name, tensor in tensors.items() if not safetensors_file.is_finite(tensor)]:
        what = f"weights that are no numbers (NaN or infinite) in {len(wrong)} of {len(tensors)} tensors"
        problems = [visible(name) for name in wrong[:5]]
        raise EngramError(what, where=str(folder / weights), problems=problems, fix="copy or train the adapter again")
    return Files(weights, config, header, tensors)


def _understood(files: Files, folder: Path) -> Lora:
    try:
        lora: Lora = _LAYOUTS[files.weights].read(strict_json.parse(files.config.encode("utf-8")), files.tensors)
    except RefusedError as error:
        what = "not a plain LoRA adapter, as both layouts can hold it"
        fix = "train one without these, or merge it into its model; docs/adapters.md has the list"
        raise EngramError(what, where=str(folder), problems=error.args, fix=fix) from error
    return lora


def _translated(files: Files, wanted: str, folder: Path) -> Files:
    """Return the adapter in the wanted layout: its earlier files if it is still the same adapter, else new ones."""
    lora, layout = _understood(files, folder), _LAYOUTS[wanted]
    tensors = layout.tensors_of(lora)
    if once := _earlier(files, wanted, lora, tensors):
        return once
    origin = json.dumps({"config": files.config, "header": files.header})
    header = safetensors_file.new_header(tensors, {"format": layout.FORMAT, ORIGIN: origin})
    return Files(wanted, json.dumps(layout.write(lora), indent=2) + "\n", header, tensors)


def _earlier(files: Files, wanted: str, lora: Lora, tensors: dict[str, safetensors_file.Tensor]) -> Files | None:
    """The files that were converted into these, if they still give this adapter; None if not, or if none are kept."""
    back = _LAYOUTS[files.weights]
    try:
        known = json.loads(safetensors_file.metadata(files.header)[ORIGIN])
        once = Files(wanted, known["config"], known["header"], tensors)
        once.config.encode("utf-8")
        safetensors_file.pack(once.header, tensors)
        there = back.write(_LAYOUTS[wanted].read(json.loads(once.config), tensors))
        again: Lora = back.read(there, back.tensors_of(lora))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, RefusedError):
        return None
    return once if again == lora else None


def _write(files: Files, folder: Path) -> None:
    write_bytes(folder / adapters.CONFIG, files.config.encode("utf-8"))
    write_bytes(folder / files.weights, safetensors_file.pack(files.header, files.tensors))
