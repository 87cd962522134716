"""One run, in a process of its own: train, answer and score; figures and adapter stay in the folder it is given."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from engram import backends
from engram.dataset import build
from engram.models import model, tokenizer
from engram.plan import batches as encoding
from engram.plan import config
from engram.plan.config import Config
from engram.support.files import write_text
from engram.training import replay, train
from engram.training.processes import Silent
from tools.parity import changes
from tools.worker import run_apart

MODULE = "tools.parity"
# what users run, and the same at a quarter of its learning rate
RECIPES: dict[str, dict[str, Any]] = {"default": {}, "parity": {"learning_rate": 1e-3}}


@dataclasses.dataclass(frozen=True)
class Order:
    """What one process is to do.

    `steps` is the length of the schedule (0: the recipe's own), `stop` after how many of them to end (0: all),
    `change` the name of a deviation or control, `prompts` how many test prompts to answer (-1: all, 0: none).
    """

    backend: str
    recipe: str
    seed: int
    steps: int
    stop: int
    change: str
    prompts: int
    data: str
    folder: str
    model: str = "tiny"


def apart(order: Order, seconds: float) -> dict[str, Any]:
    """The figures of a run in a process of its own, those at hand where it ended before, or `{"reason": …}`."""
    folder, asked = Path(order.folder), json.dumps(dataclasses.asdict(order))
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "order.json"
    if done.is_file() and done.read_text("utf-8") == asked:
        figures: dict[str, Any] = json.loads((folder / "figures.json").read_bytes())
        return figures
    environment = changes.ENVIRONMENT.get(order.change, {})
    figures = run_apart(MODULE, dataclasses.asdict(order), folder / "figures.json", seconds, environment)
    if "reason" not in figures:
        write_text(done, asked)
    return figures


def recipe(name: str, parameters: int, seed: int) -> Config:
    """The configuration of a recipe of `RECIPES` for a model of this size."""
    return dataclasses.replace(config.load_config("default", parameters, seed), **RECIPES[name])


def work(order: Order) -> None:
    """Train as ordered; the figures go to `figures.json`, the adapter to `adapter/`."""
    started = time.perf_counter()
    backend = backends.get(order.backend)  # before transformers, which Unsloth changes
    chosen = model.resolve(order.model)
    encoder = tokenizer.load_encoder(chosen)
    settled = recipe(order.recipe, chosen.parameters, order.seed)
    settled = dataclasses.replace(settled, steps=order.steps or settled.steps)
    rows, planned = train.rows_and_plan(encoder, settled, Path(order.data))
    settled = dataclasses.replace(settled, steps=len(planned), validate_every=len(planned) + 1)
    settled = changes.settings(order.change, settled)
    plan = changes.plan(order.change, rows, planned, settled, encoder)[: order.stop or None]
    batches = [encoding.make_batch(batch, encoder.pad_id) for batch in plan]
    if settled.replay:
        own = replay.of(backends.Loaded(order.backend, chosen), encoder)
        batches = train.with_replay(batches, own, settled, encoder.pad_id)
    adapter = Path(order.folder) / "adapter"
    adapter.mkdir(parents=True, exist_ok=True)
    with changes.in_place(order.change), _rates_of(len(planned)):
        run = backend.train(chosen, encoding.Plan(batches), settled, adapter, Silent())
    figures: dict[str, Any] = {
        "losses": run.losses,
        "train_seconds": sum(run.seconds),
        "device": run.device,
        "recipe": settled.as_dict(),
        "model": chosen.describe(),
    }
    if order.prompts:
        figures |= _answers(backend, chosen, adapter, encoder, settled, order)
    write_text(Path(order.folder) / "figures.json", json.dumps(figures | {"seconds": time.perf_counter() - started}))


def _answers(
    backend: backends.Backend, chosen: model.Model, adapter: Path, encoder: Any, settled: Config, order: Order
) -> dict[str, Any]:
    """Greedy answers as token ids, and nats per answer token, of the first test prompts."""
    test = build.read_split(Path(order.data), "test")[: order.prompts if order.prompts > 0 else None]
    session = backend.load(chosen, adapter)
    prompts = encoder.prompts([example.prompt for example in test])
    answers = backend.generate(session, prompts, encoder.stop_ids, settled.max_new_tokens)
    [nats] = backend.losses(session, encoding.encode(encoder, test, settled.max_length), encoder)
    return {"answers": [answer.tokens for answer in answers], "nats": nats}


@contextlib.contextmanager
def _rates_of(steps: int) -> Iterator[None]:
    """The learning rates of a run of `steps` steps, also where it ends earlier."""
    whole = config.learning_rates

    def rates(settled: Config, taken: int) -> list[float]:
        return whole(settled, max(steps, taken))[:taken]

    with contextlib.ExitStack() as stack:
        for name in ("mlx.backend", "unsloth.training"):
            stack.enter_context(mock.patch(f"engram.backends.{name}.learning_rates", rates))
        yield
