"""How long until 95 % of the patterns are recalled: engram, and stock `mlx_lm.lora` at its best.

Every run has a process of its own; both have the same rows, rank, layers and BLAS, on one thread.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peers import apart, done
from recall import first_enough, recall

from engram import adapters, backends, checkpoint, config, train
from engram.checkpoint import Keeper
from engram.conversion import tensor_file
from engram.model import resolve
from engram.report.worker import Silent

HERE = Path(__file__).resolve()
RUNS: dict[str, dict[str, str]] = {  # the default recipe, and with a peer's rows; as a peer has its sweep, once more
    "default recipe": {},
    "taught rows alone": {"replay": "0"},
    "taught rows alone, two passes, 6e-3": {"replay": "0", "epochs": "2", "learning_rate": "6e-3"},
}


def measure(data: Path, folder: Path, swept: Mapping[str, Any], note: Callable[[str], None]) -> dict[str, Any]:
    """Time to 95 % recall: the default recipe, the same on a peer's rows, and stock `mlx_lm.lora` at its best."""
    runs = {}
    for number, (name, settings) in enumerate(RUNS.items()):
        order = {"task": "whole", "data": str(data), "out": str(folder / f"engram-{number}"), "settings": settings}
        runs[f"engram, {name}"] = apart(HERE, order, folder)
        note(f"engram, {name}: {runs[f'engram, {name}']}")
    best = next(one for one in swept["candidates"] if one["name"] == swept["best"])
    stock = {"steps": best["enough_step"], "seconds": best["enough_seconds"], "recall": best["recall"], "reached": True}
    stock |= {"whole_steps": best["steps"], "whole_seconds": best["seconds"]}
    return {"settings": swept["best"], "runs": {**runs, "stock mlx_lm.lora": stock}}


def _whole(order: dict[str, Any]) -> dict[str, Any]:
    """The recipe from its first step to its last, with its checkpoints; the first of them with 95 % recall counts.

    As for a peer, time begins when the trainer begins.
    """
    model, data, out = resolve("tiny"), Path(order["data"]), Path(order["out"])
    settled = config.load_config("default", model.parameters, 0, order["settings"])
    plan = train.planned(model, settled, data)
    saved: list[tuple[int, float, Path]] = []

    class Clock(Silent):
        def start(self, *_: object) -> None:
            self.begun = time.perf_counter()

    class Copies(Keeper):
        def write(self, step: int, *run: Any) -> None:
            super().write(step, *run)
            saved.append((step, time.perf_counter() - clock.begun, out / str(step)))
            shutil.copy(self.path, out / f"{step}.checkpoint")

    (out / "last").mkdir(parents=True, exist_ok=True)
    clock, steps = Clock(), len(plan.batches)
    keeper = Copies(out / "checkpoint", {}, every=25)
    settled = dataclasses.replace(settled, validate_every=10**6)
    backends.get("mlx").train(model, plan.batches, [], settled, out / "last", clock, keeper)
    saved.append((steps, time.perf_counter() - clock.begun, out / "last"))
    for step, _, folder in saved[:-1]:
        _adapter_of(out / f"{step}.checkpoint", folder, out / "last")
    found = first_enough(saved, lambda adapter: recall(model, adapter, data))
    step, seconds = found or saved[-1][:2]
    share = recall(model, out / "last", data)
    whole = {"whole_steps": steps, "whole_seconds": saved[-1][1]}
    return {"steps": step, "seconds": seconds, "recall": share, "reached": bool(found), **whole}


def _adapter_of(copy: Path, folder: Path, like: Path) -> None:
    """A checkpoint's adapter as a folder that mlx-lm reads."""
    from engram.backends import mlx_state

    _, tensors, _ = checkpoint.read(copy)
    named = {
        name.removeprefix(mlx_state.WEIGHTS): t for name, t in tensors.items() if name.startswith(mlx_state.WEIGHTS)
    }
    folder.mkdir()
    (folder / adapters.MLX_WEIGHTS).write_bytes(tensor_file.pack(tensor_file.new_header(named, {}), named))
    shutil.copy(like / adapters.CONFIG, folder)


if __name__ == "__main__":
    done({"whole": _whole})
