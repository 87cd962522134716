"""PEFT's layout: `adapter_config.json` of a LoraConfig, and `adapter_model.safetensors`.

Every field of LoraConfig (peft 0.21) is decided here; a test holds the three tables against the installed peft.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from engram.models import adapters, peft_targets
from engram.models.lora import (
    SCALE_LIMIT,
    Key,
    Lora,
    RefusedError,
    grid,
    grouped,
    listed,
    number,
    pair,
    unusable,
    whole_number,
)
from engram.models.safetensors_file import Tensor

WEIGHTS = adapters.PEFT_WEIGHTS
FORMAT = "pt"
PREFIX = "base_model.model."
_NAME = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight")

HANDLED = {
    *("peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "use_rslora", "bias"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights"),
}
# about the file or the start of a training; none changes what the trained adapter computes
HARMLESS = {
    *("auto_mapping", "peft_version", "revision", "inference_mode", "runtime_config", "megatron_core"),
    *("qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
}
# fields that make it another function where they are set
REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "velora_config": "VeLoRA",
    "kasa_config": "KaSA",
    "use_bdlora": "BD-LoRA",
    "monteclora_config": "Monteclora",
    "arrow_config": "Arrow routing",
    "alora_invocation_tokens": "activated LoRA",
    "modules_to_save": "whole modules beside the factors",
    "trainable_token_indices": "trained embeddings",
    "ensure_weight_tying": "tied embeddings",
    "rank_pattern": "ranks that differ between layers",
    "alpha_pattern": "scales that differ between layers",
    "fan_in_fan_out": "transposed base weights",
    "lora_bias": "trained biases",
    "layer_replication": "repeated blocks",
    "megatron_config": "Megatron's parallel layers",
    "target_parameters": "LoRA on parameters of experts",
}
# where the factors start; every other method (pissa, olora, corda, loftq, lora_ga) changes the base weights too
STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
# tensors that have a name of their own
_PARTS = {
    "lora_magnitude_vector": "DoRA's magnitudes",
    "lora_embedding_": "LoRA on an embedding",
    "modules_to_save": "whole modules beside the factors",
    "lora_B.bias": "trained biases",
    "trainable_tokens": "trained embeddings",
    "base_layer": "weights of the base model",
}


def read(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Lora:
    """The adapter that this configuration and these tensors describe; raises RefusedError with every reason not to."""
    problems = _refused_settings(settings)
    rank = whole_number(settings, "r", problems)
    alpha = number(settings, "lora_alpha", 8.0, problems, below=SCALE_LIMIT)
    dropout = number(settings, "lora_dropout", 0.0, problems, below=1)
    targets = peft_targets.read(settings, problems)
    factors, reasons = _factors(tensors)
    layers = pair(factors, rank, problems)
    if stray := [name for name in layers if not targets.attach(name)]:
        problems.append(f"layers that target_modules and its like do not choose: {listed(stray)}")
    if problems := problems + grouped(reasons):
        raise RefusedError(problems)
    base = settings.get("base_model_name_or_path")
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    return Lora(rank, scale, dropout, base if isinstance(base, str) else None, targets.every_block, layers)


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


def _refused_settings(settings: Mapping[str, Any]) -> list[str]:
    problems = [f"{name}: {REFUSED[name]}" for name in settings if name in REFUSED and settings[name]]
    if settings.get("peft_type") != "LORA":
        problems.append(f"peft_type: {settings.get('peft_type')!r} is not LORA")
    if settings.get("task_type") not in (None, "CAUSAL_LM"):
        problems.append(f"task_type: {settings['task_type']!r} is not CAUSAL_LM")
    if settings.get("bias", "none") != "none":
        problems.append(f"bias: {settings['bias']!r}, trained biases")
    if settings.get("init_lora_weights") not in STARTS:
        problems.append(
            f"init_lora_weights: {settings['init_lora_weights']!r} changes the base weights, or is not known"
        )
    unknown = [name for name in settings if name not in {*HANDLED, *HARMLESS, *REFUSED} and settings[name]]
    return problems + [f"{name}: not known here, and set" for name in unknown]


def _factors(tensors: Mapping[str, Tensor]) -> tuple[dict[Key, Tensor], dict[str, str]]:
    """The factors by layer and part, and for every other tensor the reason why it is none."""
    factors, reasons = {}, {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        special = next((reason for part, reason in _PARTS.items() if part in name), "")
        reason = special or ("tensors with unknown names" if not match else unusable(match[1], tensor))
        if match and not reason:
            factors[match[1], match[2]] = tensor
        else:
            reasons[name] = reason
    return factors, reasons
