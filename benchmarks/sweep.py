"""The settings at which stock `mlx_lm.lora` learns fastest: a small sweep.

Every run has the rank, the layers and the rows of engram's default recipe, without its replay rows, which stock mlx-lm
does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peers import float32_copy, mlx_lora, openblas
from recall import first_enough, recall

from engram.models.model import Model

CORRECTED = {"optimizer": "adam", "optimizer_config": {"adam": {"bias_correction": True}}}
LORA = {"lora_parameters": {"rank": 16, "dropout": 0.0, "scale": 2.0}, "num_layers": -1, "mask_prompt": True}


def _cosine(rate: float, batch: int, iters: int, **more: Any) -> dict[str, Any]:
    schedule = {"name": "cosine_decay", "arguments": [rate, iters]}
    return {**LORA, **CORRECTED, "batch_size": batch, "iters": iters, "lr_schedule": schedule, **more}


def _constant(rate: float, batch: int, iters: int, **more: Any) -> dict[str, Any]:
    return {**LORA, **CORRECTED, "batch_size": batch, "iters": iters, "learning_rate": rate, **more}


CANDIDATES = {
    "cosine 4e-3, batch 16, 300 steps": _cosine(4e-3, 16, 300),
    "cosine 6e-3, batch 16, 250 steps": _cosine(6e-3, 16, 250),
    "constant 2e-3, batch 16, 300 steps": _constant(2e-3, 16, 300),
}
# for the real model, whose steps take seconds: an adapter every 10
LARGE = {
    name: {**settings, "save_every": 10}
    for name, settings in {
        "cosine 2e-3, batch 16, 60 steps": _cosine(2e-3, 16, 60),
        "cosine 2e-3, batch 8, 80 steps": _cosine(2e-3, 8, 80),
        "cosine 1e-3, batch 4, 160 steps": _cosine(1e-3, 4, 160),
    }.items()
}
# as stock mlx-lm has them: 1,000 steps of batch 4, learning rate 1e-5, rank 8, scale 20; but 16 layers `tiny` has not
DEFAULTS = {"iters": 1000, "num_layers": -1}


ALL = {**CANDIDATES, "stock mlx-lm's defaults": DEFAULTS}


def measure(
    model: Model,
    data: Path,
    folder: Path,
    note: Callable[[str], None],
    candidates: Mapping[str, Mapping[str, Any]] = ALL,
    limit: float = 150,
) -> dict[str, Any]:
    """Each candidate's recall at its end, and step and seconds at which it first reached 95 %; `limit` seconds each."""
    copy, env = float32_copy(model, folder / "float32"), openblas()
    rows = []
    for name, settings in candidates.items():
        saved = mlx_lora(settings, copy, data, folder / "stock", env, limit)
        found = first_enough(saved, lambda adapter: recall(model, adapter, data))
        last = recall(model, saved[-1][2], data)
        rows.append({"name": name, "settings": settings, "steps": saved[-1][0], "seconds": saved[-1][1]})
        rows[-1] |= {"recall": last, "enough_step": found and found[0], "enough_seconds": found and found[1]}
        note(f"{name}: recall {last:.1%} after {saved[-1][1]:.0f} s, 95 % at {found}")
    best = min(rows, key=lambda row: (row["enough_seconds"] or math.inf, -row["recall"]))
    return {"candidates": rows, "best": best["name"]}
