"""LoRA adapters: where they start, and how they lie on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.config import Config
from engram.errors import EngramError
from engram.files import read_bytes, sha256, sha256_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MLX_WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"


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


def read_adapter(folder: Path) -> tuple[dict[str, Any], str]:
    """The configuration and the weights' SHA-256 of an adapter folder in the MLX layout.

    Raises EngramError where the folder, its configuration or its weights are missing or not readable.
    """
    missing = [name for name in (CONFIG, MLX_WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise EngramError(f"no adapter here: {', '.join(missing)} missing", where=str(folder), fix="make train")
    try:
        config = json.loads(read_bytes(folder / CONFIG))
    except ValueError as error:
        raise EngramError(f"not JSON: {error}", where=str(folder / CONFIG), fix="make train") from error
    if not isinstance(config, Mapping) or "lora_parameters" not in config:
        raise EngramError("not an mlx-lm LoRA adapter", where=str(folder / CONFIG), fix="make train")
    return dict(config), sha256(folder / MLX_WEIGHTS)
