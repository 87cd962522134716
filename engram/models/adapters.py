"""LoRA adapters: where they start, and how they lie on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.models.safetensors_file import header
from engram.support import strict_json
from engram.support.errors import EngramError
from engram.support.files import recover, sha256, sha256_text
from engram.support.untrusted import refuse_links

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MLX_WEIGHTS = "adapters.safetensors"
PEFT_WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
# each layout by its weights file: its name, and the key that its configuration must have
LAYOUTS = {MLX_WEIGHTS: ("mlx-lm", "lora_parameters"), PEFT_WEIGHTS: ("PEFT", "peft_type")}


def initial_factor(name: str, inputs: int, rank: int, seed: int) -> NDArray[np.float32]:
    """The first factor of one layer's adapter, float32 [inputs, rank], uniform within ±1/√inputs.

    Drawn from the seed and the layer's name alone, so that every backend starts from the same adapter, whatever
    order it visits its layers in. The second factor starts at zero.
    """
    import numpy as np

    state = int(sha256_text(f"lora:{seed}:{name}")[:16], 16)
    bound = 1 / math.sqrt(inputs)
    draws = np.random.Generator(np.random.PCG64(state)).random((inputs, rank), dtype=np.float64)
    return ((2 * draws - 1) * bound).astype(np.float32)


def mlx_config(rank: int, scale: float, dropout: float, model_name: str) -> dict[str, Any]:
    """`adapter_config.json` as stock mlx-lm reads it: LoRA on every linear layer of every block."""
    return {
        "fine_tune_type": "lora",
        "model": model_name,
        "num_layers": -1,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": dropout},
    }


def peft_settings(rank: int, alpha: float, dropout: float, base: str | None, targets: Sequence[str]) -> dict[str, Any]:
    """`adapter_config.json` as stock PEFT reads it: LoRA on the linear layers of these names, in every block.

    `base` is None if the base model has no name.
    """
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "bias": "none",
        "target_modules": sorted(targets),
        "inference_mode": True,
    }


def weights_file(folder: Path, preferred: str = "") -> str:
    """The name of the weights file in an adapter's folder, which says its layout; `preferred` where both are there.

    Raises EngramError where there is none, where there are both and none is preferred, and where a link leads out of
    the folder.
    """
    if not folder.exists():
        recover(folder)
    refuse_links(folder, "copy the files into the folder")
    present = [name for name in LAYOUTS if (folder / name).is_file()]
    if preferred in present:
        return preferred
    if not present:
        missing = [name for name in (CONFIG, preferred or " or ".join(LAYOUTS)) if not (folder / name).is_file()]
        raise EngramError(f"no adapter here: {', '.join(missing)} missing", where=str(folder), fix="make train")
    if len(present) > 1:
        what = f"weights in two layouts: {' and '.join(present)}"
        raise EngramError(what, where=str(folder), fix="move one of them to a folder of its own")
    return present[0]


def read_adapter(folder: Path, preferred: str = "") -> tuple[dict[str, Any], str]:
    """The configuration and the weights' SHA-256 of an adapter folder in either layout; see `weights_file`.

    Raises EngramError where the folder, its configuration or its weights are missing or not readable, or where
    the configuration is not of the weights' layout.
    """
    weights = weights_file(folder, preferred)
    layout, key = LAYOUTS[weights]
    if not (folder / CONFIG).is_file():
        raise EngramError(f"no adapter here: {CONFIG} missing", where=str(folder), fix="make train")
    config = strict_json.read(folder / CONFIG, "make train")
    header(folder / weights)  # its length is the one that its header says
    if not isinstance(config, Mapping) or key not in config:
        raise EngramError(f"not a LoRA adapter of {layout}", where=str(folder / CONFIG), fix="make train")
    return dict(config), sha256(folder / weights)
