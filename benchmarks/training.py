"""What a training step costs over the bare one, on both backends, and where its time goes.

Every run has a process of its own; engram and its peers have the same rows, rank, layers and BLAS.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from peers import apart, done, run

from engram import backends
from engram.models.model import Model, resolve
from engram.plan import config
from engram.plan.batches import Batch, Plan
from engram.plan.checkpoint import Keeper
from engram.plan.config import Config, learning_rates
from engram.training import train
from engram.training.processes import Silent

HERE = Path(__file__).resolve()
WARM_UP = 3  # steps
STOCK_ROUNDS = 2  # of mlx-lm's own trainer, which is not near


def overhead(data: Path, folder: Path, rounds: int, steps: int) -> dict[str, Any]:
    """Seconds a real token: engram's whole training against a bare loop over the same batches, and mlx-lm's own.

    The bare loop is `value_and_grad`, `update`, `eval` and nothing else; the second is mlx-lm's trainer as it is, its
    own loss and batches, over the same rows. Engram and the bare loop take turns, step by step, and each round's ratio
    counts. Of 25 steps that count one has a checkpoint, as in every run.
    """
    order = {"task": "overhead", "data": str(data), "out": str(folder / "overhead"), "rounds": rounds, "steps": steps}
    return apart(HERE, order, folder)


def profile(model: Path, data: Path, folder: Path, steps: int) -> dict[str, Any]:
    """Milliseconds of a step's parts on MLX, and the floor: the arithmetic of real tokens at the rate of a product."""
    order = {"task": "profile", "data": str(data), "out": str(folder), "steps": steps, "model": str(model)}
    return apart(HERE, order, folder)


def unsloth(data: Path, folder: Path, rounds: int, steps: int) -> dict[str, Any]:
    """Answer tokens a second on `BACKEND=cpu` and of plain TRL, in turn; medians of the rounds.

    TRL once at its defaults, and once as someone who knows the machine would run it: float32, no gradient checkpoints.
    """
    ways = {"plain TRL": "defaults", "plain TRL, float32, no gradient checkpoints": "plain"}
    found: dict[str, list[float]] = {name: [] for name in ("engram cpu", *ways)}
    for _ in range(rounds):
        order = {"task": "cpu", "data": str(data), "out": str(folder / "cpu"), "steps": steps}
        found["engram cpu"].append(apart(HERE, order, folder)["answer_tokens_per_second"])
        for name, way in ways.items():
            out = folder / "trl.json"
            command = [sys.executable, str(HERE.parent / "plain_trl.py"), str(data), str(steps), str(out), way]
            run(command, {}, 300, folder / "log")
            found[name].append(json.loads(out.read_bytes())["answer_tokens_per_second"])
    return {"rounds": found, "median": {name: statistics.median(rates) for name, rates in found.items()}}


def _planned(order: dict[str, Any], **settings: str) -> tuple[Model, Config, Plan]:
    model = resolve(order.get("model", "tiny"))
    settled = config.load_config("default-small", 0, 0, {k: v for k, v in settings.items() if v is not None})
    return model, settled, train.planned(model, settled, Path(order["data"]))


def _overhead(order: dict[str, Any]) -> dict[str, Any]:
    model, settled, plan = _planned(order)
    batches, out = plan.batches[: order["steps"]], Path(order["out"])
    settled = dataclasses.replace(settled, steps=len(batches), validate_every=10**6)
    found: dict[str, list[float]] = {"engram": [], "bare loop": [], "mlx-lm's trainer": []}
    for number in range(order["rounds"]):
        ours, bare = _both(model, settled, batches, out)
        found["engram"].append(ours)
        found["bare loop"].append(bare)
        if number < STOCK_ROUNDS:
            found["mlx-lm's trainer"].append(_stock(model, settled, batches, out))
    return {"rounds": found, "median": {name: statistics.median(each) for name, each in found.items()}}


