"""mlx-lm's layout: `adapter_config.json` of its trainer, and `adapters.safetensors`.

mlx-lm's `load_adapters` attaches LoRA to the last `num_layers` blocks (all where it is not positive), there to the
names in `lora_parameters.keys` (to every linear layer where it is absent), and to the whole names in `keys` anywhere.
It then loads the tensors that the file has. A layer that is attached and has no tensors keeps B = 0, so the function
is the same; and a tensor whose layer is not attached is refused by mlx-lm itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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
    names_or_none,
    number,
    pair,
    place,
    unusable,
    whole_number,
)
from engram.models.safetensors_file import Tensor, transposed

WEIGHTS = adapters.MLX_WEIGHTS
FORMAT = "mlx"
_NAME = re.compile(r"(.+)\.lora_([ab])")
_PARAMETERS = ("rank", "scale", "dropout", "keys", "alpha")  # alpha: written by old releases, read by none


def read(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Lora:
    """The adapter that this configuration and these tensors describe; raises RefusedError with every reason not to."""
    problems: list[str] = []
    if (kind := settings.get("fine_tune_type", "lora")) != "lora":
        said = {"dora": "DoRA", "full": "a full fine-tune, not an adapter"}.get(str(kind), "not known here")
        problems.append(f"fine_tune_type: {kind!r}, {said}")
    parameters = settings.get("lora_parameters")
    if not isinstance(parameters, Mapping):
        raise RefusedError([*problems, f"lora_parameters: {parameters!r} is not a mapping"])
    unknown = [name for name in parameters if name not in _PARAMETERS and parameters[name]]
    problems += [f"lora_parameters.{name}: not known here, and set" for name in unknown]
    rank = whole_number(parameters, "rank", problems)
    scale = number(parameters, "scale", None, problems, below=SCALE_LIMIT)
    dropout = number(parameters, "dropout", None, problems, below=1)
    keys = names_or_none(parameters, "keys", problems)
    last = settings.get("num_layers")
    if isinstance(last, bool) or not isinstance(last, int):
        problems.append(f"num_layers: {last!r} is not a whole number")
        last = -1
    factors, reasons = _factors(tensors)
    layers = pair(factors, rank, problems)
    problems += _stray(layers, keys, last)
    if problems := problems + grouped(reasons):
        raise RefusedError(problems)
    base, known = settings.get("model"), grid(layers)
    named_whole = any(place(name) for name in layers if name in (keys or ()))
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


def _stray(layers: Mapping[str, Any], keys: list[str] | None, last: int) -> list[str]:
    """A line for each way in which layers with tensors are not attached."""
    problems = []
    whole = set(keys or ())
    if keys is not None and (stray := [name for name in layers if not {name, _inside(name)} & whole]):
        problems.append(f"layers that lora_parameters.keys does not name: {listed(stray)}")
    blocks = {known[0] for name in layers if name not in whole and (known := place(name))}
    if last > 0 and blocks and max(blocks) - min(blocks) >= last:
        problems.append(f"num_layers: {last}, but there are tensors for blocks {min(blocks)} to {max(blocks)}")
    return problems


def _inside(name: str) -> str:
    """A layer's name inside its block: what follows the first number."""
    parts = name.split(".")
    first = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[first + 1 :])


def _factors(tensors: Mapping[str, Tensor]) -> tuple[dict[Key, Tensor], dict[str, str]]:
    """Return the factors in PEFT's orientation, and for every other tensor the reason why it isn't one."""
    factors, reasons = {}, {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match and not (reason := unusable(match[1], tensor)):
            factors[match[1], match[2].upper()] = transposed(tensor)
        elif match:
            reasons[name] = reason
        else:
            reasons[name] = "DoRA's magnitudes" if name.endswith(".m") else "tensors with unknown names"
    return factors, reasons
