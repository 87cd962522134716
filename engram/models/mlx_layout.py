"""mlx-lm's layout: `adapter_config.json` of its trainer, and `adapters.safetensors`.

mlx-lm's `load_adapters` attaches LoRA to the last `num_layers` blocks (all where it is not positive), there to the
names in `lora_parameters.keys` (to every linear layer where it is absent), and to the whole names in `keys` anywhere.
It then loads the tensors that the file has. A layer that is attached and has no tensors keeps B = 0, so the function
is the same. A tensor whose layer is not attached is refused by mlx-lm itself, and read here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engram.models import adapters
from engram.models.adapters import Lora, RefusedError, grid, layers_of, number, place, whole_number
from engram.models.safetensors_file import Tensor, transposed

WEIGHTS = adapters.MLX_WEIGHTS
FORMAT = "mlx"
_NAME = re.compile(r"(.+)\.lora_([ab])")
_PARAMETERS = ("rank", "scale", "dropout", "keys", "alpha")  # alpha: written by old releases, read by none


def read(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Lora:
    """The adapter that this configuration and these tensors describe; raises RefusedError with every reason not to."""
    problems: list[str] = []
    if (kind := settings.get("fine_tune_type", "lora")) != "lora":
        problems.append(f"fine_tune_type: {kind!r} is not 'lora'")
    parameters = settings.get("lora_parameters")
    if not isinstance(parameters, Mapping):
        raise RefusedError(*problems, f"lora_parameters: {parameters!r} is not a mapping")
    unknown = [name for name in parameters if name not in _PARAMETERS and parameters[name]]
    problems += [f"lora_parameters.{name}: not known here, and set" for name in unknown]
    rank = whole_number(parameters, "rank", problems)
    scale = number(parameters, "scale", None, problems, below=adapters.SCALE_LIMIT)
    dropout = number(parameters, "dropout", None, problems, below=1)
    last = settings.get("num_layers")
    if isinstance(last, bool) or not isinstance(last, int):
        problems.append(f"num_layers: {last!r} is not a whole number")
        last = -1
    layers = layers_of(tensors, _NAME, transposed, rank, problems)
    base, known, keys = settings.get("model"), grid(layers), parameters.get("keys")
    named_whole = isinstance(keys, list) and any(place(name) for name in layers if name in keys)
    every_block = not named_whole and (last < 1 or (known is not None and len(known.blocks) == last))
    return Lora(rank, scale, dropout, base if isinstance(base, str) else None, every_block, layers)


def write(lora: Lora) -> dict[str, Any]:
    """The configuration: names in every block where the layers are such a product, else whole names.

    It attaches to all blocks, since an adapter does not say how many the model has.
    """
    known = grid(lora.layers)
    keys = [*known.inside, *known.outside] if known and lora.every_block and known.whole else [*lora.layers]
    parameters = {"rank": lora.rank, "scale": lora.scale, "dropout": lora.dropout, "keys": keys}
    named = {"model": lora.base} if lora.base is not None else {}
    return {"fine_tune_type": "lora", **named, "num_layers": -1, "lora_parameters": parameters}


def tensors_of(lora: Lora) -> dict[str, Tensor]:
    """The tensors by mlx-lm's names: a [inputs, rank], b [rank, outputs]."""
    return {
        f"{name}.lora_{part}": transposed(tensor)
        for name, factors in lora.layers.items()
        for part, tensor in zip("ab", factors, strict=True)
    }
