"""The merged model as one GGUF file, as llama.cpp reads it; matrices as f16 or q8_0, vectors as f32."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.export import fuse, gguf_settings
from engram.export.gguf_settings import ARCHITECTURES, Settings
from engram.export.weights import Entry
from engram.models.lora import Lora, listed
from engram.models.model import Model
from engram.plan.encoding import Encoder
from engram.support.errors import EngramError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUANTIZE = ("f16", "q8_0")
ROW = 32  # q8_0 packs a row in blocks of this many numbers
F16_LIMIT = 65504.0  # the largest finite number
FIX = "export another format: --format fused, peft or mlx"


def require() -> None:
    """Raise an EngramError where the package that writes GGUF files is not installed."""
    if not importlib.util.find_spec("gguf"):
        fix = "make setup-gguf, or pip install 'engram[gguf]'"
        raise EngramError("the package gguf is not installed", where="--format gguf", fix=fix)


def check(model: Model, lora: Lora, quantize: str) -> tuple[Settings, dict[str, Entry]]:
    """The model's settings and tensors; raises EngramError with everything that a GGUF file could not hold."""
    found = fuse.check(model, lora)
    settings, problems = gguf_settings.read(model)
    if settings:
        names = {name: _gguf_name(name, settings) for name in found}
        if unknown := [name for name, there in names.items() if not there]:
            problems.append(f"tensors: no name in llama.cpp for {listed(unknown)}")
        if biases := [name for name in found if name.endswith(".bias") and not _bias_is_known(name, settings)]:
            problems.append(f"biases: {listed(biases)}")
    odd = [name for name, entry in found.items() if len(entry.shape) == 2 and entry.shape[1] % ROW]
    if quantize == "q8_0" and odd:
        problems.append(f"q8_0: rows that are no multiple of {ROW} numbers long: {listed(odd)}")
    if problems or not settings:
        what = f"a GGUF file cannot hold {model.name}"
        raise EngramError(what, where="--format gguf", problems=problems, fix=FIX)
    return settings, found


def write(model: Model, lora: Lora, encoder: Encoder, pre: str, quantize: str, path: Path) -> None:
    """Write the merged model to the file `path`, one tensor at a time in memory.

    `pre` is llama.cpp's name of the pre-tokenizer. Raises EngramError as `check` does, and for a number that is too
    large for f16.
    """
    import gguf

    settings, found = check(model, lora, quantize)
    writer = gguf.GGUFWriter(path, ARCHITECTURES[settings.architecture])
    kinds = {name: _kind(entry, quantize) for name, entry in found.items()}
    gguf_settings.add(writer, settings, model.name, _file_type(quantize))
    gguf_settings.add_tokenizer(writer, model, encoder, settings.vocabulary, pre)
    for name, entry in found.items():
        block, size = gguf.GGML_QUANT_SIZES[kinds[name]]
        length = math.prod(entry.shape) // block * size
        writer.add_tensor_info(_gguf_name(name, settings), entry.shape, _any_dtype(), length, kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, entry in found.items():
        values = ordered(name, fuse.merged(name, entry, lora), settings)
        if not abs(values).max(initial=0.0) <= F16_LIMIT:  # a NaN is not below it either
            raise EngramError(f"{name}: a number does not fit {quantize}", where="--format gguf", fix=FIX)
        writer.write_tensor_data(gguf.quants.quantize(values, kinds[name]))
    writer.close()


def ordered(name: str, values: NDArray[np.float32], settings: Settings) -> NDArray[np.float32]:
    """The tensor with q's and k's rows in the order in which llama.cpp turns them.

    transformers turns (rope) each row i of a head with row i + size/2; llama.cpp's llama with its neighbour i + 1.
    """
    heads = {"q_proj": settings.heads, "k_proj": settings.kv_heads}.get(name.split(".")[-2])
    if heads is None or ARCHITECTURES[settings.architecture] != "llama":
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _gguf_name(name: str, settings: Settings) -> str:
    import gguf

    known = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}[ARCHITECTURES[settings.architecture]]
    names = gguf.get_tensor_name_map(known, settings.blocks)
    return names.get_name(name, try_suffixes=(".weight", ".bias")) or ""


def _bias_is_known(name: str, settings: Settings) -> bool:
    """llama.cpp's qwen2 has biases on q, k and v; those of the others are not tested here."""
    return settings.architecture == "Qwen2ForCausalLM" and name.split(".")[-2] in ("q_proj", "k_proj", "v_proj")


def _kind(entry: Entry, quantize: str) -> Any:
    import gguf

    kinds: Mapping[str, Any] = {"f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
    return kinds[quantize] if len(entry.shape) > 1 else gguf.GGMLQuantizationType.F32


def _file_type(quantize: str) -> int:
    import gguf

    return int({"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[quantize])


def _any_dtype() -> Any:
    """What the writer asks for and, told the kind of the tensor, does not use."""
    import numpy as np

    return np.dtype(np.float32)