def _both(model: Model, settled: Config, batches: Sequence[Batch], out: Path) -> tuple[float, float]:
    """Seconds a real token of engram's own training, checkpoints, callbacks and curve included; and of the bare loop.

    They take turns, a step of each, so that what else the machine does is beside both.
    """
    bare = _step(model, settled, len(batches))
    spent = {"engram": 0.0, "bare loop": 0.0}

    class Turns(Silent):
        def step(self, step: int, *_: object) -> None:
            now = time.perf_counter()
            bare(batches[step - 1])
            if step > WARM_UP:
                spent["engram"] += now - self.resumed
                spent["bare loop"] += time.perf_counter() - now
            self.resumed = time.perf_counter()

    out.mkdir(parents=True, exist_ok=True)
    backends.get("mlx").train(model, Plan(batches), settled, out, Turns(), Keeper(out / "checkpoint", {}))
    tokens = sum(batch.real_tokens for batch in batches[WARM_UP:])
    return spent["engram"] / tokens, spent["bare loop"] / tokens


def _step(model: Model, settled: Config, steps: int) -> Callable[[Batch], None]:
    import mlx.core as mx
    import mlx.nn as nn

    from engram.backends.mlx import linux_cpu, training
    from engram.backends.mlx import model as mlx_model

    loaded = mlx_model.load(model)
    loaded.freeze()
    mlx_model.attach(loaded, settled)
    loaded.train()
    optimizer = training.adamw(settled, learning_rates(settled, steps))
    graded = nn.value_and_grad(loaded, _loss)

    def step(batch: Batch) -> None:
        with linux_cpu.lazily():
            loss, gradients = graded(loaded, *mlx_model.arrays(batch))
        optimizer.update(loaded, gradients)
        mx.eval(loss, loaded.state, optimizer.state)

    return step


def _loss(model: Any, tokens: Any, positions: Any, targets: Any, weights: Any) -> Any:
    """The mean loss of a batch, computed as one part."""
    from engram.backends.mlx import model as mlx_model

    return (mlx_model.token_losses(model, tokens, positions, targets) * weights).sum() / weights.sum()


def _stock(model: Model, settled: Config, batches: Sequence[Batch], out: Path) -> float:
    """Seconds a real token of mlx-lm's trainer with its own loss and batches, on the rows of these batches."""
    import mlx.optimizers as optim
    from mlx_lm.tuner.trainer import TrainingArgs
    from mlx_lm.tuner.trainer import train as mlx_train

    from engram.backends import silenced
    from engram.backends.mlx import model as mlx_model

    loaded = mlx_model.load(model)
    loaded.freeze()
    mlx_model.attach(loaded, settled)
    rows = [row for batch in batches for row in _rows(batch)]
    arguments = TrainingArgs(
        batch_size=settled.batch_size,
        iters=len(batches),
        steps_per_report=1,
        adapter_file=str(out / "stock.safetensors"),
    )
    seconds: list[float] = []

    class Report:
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            seconds.append(1 / info["iterations_per_second"])

    with silenced():
        mlx_train(loaded, optim.Adam(learning_rate=1e-5), rows, None, arguments, training_callback=Report())
    real = sum(len(tokens) for tokens, _ in rows) / len(batches)  # a step, on average: its batches are drawn
    return statistics.mean(seconds[WARM_UP:]) / real


def _rows(batch: Batch) -> Iterator[tuple[list[int], int]]:
    """Each row as mlx-lm's datasets give it: its tokens, and where its answer begins."""
    real = batch.weights > 0
    for row, tokens in enumerate(batch.tokens):
        mine = real & (batch.owners == row)
        first = int(batch.positions[mine].min()) % batch.tokens.shape[1]
        yield [*tokens[: first + 1].tolist(), *batch.targets[mine].tolist()], first + 1


