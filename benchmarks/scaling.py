"""How cost grows with the number of patterns and with the size of the model, each with its exponent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import data_scale
from data_scale import exponent
from peers import apart, run
from training import HERE, profile

from engram.models.model import resolve
from tools.random_model import MEDIUM, random_model

MEDIUM_SIZED, LARGE = "30m-random", "smollm2-135m-q4_1"
STEPS = {"tiny": 20, MEDIUM_SIZED: 4, LARGE: 2}


def models(data: Path, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """A training step on MLX for three sizes of model: 3, 30 (random weights) and 135 million parameters."""
    points = []
    for name, steps in STEPS.items():
        model = random_model(name, MEDIUM, folder / name) if name == MEDIUM_SIZED else resolve(name)
        found = profile(model.path, data, folder / "profile", steps)
        points.append({"model": name, **found})
        note(f"{name}: {found['milliseconds']['and optimizer']:.0f} ms a step, floor {found['floor_milliseconds']:.0f}")
    sizes = [point["parameters"] for point in points]
    costs = [point["milliseconds"]["and optimizer"] / point["tokens_a_step"]["real"] for point in points]
    return {"points": points, "exponent": exponent(sizes, costs)}


def planning(folder: Path, counts: Sequence[int], note: Callable[[str], None]) -> dict[str, Any]:
    """Seconds that a training of so many patterns spends on reading and encoding rows and planning batches."""
    points = []
    for count in counts:
        place = folder / f"planned-{count}"
        data_scale.write_patterns(count, place / "patterns")
        command = [sys.executable, "-m", "engram.cli", "data", "--patterns", str(place / "patterns")]
        run([*command, "--data", str(place / "data")], {}, 300, folder / "log")
        points.append({"patterns": count, **apart(HERE, {"task": "plan", "data": str(place / "data")}, folder)})
        note(f"{count:,} patterns planned: {points[-1]['seconds']:.2f} s")
    return {"points": points, "exponent": exponent(counts, [point["seconds"] for point in points])}
