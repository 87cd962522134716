"""LoRA adapters: where they start, and how they lie on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.config import Config
from engram.errors import EngramError
from engram.files import read_bytes, sha256, sha256_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MLX_WEIGHTS = "adapters.safetensors"
PEFT_WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
# each layout by its weights file: its name, the key that its configuration must have, the backend that trains it
LAYOUTS = {MLX_WEIGHTS: ("mlx-lm", "lora_parameters", "mlx"), PEFT_WEIGHTS: ("PEFT", "peft_type", "cuda or cpu")}


def initial_factor(name: str, inputs: int, config: Config) -> NDArray[np.float32]:
    """The first factor of one layer's adapter, float32 [inputs, rank], uniform within ±1/√inputs.

    Drawn from the seed and the layer's name alone, so that every backend starts from the same adapter, whatever
    order it visits its layers in. The second factor starts at zero.
    """
    import numpy as np

    seed = int(sha256_text(f"lora:{config.seed}:{name}")[:16], 16)
    bound = 1 / math.sqrt(inputs)
    draws = np.random.Generator(np.random.PCG64(seed)).random((inputs, config.rank), dtype=np.float64)
    return ((2 * draws - 1) * bound).astype(np.float32)


def mlx_config(config: Config, model_name: str) -> dict[str, Any]:
    """`adapter_config.json` as stock mlx-lm reads it: LoRA on every linear layer of every block."""
    return {
        "fine_tune_type": "lora",
        "model": model_name,
        "num_layers": -1,
        "lora_parameters": {"rank": config.rank, "scale": config.scale, "dropout": config.dropout},
    }


def peft_config(config: Config, base: str, targets: Sequence[str]) -> dict[str, Any]:
    """`adapter_config.json` as stock PEFT reads it: LoRA on the linear layers of these names, in every block."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "bias": "none",
        "target_modules": sorted(targets),
        "inference_mode": True,
    }


def read_adapter(folder: Path, weights: str = MLX_WEIGHTS) -> tuple[dict[str, Any], str]:
    """The configuration and the weights' SHA-256 of an adapter folder whose layout has this weights file.

    Raises EngramError where the folder, its configuration or its weights are missing or not readable, or where
    the adapter is in the other layout.
    """
    layout, key, _ = LAYOUTS[weights]
    other = next(name for name in LAYOUTS if name != weights)
    if not (folder / weights).is_file() and (folder / other).is_file():
        theirs, _, backend = LAYOUTS[other]
        what = f"an adapter in {theirs}'s layout; this backend reads {layout}'s ({weights})"
        raise EngramError(what, where=str(folder), fix=f"make train, or use it with BACKEND={backend}")
    missing = [name for name in (CONFIG, weights) if not (folder / name).is_file()]
    if missing:
        raise EngramError(f"no adapter here: {', '.join(missing)} missing", where=str(folder), fix="make train")
    try:
        config = json.loads(read_bytes(folder / CONFIG))
    except ValueError as error:
        raise EngramError(f"not JSON: {error}", where=str(folder / CONFIG), fix="make train") from error
    if not isinstance(config, Mapping) or key not in config:
        raise EngramError(f"not a LoRA adapter of {layout}", where=str(folder / CONFIG), fix="make train")
    return dict(config), sha256(folder / weights)
