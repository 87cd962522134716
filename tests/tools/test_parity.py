"""What keeps MLX and Unsloth on one loss curve: each test fails where its neutralisation is undone."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest

if not (importlib.util.find_spec("unsloth") and importlib.util.find_spec("mlx_lm")):
    pytest.skip("needs both backends: make setup; make setup BACKEND=cpu", allow_module_level=True)

from engram import backends

TORCH = backends.get("cpu")  # Unsloth before transformers

import numpy as np
from small_run import Quiet

from engram.backends import Loaded
from engram.backends.mlx import backend as mlx
from engram.backends.mlx import generate as mlx_generate
from engram.backends.mlx import model as mlx_model
from engram.backends.mlx import training as numerics
from engram.backends.unsloth import process, training
from engram.dataset import build
from engram.models import model, tokenizer
from engram.models.adapters import initial_factor
from engram.patterns.loading import find_files, load_patterns
from engram.plan import batches as encoding
from engram.plan import documents
from engram.plan.batches import Batch, Plan
from engram.plan.config import Config, learning_rates
from engram.support.files import PACKAGE
from engram.training import replay, train
from tools.parity import campaign, changes, compare
from tools.parity.deviations import DEVIATIONS
from tools.parity.main import REFERENCE
from tools.parity.run import recipe

TINY = model.resolve("tiny")
STEPS = 15
LAYERS = 6 * 7  # blocks, linear layers in each


class Watched(NamedTuple):
    """A short run of one backend: what it was given and what it made of it."""

    losses: list[float]
    rates: list[float]
    order: list[int]
    adapter: Path


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, list[Batch], list[tokenizer.Encoded]]:
    data, files = tmp_path_factory.mktemp("data"), find_files()
    build.write_data(load_patterns(files), files, data / "data", 0)
    config = dataclasses.replace(recipe("default", TINY.parameters, 0), steps=STEPS, validate_every=STEPS + 1)
    encoder = tokenizer.load_encoder(TINY)
    rows = encoding.encode(encoder, build.read_split(data / "data", "train"), config.max_length)
    plan = encoding.plan_batches(rows, config)
    batches = [encoding.make_batch([rows[i] for i in numbers], encoder.pad_id) for numbers in plan]
    own = replay.of(Loaded("mlx", TINY), encoder)
    return config, train.with_replay(batches, own, config, encoder.pad_id), rows


@pytest.fixture(scope="module")
def watched(planned: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Watched]]:
    yield {"mlx": _watch_mlx(planned, tmp_path_factory), "cpu": _watch_torch(planned, tmp_path_factory)}


def _watch_mlx(planned: Any, folders: pytest.TempPathFactory) -> Watched:
    (config, batches, _), out, rates, order = planned, folders.mktemp("mlx"), [], []
    graded, adamw = numerics.Gradients.__call__, numerics.adamw

    def noted(gradients: Any, batch: Batch, total: float) -> Any:
        order.extend(i for i, one in enumerate(batches) if one is batch)  # replay rows are none of these
        return graded(gradients, batch, total)

    def optimizer(*arguments: Any) -> Any:
        made = adamw(*arguments)
        update = made.update

        def noting(*given: Any) -> None:
            update(*given)
            rates.append(made.learning_rate)

        made.update = noting
        return made

    with mock.patch.object(numerics.Gradients, "__call__", noted), mock.patch.object(numerics, "adamw", optimizer):
        run = mlx.train(TINY, Plan(batches), config, out, Quiet())
    return Watched(run.losses, [float(rate.item()) for rate in rates], order, out)


def _watch_torch(planned: Any, folders: pytest.TempPathFactory) -> Watched:
    import torch

    (config, batches, _), out, rates, order = planned, folders.mktemp("cpu"), [], []
    inputs = training.inputs

    def noted(batch: Batch) -> Any:
        order.append(next(i for i, one in enumerate(batches) if one is batch))
        return inputs(batch)

    class AdamW(torch.optim.AdamW):
        def step(self, *arguments: Any, **options: Any) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(*arguments, **options)

    with mock.patch.object(training, "inputs", noted), mock.patch("torch.optim.AdamW", AdamW):
        run = TORCH.train(TINY, Plan(batches), config, out, Quiet())
    return Watched(run.losses, rates, order, out)


def test_the_curves_are_one(watched: dict[str, Watched]) -> None:
    apart = compare.curves(watched["mlx"].losses, watched["cpu"].losses)
    assert apart["steps"] == STEPS
    assert apart["largest"] < 5e-5  # one sum in sequence makes it 3e-4, one correction in float32 5e-5
    assert watched["mlx"].losses[-1] < watched["mlx"].losses[0] - 1


def test_both_backends_get_the_plan(watched: dict[str, Watched]) -> None:
    assert watched["mlx"].order[:STEPS] == watched["cpu"].order[:STEPS] == list(range(STEPS))


def test_learning_rates_are_the_same(planned: Any, watched: dict[str, Watched]) -> None:
    wanted = learning_rates(planned[0], STEPS)
    assert watched["cpu"].rates == pytest.approx(wanted, rel=1e-6)
    assert watched["mlx"].rates == pytest.approx(wanted, rel=1e-6)


def test_the_final_adapters_agree_by_engrams_names(watched: dict[str, Watched]) -> None:
    apart = compare.adapters(watched["mlx"].adapter, watched["cpu"].adapter)
    assert apart["tensors"] == 2 * LAYERS
    assert apart["rms"] < 1e-3 * apart["weights_rms"]


@pytest.mark.parametrize("changed", [{}, {"clip": 0.5}, {"weight_decay": 0.1}, {"epsilon": 1e-3}])
def test_one_optimizer_step_is_torchs(changed: dict[str, float]) -> None:
    """Bias correction, epsilon, decay and clipping: three steps on the same tensors."""
    import mlx.core as mx
    import torch
    from mlx.nn import Module

    config = Config(learning_rate=1e-2, **changed)  # type: ignore[arg-type]
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(8, 4)).astype(np.float32)
    gradients = [draw.normal(size=(8, 4)).astype(np.float32) * 10.0**-step for step in range(3)]
    theirs = torch.nn.Parameter(torch.from_numpy(weights.copy()))
    stock = torch.optim.AdamW(
        [theirs], lr=1e-2, betas=(config.beta1, config.beta2), eps=config.epsilon, weight_decay=config.weight_decay
    )
    holder, ours = Module(), numerics.adamw(config, [1e-2] * 3)
    holder.weight = mx.array(weights)
    for gradient in gradients:
        theirs.grad = torch.from_numpy(gradient.copy())
        if config.clip:
            torch.nn.utils.clip_grad_norm_([theirs], config.clip)
        stock.step()
        ours.update(holder, {"weight": mx.array(gradient)})
        assert np.array(holder.weight) == pytest.approx(theirs.detach().numpy(), abs=1e-6)


def test_bias_corrections_are_those_of_double_precision() -> None:
    """With a constant gradient and no epsilon every corrected step is the learning rate itself."""
    import mlx.core as mx
    from mlx.nn import Module

    holder, optimizer = Module(), numerics.adamw(Config(epsilon=0.0), [1.0] * 5)
    for _ in range(5):
        holder.weight = mx.zeros((1,))
        optimizer.update(holder, {"weight": mx.ones((1,))})
        assert holder.weight.item() == pytest.approx(-1, abs=1e-6)  # MLX's own: 6e-6 to 1e-5 off


def test_the_loss_and_its_gradient_are_exact() -> None:
    """Thousands of small exponentials beside a large one, in a vocabulary that is no multiple of anything."""
    import mlx.core as mx

    logits = np.full((2, 4099), -17.0, dtype=np.float32)
    logits[:, 0] = 0.0
    targets = np.array([0, 5])
    exact = np.exp(logits.astype(np.float64))
    share = exact / exact.sum(-1, keepdims=True)
    wanted = share.copy()
    wanted[np.arange(2), targets] -= 1

    def total(values: Any) -> Any:
        return mlx_model.cross_entropy(values, mx.array(targets)).sum()

    loss, gradient = mx.value_and_grad(total)(mx.array(logits))
    assert loss.item() == pytest.approx(-np.log(share[np.arange(2), targets]).sum(), rel=1e-6)
    assert np.array(gradient) == pytest.approx(wanted, abs=1e-5)  # summed in sequence: 1.7e-4 off


@pytest.mark.parametrize("backend", ["mlx", "cpu"])
def test_padding_changes_no_loss(backend: str) -> None:
    encoder = tokenizer.load_encoder(TINY)
    batch = encoding.make_batch([encoder.example("One", "two"), encoder.example("Three words", "four")], encoder.pad_id)
    length = batch.tokens.shape[1]
    wider = np.pad(batch.tokens, ((0, 0), (0, 32)), constant_values=encoder.pad_id)
    row, column = np.divmod(batch.positions, length)
    padded = dataclasses.replace(batch, tokens=wider, positions=(row * (length + 32) + column).astype(np.int32))
    session = backends.get(backend).load(TINY)
    assert _loss(backend, session, padded) == pytest.approx(_loss(backend, session, batch), abs=1e-5)


def _loss(backend: str, session: Any, batch: Batch) -> float:
    if backend == "mlx":
        losses, _ = mlx_generate.judged(session.model, batch)
        return float((losses * batch.weights).sum() / batch.answer_tokens)
    return float(session.model(**training.inputs(batch), use_cache=False).loss.detach())


@pytest.fixture(scope="module")
def attached() -> tuple[Any, Any, Config]:
    """Both models with their fresh adapters."""
    config = Config(rank=4, alpha=12.0, seed=3)
    ours = mlx_model.load(TINY)
    ours.freeze()
    mlx_model.attach(ours, config)
    with process.quiet():
        loaded = process.load_model(TINY, 512, "none", config)
        theirs = process.attach(loaded, config, training.linear_layers(loaded))
        training.start_at_the_shared_adapter(theirs, config)
    return ours, theirs, config


def test_both_backends_start_from_one_adapter(attached: Any) -> None:
    """In every linear layer of every block: mlx-lm's own default would leave out all but the last 16."""
    from mlx.utils import tree_flatten

    ours, theirs, config = attached
    mine = {name: np.array(value) for name, value in tree_flatten(ours.trainable_parameters())}
    other = {
        name.removeprefix("base_model.model.").replace(f".lora_{old}.default.weight", f".lora_{new}"): value
        for name, value in theirs.named_parameters()
        if value.requires_grad
        for old, new in (("A", "a"), ("B", "b"))
        if f".lora_{old}." in name
    }
    assert len(mine) == 2 * LAYERS
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert (value == other[name].detach().numpy().T).all(), name
        if name.endswith(".lora_a"):
            assert (value == initial_factor(name.removesuffix(".lora_a"), len(value), config.rank, config.seed)).all()


