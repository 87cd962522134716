"""Adapters from elsewhere, in both layouts: their configuration, header or weights spoiled."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from engram.models import adapters, conversion, safetensors_file
from engram.models.safetensors_file import Tensor
from tools.torture import nasty
from tools.torture.hunt import Case, read

RANK, SIZE = 2, 4
LAYERS = [f"model.layers.{block}.self_attn.{name}" for block in (0, 1) for name in ("q_proj", "v_proj")]
PEFT = adapters.peft_settings(RANK, 4.0, 0.0, "tiny", ["q_proj", "v_proj"]) | {"layers_to_transform": None}
MLX = {
    "fine_tune_type": "lora", "model": "tiny", "num_layers": -1,
    "lora_parameters": {"rank": RANK, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "self_attn.v_proj"]},
}  # fmt: skip
WEIGHTS = {"peft": adapters.PEFT_WEIGHTS, "mlx": adapters.MLX_WEIGHTS}
CONFIGS: dict[str, dict[str, Any]] = {"peft": PEFT, "mlx": MLX}


@functools.cache
def weights(layout: str) -> tuple[dict[str, Any], bytes]:
    """The header and the tensors' bytes of a small adapter."""
    tensor = {True: Tensor("F32", (RANK, SIZE), b"\0" * 32), False: Tensor("F32", (SIZE, RANK), b"\0" * 32)}
    if layout == "peft":
        names = {f"base_model.model.{n}.lora_{p}.weight": tensor[p == "A"] for n in LAYERS for p in "AB"}
    else:
        names = {f"{n}.lora_{p}": tensor[p == "b"] for n in LAYERS for p in "ab"}
    header = safetensors_file.new_header(names, {"format": "pt"})
    return json.loads(header), b"\0" * 32 * len(names)


def adapters_cases(_: Path) -> st.SearchStrategy[Case]:
    """An adapter with its configuration, its header or its bytes spoiled."""
    return st.sampled_from(("peft", "mlx")).flatmap(
        lambda layout: st.builds(Case, st.just(f"adapter, {layout}"), _adapter(layout))
    )


@st.composite
def _adapter(draw: st.DrawFn, layout: str) -> tuple[bytes, bytes]:
    config, (header, data) = CONFIGS[layout], weights(layout)
    part = draw(st.sampled_from(("config", "config", "header", "metadata", "bytes")))
    if part == "config":
        config = draw(nasty.spoiled(config))
    elif part == "header":
        header = draw(nasty.spoiled(header))
    elif part == "metadata":
        known = {"config": draw(_text_of(CONFIGS)), "header": draw(_text_of({"a": header}))}
        header = header | {
            "__metadata__": {"engram": nasty.dumps(draw(st.one_of(st.just(known), nasty.spoiled(known))))}
        }
    file = safetensors(nasty.dumps(header), data)
    if part == "bytes":
        file = draw(nasty.damaged(file))
    return nasty.dumps(config).encode("utf-8", "surrogatepass"), file


def _text_of(documents: dict[str, Any]) -> st.SearchStrategy[str]:
    return st.sampled_from(list(documents.values())).flatmap(
        lambda document: st.one_of(st.just(document), nasty.spoiled(document)).map(nasty.dumps)
    )


def safetensors(header: str, data: bytes) -> bytes:
    """A file of this header and data."""
    text = header.encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + data


def check_adapters(case: Case, folder: Path) -> Any:
    """Describe the adapter, convert it, and convert it back."""
    layout = case.kind.split()[-1]
    source, there, back = (folder / name for name in ("adapter", "there", "back"))
    for place in (source, there, back):
        shutil.rmtree(place, ignore_errors=True)
    source.mkdir()
    config, file = case.content
    (source / adapters.CONFIG).write_bytes(config)
    (source / WEIGHTS[layout]).write_bytes(file)
    described = read(lambda: conversion.describe(source), "adapter", place=False)
    if read(lambda: conversion.convert(source, there), "adapter", place=False) is None:
        return None
    assert described is not None, "described and converted do not agree"
    read(lambda: conversion.convert(there, back), "there", place=False)
    assert (back / adapters.CONFIG).read_bytes() == config, "the configuration came back changed"
    assert (back / WEIGHTS[layout]).read_bytes() == file, "the weights came back changed"
    return described