def _profile(order: dict[str, Any]) -> dict[str, Any]:
    import mlx.core as mx
    import mlx.nn as nn

    from engram.backends.mlx import linux_cpu
    from engram.backends.mlx import model as mlx_model

    model, settled, plan = _planned(order)
    batches = plan.batches[: order["steps"]]
    loaded = mlx_model.load(model)
    loaded.freeze()
    trainable = mlx_model.attach(loaded, settled)
    loaded.train()
    graded, step = nn.value_and_grad(loaded, _loss), _step(model, settled, len(plan.batches))

    def backward(batch: Batch) -> None:
        with linux_cpu.lazily():
            mx.eval(graded(loaded, *mlx_model.arrays(batch)))

    ways: dict[str, Callable[[Batch], Any]] = {
        "forward, blocks": lambda batch: mx.eval(mlx_model.parts(loaded)[0](mx.array(batch.tokens))),
        "and loss": lambda batch: mx.eval(_loss(loaded, *mlx_model.arrays(batch))),
        "and backward": backward,
        "and optimizer": step,
    }
    cumulated = {name: statistics.median(_timed(way, batches)) for name, way in ways.items()}
    real, answers = (sum(getattr(b, name) for b in batches) / len(batches) for name in ("real_tokens", "answer_tokens"))
    rate, whole = _product_rate(loaded), cumulated["and optimizer"]
    operations = _operations(loaded, real, answers, trainable)
    return {
        "milliseconds": {name: 1e3 * seconds for name, seconds in cumulated.items()},
        "tokens_a_step": {
            "real": real,
            "answer": answers,
            "padded": sum(b.tokens.size for b in batches) / len(batches),
        },
        "operations_a_step": operations,
        "operations_per_second": rate,
        "floor_milliseconds": 1e3 * operations / rate,
        "share_of_floor": operations / rate / whole,
        "parameters": model.parameters,
    }


def _timed(way: Callable[[Batch], Any], batches: Sequence[Batch]) -> list[float]:
    seconds = []
    for batch in [*batches[:1], *batches]:
        started = time.perf_counter()
        way(batch)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def _operations(loaded: Any, real: float, answers: float, trainable: int) -> float:
    """Multiplications and additions that a step of LoRA cannot do without.

    Frozen weights: forward, and backward to the activations; adapters: also to themselves; the head on answer tokens
    alone. Attention's own products are left out: under a hundredth at these lengths.
    """
    from mlx.utils import tree_flatten

    blocks = sum(value.size for name, value in tree_flatten(loaded.parameters()) if name.endswith("linear.weight"))
    head = loaded.args.vocab_size * loaded.args.hidden_size
    return real * (2 * 2 * blocks + 3 * 2 * trainable) + answers * 2 * 2 * head


def _product_rate(loaded: Any) -> float:
    """Operations a second of a product of the model's own MLP shape, float32: the best of twenty."""
    import mlx.core as mx

    rows, width, hidden = 512, loaded.args.hidden_size, loaded.args.intermediate_size
    one, other = mx.random.normal((rows, width)), mx.random.normal((width, hidden))
    mx.eval(one, other)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        mx.eval(one @ other)
        best = min(best, time.perf_counter() - started)
    return 2 * rows * width * hidden / best


def _cpu(order: dict[str, Any]) -> dict[str, Any]:
    backend = backends.get("cpu")
    model, settled, plan = _planned(order)
    batches, out = plan.batches[: order["steps"]], Path(order["out"])
    out.mkdir(parents=True, exist_ok=True)
    settled = dataclasses.replace(settled, steps=len(batches), validate_every=10**6)
    run_ = backend.train(model, Plan(batches), settled, out, Silent())
    answers = sum(batch.answer_tokens for batch in batches[WARM_UP:])
    return {"answer_tokens_per_second": answers / sum(run_.seconds[WARM_UP:])}


def _plan(order: dict[str, Any]) -> dict[str, Any]:
    model = resolve("tiny")
    settled = config.load_config("default", model.parameters, 0, {"replay": "0", "epochs": "1"})
    started = time.perf_counter()
    plan = train.planned(model, settled, Path(order["data"]))
    return {"seconds": time.perf_counter() - started, "rows": sum(len(batch.ids) for batch in plan.batches)}


TASKS = {"overhead": _overhead, "profile": _profile, "cpu": _cpu, "plan": _plan}

if __name__ == "__main__":
    done(TASKS)
