"""Two runs against each other: curves, adapters, answers; and the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.models.adapters import MLX_WEIGHTS, PEFT_WEIGHTS
from engram.support.statistics import wilson

FIRST_100, FIRST_200, SAME_ANSWERS = 1e-4, 1e-3, 0.99  # nats, nats, share
NOISE = 3.0  # times what one backend differs from itself by


def curves(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """How far two loss curves lie apart, in nats, over the steps that both have; a window that is too long is None."""
    apart = [abs(a - b) for a, b in zip(one, other)]
    windows = {f"first_{size}": max(apart[:size]) if len(apart) >= size else None for size in (100, 200)}
    return {"steps": len(apart), "largest": max(apart), "mean": sum(apart) / len(apart), **windows}


def adapter(folder: Path) -> dict[str, Any]:
    """The tensors of an adapter in either layout by engram's names (`layer.lora_a` [inputs, rank], `.lora_b`)."""
    from safetensors.numpy import load_file

    if (folder / MLX_WEIGHTS).is_file():
        return dict(load_file(folder / MLX_WEIGHTS))
    tensors = load_file(folder / PEFT_WEIGHTS).items()
    ends = {".lora_A.weight": ".lora_a", ".lora_B.weight": ".lora_b"}
    named = {}
    for name, tensor in tensors:
        for theirs, ours in ends.items():
            if name.endswith(theirs):
                named[name.removeprefix("base_model.model.").removesuffix(theirs) + ours] = tensor.T
    return named


def adapters(one: Path, other: Path) -> dict[str, Any]:
    """The largest and the root mean square difference of two adapters' weights; both have the same tensors."""
    import numpy as np

    left, right = adapter(one), adapter(other)
    if left.keys() != right.keys():
        raise ValueError(f"not the same tensors: {sorted(left.keys() ^ right.keys())[:3]}")
    apart = np.concatenate([(left[name] - right[name]).ravel() for name in left]).astype(np.float64)
    size = np.concatenate([tensor.ravel() for tensor in left.values()]).astype(np.float64)
    return {
        "tensors": len(left),
        "largest": float(np.abs(apart).max()),
        "rms": float(np.sqrt((apart**2).mean())),
        "weights_rms": float(np.sqrt((size**2).mean())),
    }


def answers(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any] | None:
    """The share of greedy answers that are the same token by token, and how far the nats per token lie apart."""
    if "answers" not in one or "answers" not in other:
        return None
    same = [a == b for a, b in zip(one["answers"], other["answers"], strict=True)]
    apart = [abs(a - b) for a, b in zip(one["nats"], other["nats"], strict=True)]
    return {
        "prompts": len(same),
        "equal": sum(same),
        "share": sum(same) / len(same),
        "ci95": wilson(sum(same), len(same)),
        "largest_nats": max(apart),
        "mean_nats": sum(apart) / len(apart),
    }


def pair(mlx: dict[str, Any], torch: dict[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    """A run of each backend, compared; `folders` are those of MLX's and torch's run."""
    difference = [b - a for a, b in zip(mlx["losses"], torch["losses"], strict=True)]
    return {
        "losses": {"mlx": mlx["losses"], "torch": torch["losses"]},
        "difference": [float(f"{d:.3g}") for d in difference],
        "curves": curves(mlx["losses"], torch["losses"]),
        "adapters": adapters(folders[0] / "adapter", folders[1] / "adapter"),
        "answers": answers(mlx, torch),
        "seconds": {"mlx": mlx["seconds"], "torch": torch["seconds"]},
        "devices": {"mlx": mlx["device"], "torch": torch["device"]},
    }


def targets(pairs: Sequence[dict[str, Any]], decides: bool, noise: Mapping[str, float]) -> list[dict[str, Any]]:
    """Every target for every recipe, with the worst of its seeds; `decides`: a miss is a failure of the command.

    `noise` has, by recipe, how far one backend's losses move under a change that is none in exact arithmetic: the
    backends may lie a few times as far apart. A recipe without it is held to limits in nats.
    """
    rows = []
    for recipe in dict.fromkeys(pair["recipe"] for pair in pairs):
        mine = [pair for pair in pairs if pair["recipe"] == recipe]
        short = FIRST_100 if all(pair["curves"]["first_100"] is None for pair in mine) else FIRST_200
        limits: tuple[tuple[str, float], ...] = (("first_100", FIRST_100), ("first_200", FIRST_200), ("largest", short))
        if recipe in noise:
            times = max(pair["curves"]["largest"] for pair in mine) / noise[recipe]
            rows.append(_target(recipe, "noise", NOISE, times, times <= NOISE, decides))
            limits = ()
        for name, limit in limits:
            found = [pair["curves"][name] for pair in mine if pair["curves"][name] is not None]
            whole = any(pair["curves"]["first_200"] is not None for pair in mine)
            if found and (name != "largest" or not whole):  # a shorter run is held to the limit of its last step
                rows.append(_target(recipe, name, limit, max(found), max(found) <= limit, decides))
        shares = [pair["answers"]["share"] for pair in mine if pair["answers"]]
        if shares:
            rows.append(
                _target(recipe, "same_answers", SAME_ANSWERS, min(shares), min(shares) >= SAME_ANSWERS, decides)
            )
    return rows


def _target(recipe: str, name: str, limit: float, measured: float, met: bool, decides: bool) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "name": name,
        "limit": limit,
        "measured": measured,
        "met": met,
        "decides": decides,
    }
