"""How long until 95 % of the patterns are recalled: engram, and stock `mlx_lm.lora` at its best.

Every run has a process of its own; both have the same rows, rank, layers and BLAS, on one thread.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peers import EVERY, apart, done, float32_copy, mlx_lora, openblas
from recall import first_enough, recall

from engram import backends
from engram.models import adapters, safetensors_file
from engram.models.model import Model, resolve
from engram.models.tokenizer import load_encoder
from engram.plan import checkpoint, config
from engram.plan.checkpoint import Keeper
from engram.training import replay, train
from engram.training.processes import Silent

HERE = Path(__file__).resolve()
RUNS: dict[str, dict[str, str]] = {  # the default recipe, and with a peer's rows
    "default recipe": {},
    "taught rows alone": {"replay": "0"},
}
ONE = {"OPENBLAS_NUM_THREADS": "1"}  # as the peer has


def measure(
    model: Model, data: Path, folder: Path, swept: Mapping[str, Any], note: Callable[[str], None], limit: float = 580
) -> dict[str, Any]:
    """Time to 95 % recall: the default recipe, on a peer's rows too and with its settings, and stock `mlx_lm.lora`.

    Its best are the settings that the sweep found; it is run with them anew, so that all of them had one hour. No run
    may take more than `limit` seconds.
    """
    runs = {}
    best = next(one for one in swept["candidates"] if one["name"] == swept["best"])
    every = best["settings"].get("save_every", EVERY)
    for number, (name, settings) in enumerate({**RUNS, "taught rows, the peer's settings": _as(best)}.items()):
        order = {"task": "whole", "model": str(model.name), "data": str(data), "out": str(folder / f"engram-{number}")}
        runs[f"engram, {name}"] = apart(HERE, order | {"settings": settings, "every": every}, folder, ONE, limit)
        note(f"engram, {name}: {runs[f'engram, {name}']}")
    runs["stock mlx_lm.lora"] = _stock(model, data, folder, best, (best["enough_step"] or best["steps"]) + every, limit)
    note(f"stock mlx_lm.lora: {runs['stock mlx_lm.lora']}")
    return {"settings": swept["best"], "runs": runs}


def _as(best: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a peer's best run, as those of a recipe."""
    found = best["settings"]
    rate, shape = found.get("learning_rate"), "constant"
    if "lr_schedule" in found:
        rate, shape = found["lr_schedule"]["arguments"][0], "cosine"
    settings = {"batch_size": found["batch_size"], "learning_rate": rate, "schedule": shape, "steps": found["iters"]}
    return {"replay": "0", **{name: str(value) for name, value in settings.items()}}


def _stock(model: Model, data: Path, folder: Path, best: Mapping[str, Any], last: int, limit: float) -> dict[str, Any]:
    """Stock `mlx_lm.lora` with these settings of the sweep; ended soon after the step at which it had 95 % there.

    Where it has less this time, its seconds are those up to its end: less than it would need.
    """
    copy = float32_copy(model, folder / "float32")
    saved = mlx_lora(best["settings"], copy, data, folder / "stock", openblas(), limit, last)
    return _found(saved, lambda adapter: recall(model, adapter, data))


def _found(saved: list[tuple[int, float, Path]], ask: Callable[[Path], float]) -> dict[str, Any]:
    """What is reported of a run: the first adapter with 95 % recall, else the last, and the recall of the last."""
    ask = functools.cache(ask)
    found = first_enough(saved, ask)
    step, seconds = found or saved[-1][:2]
    whole = {"whole_steps": saved[-1][0], "whole_seconds": saved[-1][1]}
    return {"steps": step, "seconds": seconds, "recall": ask(saved[-1][2]), "reached": bool(found), **whole}


def _whole(order: dict[str, Any]) -> dict[str, Any]:
    """The recipe until its own validation ends it, with its checkpoints; the first of them with 95 % recall counts.

    As for a peer, time begins when the trainer begins.
    """
    model, data, out = resolve(order["model"]), Path(order["data"]), Path(order["out"])
    settled = config.load_config("default", model.parameters, 0, order["settings"])
    own = replay.of(backends.Loaded("mlx", model), load_encoder(model)) if settled.replay else None
    plan = train.planned(model, settled, data, own)
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
    clock, keeper = Clock(), Copies(out / "checkpoint", {}, every=order["every"])
    made = backends.get("mlx").train(model, plan, settled, out / "last", clock, keeper)
    saved.append((len(made.losses), time.perf_counter() - clock.begun, out / "last"))
    for step, _, folder in saved[:-1]:
        _adapter_of(out / f"{step}.checkpoint", folder, out / "last")
    return _found(saved, lambda adapter: recall(model, adapter, data))


def _adapter_of(copy: Path, folder: Path, like: Path) -> None:
    """A checkpoint's adapter as a folder that mlx-lm reads."""
    from engram.backends.mlx import training

    tensors = checkpoint.read(copy)[1].state.tensors
    named = {name.removeprefix(training.WEIGHTS): t for name, t in tensors.items() if name.startswith(training.WEIGHTS)}
    folder.mkdir()
    (folder / adapters.MLX_WEIGHTS).write_bytes(safetensors_file.pack(safetensors_file.new_header(named, {}), named))
    shutil.copy(like / adapters.CONFIG, folder)


if __name__ == "__main__":
    done({"whole": _whole})