def test_scale_is_alpha_over_rank_in_both(attached: Any) -> None:
    ours, theirs, _ = attached
    mine = [module.scale for _, module in ours.named_modules() if hasattr(module, "lora_a")]
    other = [module.scaling["default"] for _, module in theirs.named_modules() if hasattr(module, "lora_A")]
    assert mine == other == [3.0] * LAYERS


def test_everything_is_float32_on_a_cpu(attached: Any) -> None:
    import mlx.core as mx
    import torch
    from mlx.utils import tree_flatten

    if mx.default_device() == mx.cpu:
        assert {value.dtype for _, value in tree_flatten(attached[0].parameters())} == {mx.float32}
    assert {value.dtype for value in attached[1].parameters()} == {torch.float32}
    arguments = training._arguments(Config(), 1, cuda=False)
    assert (arguments.bf16, arguments.fp16) == (False, False)


def test_targets_take_the_worst_seed_and_decide_unless_they_are_reported_apart() -> None:
    def pair(recipe: str, far: float) -> dict[str, Any]:
        return {"recipe": recipe, "curves": compare.curves([1.0] * 200, [1.0] * 199 + [1 + far]), "answers": None}

    rows = compare.targets([pair("default", 0.0), pair("parity", 0.0), pair("parity", 0.25)], True, {})
    assert {(row["recipe"], row["name"]): (row["measured"], row["met"]) for row in rows} == {
        ("default", "first_100"): (0.0, True),
        ("default", "first_200"): (0.0, True),
        ("parity", "first_100"): (0.0, True),
        ("parity", "first_200"): (0.25, False),
    }
    assert campaign.exit_code({"targets": rows}) == 1 and campaign.exit_code({"targets": rows[:3]}) == 0
    apart = compare.targets([pair("parity", 0.25)], False, {})
    assert campaign.exit_code({"targets": apart}) == 0
    far = [compare.targets([pair("parity", 0.25)], True, {"parity": noise})[0] for noise in (0.1, 0.05)]
    assert [(row["name"], row["measured"], row["met"]) for row in far] == [("noise", 2.5, True), ("noise", 5.0, False)]


def test_weights_that_differ_by_rounding_are_one_unit_away_up_or_down() -> None:
    weights = np.linspace(-2, 2, 1001, dtype=np.float32)
    steps = np.abs(changes._away(weights) - weights) / np.spacing(np.abs(weights))
    assert set(np.sign(changes._away(weights) - weights)) == {-1, 1} and ((steps == 1) | (steps == 0.5)).all()


def test_the_reference_meets_its_targets_and_names_tests_that_exist() -> None:
    document = documents.read(REFERENCE / "parity.json", "parity", "make parity")
    assert campaign.exit_code(document) == 0
    assert (REFERENCE / "parity.json").stat().st_size < 100_000
    assert [d["name"] for d in document["deviations"]] == [d.name for d in DEVIATIONS]
    for deviation in DEVIATIONS:
        path, _, test = deviation.test.partition("::")
        assert f"def {test}" in (PACKAGE.parent / path).read_text("utf-8"), deviation.test
