"""LoRA adapters: where they start, how they lie on disk, and what each layout of them must say."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.models.safetensors_file import ITEM_BYTES, Tensor, header
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
    """The name of the weights file in an adapter's folder, which tells its layout; `preferred` if both are there.

    Raises EngramError if there is none, if both are there and none is preferred, and if a link leads out of it.
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
        raise EngramError(what, where=str(folder), fix="move one of them to another folder")
    return present[0]


def read_adapter(folder: Path, preferred: str = "") -> tuple[dict[str, Any], str]:
    """The configuration and the weights' SHA-256 of an adapter folder in either layout; see `weights_file`.

    Raises EngramError if the folder, its configuration or its weights are missing or not readable, or where
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


_BLOCK = re.compile(r"(.+\.[^.]+)\.(\d+)\.(.+)")
_SHOWN = 3  # names in one line of a refusal
SCALE_LIMIT = 1e30  # no scale is as large; times a rank it still is a number
Settings = Mapping[str, Any]
Turn = Callable[[Tensor], Tensor]


class Lora(NamedTuple):
    """y = Wx + scale · B(Ax) on each of `layers`: its factors A [rank, inputs] and B [outputs, rank].

    `scale` is absolute. `every_block` says that the configuration attaches to all blocks of the model, so that a
    list of names without block numbers describes it.
    """

    rank: int
    scale: float
    dropout: float
    base: str | None
    every_block: bool
    layers: dict[str, tuple[Tensor, Tensor]]


class Grid(NamedTuple):
    """Layers that are the product of block numbers and names inside a block, and the names outside the blocks."""

    blocks: list[int]
    inside: list[str]
    outside: list[str]

    @property
    def whole(self) -> bool:
        """Whether the blocks are numbered 0, 1, 2 … without a gap."""
        return self.blocks == list(range(len(self.blocks)))


class RefusedError(Exception):
    """The reasons, a line for each argument, why an adapter can't be expressed in both layouts."""


def place(name: str) -> tuple[int, str] | None:
    """Return the number of a layer's block and its name inside the block; None outside the blocks.

    None too where further numbers (of experts) follow: such names are used whole.
    """
    match = _BLOCK.fullmatch(name)
    if not match or any(part.isdigit() for part in (*match[1].split("."), *match[3].split("."))):
        return None
    return int(match[2]), match[3]


def grid(names: Iterable[str]) -> Grid | None:
    """Return these layers as a grid, or None if the product of blocks and names has gaps."""
    places = {name: place(name) for name in names}
    found = {known for known in places.values() if known}
    outside = sorted(name for name, known in places.items() if not known)
    blocks, inside = sorted({block for block, _ in found}), sorted({name for _, name in found})
    several = len(found) != len(places) - len(outside)  # two lists of blocks, as of an encoder and a decoder
    numbered = any(part.isdigit() for name in outside for part in name.split("."))
    if several or numbered or not found or len(found) != len(blocks) * len(inside):
        return None
    return Grid(blocks, inside, outside)


def number(settings: Settings, name: str, default: float | None, problems: list[str], *, below: float) -> float:
    """Read a number whose size is less than `below`; anything else is appended to `problems` and read as 0."""
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < below:
        problems.append(f"{name}: {value!r} is not a number that can be used here")
        return 0.0
    return float(value)


def whole_number(settings: Settings, name: str, problems: list[str]) -> int:
    """Read a positive whole number; anything else is appended to `problems` and read as 0."""
    value = settings.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        problems.append(f"{name}: {value!r} is not a positive whole number")
        return 0
    return value


def listed(names: Iterable[str]) -> str:
    """The first of these names in alphabetical order, and how many more there are."""
    known = sorted(names)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ", ".join(known[:_SHOWN]) + more


def layers_of(
    tensors: Mapping[str, Tensor], pattern: re.Pattern[str], turned: Turn, rank: int, problems: list[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors A [rank, inputs] and B [outputs, rank] of each layer, in the order of its name.

    `pattern` finds a tensor's layer and its part, `turned` gives it this orientation. Raises RefusedError with these
    problems and those of the tensors: no factor of a linear layer, without a partner, or not of this rank.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    reasons: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        match = pattern.fullmatch(name)
        if reason := _unusable(match[1], tensor) if match else "tensors with unknown names":
            reasons.setdefault(reason, []).append(name)
        elif match:
            parts.setdefault(match[1], {})[match[2].upper()] = turned(tensor)
    if not parts:
        problems.append("no LoRA factors in the weights file")
    for part, other in (("A", "B"), ("B", "A")):
        if alone := [name for name, found in parts.items() if other not in found]:
            problems.append(f"factor {part} without {other}: {listed(alone)}")
    layers = {name: (found["A"], found["B"]) for name, found in sorted(parts.items()) if len(found) == 2}
    ranks = Counter(size for a, b in layers.values() for size in {a.shape[0], b.shape[1]})
    if len(ranks) > 1:
        counts = ", ".join(f"{size} in {count} layers" for size, count in sorted(ranks.items()))
        problems.append(f"mixed ranks: {counts}")
    elif rank and ranks and rank not in ranks:
        problems.append(f"the configuration's rank is {rank}, the tensors' is {next(iter(ranks))}")
    problems += [f"{reason}: {listed(names)}" for reason, names in sorted(reasons.items())]
    if problems:
        raise RefusedError(*problems)
    return layers


def _unusable(name: str, tensor: Tensor) -> str:
    """Say why this tensor can't be a factor of a linear layer; empty if it can."""
    if tensor.dtype not in ITEM_BYTES:
        return f"dtype {tensor.dtype} (float32, float16 and bfloat16 are converted)"
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        return "not a matrix (a convolution's or several experts' factors)"
    leaf = name.split(".")[-1]
    return "LoRA on an embedding" if "embed" in leaf or leaf in ("wte", "wpe") else ""
