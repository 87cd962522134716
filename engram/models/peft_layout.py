"""PEFT's layout: `adapter_config.json` of a LoraConfig, and `adapter_model.safetensors`.

A field of LoraConfig (peft 0.21) that is not known here is refused where it is set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from engram.models import adapters
from engram.models.adapters import Lora, grid, layers_of, number, whole_number
from engram.models.safetensors_file import Tensor

WEIGHTS = adapters.PEFT_WEIGHTS
FORMAT = "pt"
PREFIX = "base_model.model."
_NAME = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight")

# what is read, and what is about the file or the start of a training: any other field that is set changes the function
KNOWN = {
    *("peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "use_rslora", "bias"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights"),
    *("auto_mapping", "peft_version", "revision", "inference_mode", "runtime_config", "megatron_core"),
    *("qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
}
# the values that mean plain LoRA, a missing field's first. Of `init_lora_weights` those that only say where the factors
# start: every other one (pissa, olora, corda, loftq, lora_ga) changes the base weights too
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": (None, "CAUSAL_LM"),
    "bias": ("none",),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "mica"),
}


def read(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Lora:
    """The adapter that this configuration and these tensors describe; raises RefusedError with every reason not to."""
    problems = [f"{name}: not known here, and set" for name in settings if name not in KNOWN and settings[name]]
    for name, plain in PLAIN.items():
        if (value := settings.get(name, plain[0])) not in plain:
            problems.append(f"{name}: {value!r} is not plain LoRA")
    rank = whole_number(settings, "r", problems)
    alpha = number(settings, "lora_alpha", 8.0, problems, below=adapters.SCALE_LIMIT)
    dropout = number(settings, "lora_dropout", 0.0, problems, below=1)
    layers = layers_of(tensors, _NAME, lambda factor: factor, rank, problems)
    base = settings.get("base_model_name_or_path")
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    return Lora(rank, scale, dropout, base if isinstance(base, str) else None, _in_every_block(settings), layers)


def write(lora: Lora) -> dict[str, Any]:
    """The configuration: names in every block, a list of blocks, or, where the layers are no product, whole names."""
    known = grid(lora.layers)
    targets = sorted({name.split(".")[-1] for name in known.inside} | set(known.outside)) if known else [*lora.layers]
    settings = adapters.peft_settings(lora.rank, lora.scale * lora.rank, lora.dropout, lora.base, targets)
    if known and not (lora.every_block and known.whole):
        settings["layers_to_transform"] = known.blocks
    return settings


def tensors_of(lora: Lora) -> dict[str, Tensor]:
    """The tensors by PEFT's names: A [rank, inputs], B [outputs, rank]."""
    pairs = ((f"{PREFIX}{name}.lora_", factors) for name, factors in lora.layers.items())
    return {
        f"{name}{part}.weight": tensor for name, factors in pairs for part, tensor in zip("AB", factors, strict=True)
    }


def _in_every_block(settings: Mapping[str, Any]) -> bool:
    """Whether the same names are chosen in every block; a pattern, a list of blocks or a block's number may not be."""
    chosen = settings.get("target_modules") or []
    if settings.get("layers_to_transform") is not None or settings.get("exclude_modules"):
        return False
    if not isinstance(chosen, list):
        return str(chosen).lower() == "all-linear"
    return not any(part.isdigit() for name in chosen for part in str(name).split("."))
