"""The programs that a user would pick instead, run as they are: stock `mlx_lm.lora`, plain TRL + PEFT.

Each runs in a process of its own. What a peer is given to be at its best is said beside it: on Linux MLX's wheel
brings the reference BLAS and has no fast half-precision product, so stock mlx-lm gets the OpenBLAS that engram uses and
a float32 copy of the model, which nobody who installs it would have.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from engram.backends.mlx import blas
from engram.models.model import Model
from engram.support.files import cache_folder

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
SPLITS = ("train", "valid", "test")
LOOK = 0.5  # seconds between two looks at a peer

# of every run of stock mlx_lm.lora here; the rest is what the sweep tries
EVERY = 25  # steps from one saved adapter to the next
COMMON = {"train": True, "val_batches": 1, "steps_per_eval": 10**6, "steps_per_report": EVERY, "save_every": EVERY}


def float32_copy(model: Model, folder: Path) -> Path:
    """A folder with this model in float32, as stock mlx-lm needs it to be fast on a CPU."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    if (folder / "model.safetensors").is_file():
        return folder
    shutil.copytree(model.path, folder, dirs_exist_ok=True)
    with safe_open(model.path / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config = {**config, "dtype": "float32"}
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def openblas() -> dict[str, str]:
    """The environment in which a stock program's MLX takes the OpenBLAS that engram gives its own."""
    blas.prepare()
    found = sorted((cache_folder() / "blas").glob("libopenblas-*.so"))
    if not found:  # the system's, or Apple's
        return {}
    return {"LD_PRELOAD": str(found[0]), "OPENBLAS_NUM_THREADS": "1"}


def mlx_lora(
    settings: Mapping[str, Any],
    model: Path,
    data: Path,
    out: Path,
    env: Mapping[str, str],
    limit: float,
    last: int | None = None,
) -> list[tuple[int, float, Path]]:
    """Run stock `mlx_lm.lora`; for each adapter that it saved its step, the seconds up to it, and a folder with it.

    Time begins when the trainer begins: imports, the model and the tokens of the rows are not counted. A run that
    takes longer than `limit` seconds, or that saved the adapter of step `last`, is ended, and what it saved counts.
    """
    shutil.rmtree(out, ignore_errors=True)
    (out / "data").mkdir(parents=True)
    for name in SPLITS:
        _shuffled(data / f"{name}.jsonl", out / "data" / f"{name}.jsonl")
    whole = {**COMMON, **settings, "model": str(model), "data": str(out / "data"), "adapter_path": str(out / "adapter")}
    (out / "config.yaml").write_text(yaml.safe_dump(whole), "utf-8")
    command = [sys.executable, str(HERE / "stock_lora.py"), "-c", str(out / "config.yaml")]
    enough = out / "adapter" / f"{last or 10**6:07d}_adapters.safetensors"
    run(command, env, limit, out / "log", enough.exists)
    started = (out / "adapter" / "started").stat().st_mtime
    saved = sorted((out / "adapter").glob("0*_adapters.safetensors"))
    return [(int(p.name.split("_")[0]), p.stat().st_mtime - started, _folder_of(p)) for p in saved]


def run(
    command: Sequence[str], env: Mapping[str, str], limit: float, log: Path, enough: Callable[[], bool] = lambda: False
) -> str:
    """Run a peer, its output in `log`, until it is done, `enough`, or has had `limit` seconds.

    Raises CalledProcessError where it fails.
    """
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("OPENBLAS_", "OMP_"))}
    whole = {**plain, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **env}
    end = time.monotonic() + limit
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=whole, stdout=file, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None and time.monotonic() < end and not enough():
                time.sleep(LOOK)
            if process.poll() is None:
                time.sleep(LOOK)  # what is being written is finished
                file.write(b"\n(ended)\n")
            elif process.returncode:
                print(log.read_text("utf-8", "replace")[-2000:], file=sys.stderr)
                raise subprocess.CalledProcessError(process.returncode, command)
        finally:
            process.kill()
            process.wait()
    return log.read_text("utf-8", "replace")


def apart(
    script: Path, order: Mapping[str, Any], folder: Path, env: Mapping[str, str] = {}, limit: float = 580
) -> dict[str, Any]:
    """What one of a script's tasks, named in the order, gave in a process of its own; see `done`."""
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / f"{order['task']}.json"
    result.unlink(missing_ok=True)
    run([sys.executable, str(script), json.dumps(order), str(result)], env, limit, folder / f"{order['task']}.log")
    found: dict[str, Any] = json.loads(result.read_bytes())
    return found


def done(tasks: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """In that process: carry out the order, and write what it gave."""
    blas.prepare()  # before anything imports mlx
    order = json.loads(sys.argv[1])
    Path(sys.argv[2]).write_text(json.dumps(tasks[order["task"]](order)), "utf-8")


def _shuffled(file: Path, to: Path) -> None:
    """The rows in another, seeded order: mlx-lm sorts them by length, and leaves rows of one length as they stand.

    As engram writes them, pattern by pattern, it would learn a whole batch of nearly the same row: far worse.
    """
    lines = file.read_text("utf-8").splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    to.write_text("".join(lines), "utf-8")


def _folder_of(saved: Path) -> Path:
    folder = saved.parent / saved.name.split("_")[0]
    folder.mkdir()
    shutil.copy(saved.parent / "adapter_config.json", folder)
    saved.rename(folder / "adapters.safetensors")
    return folder
