"""Merge the adapter into its model: W + scale · B·A in float32, tensor by tensor, whatever backend trained it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from engram.models import safetensors_file
from engram.models.adapters import Lora, listed
from engram.models.model import Model, weight_files
from engram.models.safetensors_file import ITEM_BYTES, Entry, header
from engram.support.errors import EngramError, readable_errors
from engram.support.files import write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# the files of a model folder other than its weights
COPIED = (
    *("config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer.model"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.jinja", "chat_template.json", "LICENSE", "LICENSE.txt"),
)
FIX = "export the adapter alone (--format peft or mlx), or train another one; docs/export.md says what can be merged"


def check(model: Model, lora: Lora) -> dict[str, Entry]:
    """The model's tensors, each layer of the adapter found among them; raises EngramError with every reason not to."""
    found = tensors(model.path)
    problems = []
    if {"quantization", "quantization_config"} & model.config.keys():
        problems.append("quantization: the weights are quantized, and are not merged")
    if unknown := sorted({e.dtype for e in found.values()} - {*ITEM_BYTES}):
        problems.append(f"dtype: {', '.join(unknown)} (float32, float16 and bfloat16 are merged)")
    if missing := [name for name in lora.layers if f"{name}.weight" not in found]:
        tied = "; the output layer's weights are the embedding's" if any("lm_head" in name for name in missing) else ""
        problems.append(f"layers that the model does not have: {listed(missing)}{tied}")
    shapes = {n: (b.shape[0], a.shape[1]) for n, (a, b) in lora.layers.items() if n not in missing}
    if unlike := [name for name, shape in shapes.items() if found[f"{name}.weight"].shape != shape]:
        problems.append(f"another shape than the model's: {listed(unlike)}")
    if problems:
        raise EngramError(f"the adapter cannot be merged into {model.name}", where="export", problems=problems, fix=FIX)
    return found


def merged(name: str, entry: Entry, lora: Lora) -> NDArray[np.float32]:
    """One tensor of the model in float32, with the adapter's product added where it has one for this layer."""
    base = safetensors_file.as_float32(safetensors_file.raw(entry), entry.dtype, entry.shape)
    layer = name.removesuffix(".weight")
    if layer == name or layer not in lora.layers:
        return base
    a, b = (safetensors_file.as_float32(t.data, t.dtype, t.shape) for t in lora.layers[layer])
    return base + (b @ a) * base.dtype.type(lora.scale)


def write(model: Model, lora: Lora, folder: Path, wide: bool = False) -> str:
    """Write the merged model to an existing folder, in the base's files and order; return the dtypes' names.

    Every tensor keeps its dtype, and its bytes where it has no adapter; `wide` stores all of them in float32, so that
    nothing is rounded. Raises EngramError if the adapter does not fit the model, or a merged number the dtype.
    """
    check(model, lora)
    dtypes = set()
    for path in weight_files(model.path):
        head, entries = header(path)
        written = {name: "F32" if wide else entry.dtype for name, entry in entries.items()}
        dtypes |= {*written.values()}
        with readable_errors(folder / path.name, "write this file"), (folder / path.name).open("wb") as file:
            file.write(safetensors_file.float32_header({n: e.shape for n, e in entries.items()}) if wide else head)
            for name, entry in entries.items():
                file.write(_bytes(name, entry, lora, written[name]))
    for name in COPIED:
        if (model.path / name).is_file():
            with readable_errors(folder / name, "write this file"):
                shutil.copyfile(model.path / name, folder / name)
    if wide:
        said = {key: "float32" for key in ("dtype", "torch_dtype") if key in model.config}
        write_text(folder / "config.json", json.dumps(model.config | said, indent=2) + "\n")
    if model.chat_template:
        write_text(folder / "chat_template.jinja", model.chat_template)
    return ", ".join(sorted(dtypes))


def _bytes(name: str, entry: Entry, lora: Lora, dtype: str) -> bytes:
    if name.removesuffix(".weight") not in lora.layers and dtype == entry.dtype:
        return safetensors_file.raw(entry)
    try:
        return safetensors_file.as_bytes(merged(name, entry, lora), dtype)
    except ValueError as error:
        raise EngramError(f"{name}: {error}, merged", where="export", fix=FIX) from error


def tensors(folder: Path) -> dict[str, Entry]:
    """Every tensor of a model folder, whatever shard it lies in."""
    return {name: entry for path in weight_files(folder) for name, entry in header(path)[1].items()}
