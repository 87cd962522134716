"""PEFT's layout: `adapter_config.json` of a LoraConfig, and `adapter_model.safetensors`.

Every field of LoraConfig (peft 0.21) is decided here; a test holds the three tables against the installed peft.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engram.models import adapters
from engram.models.adapters import (
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
    "modules_to_save": "whole modules next to the factors",
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
    "modules_to_save": "whole modules next to the factors",
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
    targets = read_targets(settings, problems)
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
    """Return the factors by layer and part, and for every other tensor the reason why it isn't one."""
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


_BLOCK = r".*?\.[^.]*\.(?P<index>\d+)\."


@dataclass(frozen=True)
class Targets:
    """The fields that choose layers. A string is a regular expression (`all-linear` aside), a list holds name ends."""

    chosen: str | list[str] | None
    excluded: str | list[str] | None
    blocks: list[int] | None
    patterns: list[str]

    @property
    def every_block(self) -> bool:
        """Whether the same names are chosen in every block of the model."""
        if self.blocks is not None or self.excluded or (isinstance(self.chosen, str) and not self._all_linear):
            return False
        return not any(part.isdigit() for name in self.chosen or () for part in name.split("."))

    @property
    def _all_linear(self) -> bool:
        return isinstance(self.chosen, str) and self.chosen.lower() == "all-linear"

    def attach(self, name: str) -> bool:
        """Whether the layer of this name gets LoRA; without a choice PEFT decides by architecture."""
        if self.excluded and _matches(self.excluded, name):
            return False
        if self.chosen is None or self._all_linear:
            return self._in_blocks(name)
        if isinstance(self.chosen, str) or name in self.chosen:
            return _matches(self.chosen, name)
        return _matches(self.chosen, name) and self._in_blocks(name)

    def _in_blocks(self, name: str) -> bool:
        if self.blocks is None:
            return True
        patterns = [rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\." for pattern in self.patterns] or [_BLOCK]
        found = next((match for pattern in patterns if (match := re.match(pattern, name))), None)
        return found is not None and int(found["index"]) in self.blocks


def read_targets(settings: Mapping[str, Any], problems: list[str]) -> Targets:
    """Read a configuration's targets; anything unclear is appended to `problems` and left out."""
    chosen, excluded, patterns = (
        _names(settings, name, problems) for name in ("target_modules", "exclude_modules", "layers_pattern")
    )
    blocks = settings.get("layers_to_transform")
    blocks = [blocks] if isinstance(blocks, int) and not isinstance(blocks, bool) else blocks or None
    if blocks is not None and not (isinstance(blocks, list) and all(type(block) is int for block in blocks)):
        problems.append(f"layers_to_transform: {blocks!r} is not a list of block numbers")
        blocks = None
    if isinstance(chosen, str) and blocks is not None:
        problems.append("layers_to_transform: not with a target_modules that is text, says PEFT")
    for name, value in (("target_modules", chosen), ("exclude_modules", excluded)):
        if isinstance(value, str) and not _is_pattern(value, name, problems):
            chosen, excluded = None, None
    patterns = [patterns] if isinstance(patterns, str) else patterns or []
    sound = [pattern for pattern in patterns if pattern and _is_pattern(pattern, "layers_pattern", problems)]
    return Targets(chosen, excluded, blocks, sound)


def _names(settings: Mapping[str, Any], name: str, problems: list[str]) -> str | list[str] | None:
    value = settings.get(name)
    if value is None or isinstance(value, str) or (isinstance(value, list) and all(type(v) is str for v in value)):
        return value
    problems.append(f"{name}: {value!r} is neither text nor a list of names")
    return None


def _is_pattern(text: str, name: str, problems: list[str]) -> bool:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        problems.append(f"{name}: not a regular expression ({error})")
        return False
    return True


def _matches(wanted: str | list[str], name: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == end or name.endswith(f".{end}") for end in wanted)
