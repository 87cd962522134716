"""What NumPy computes for MLX on a CPU: the same numbers and gradients, whatever they are."""

from __future__ import annotations

import importlib.util
import math

import pytest

if not importlib.util.find_spec("mlx"):  # to import it here would keep every test after this one from the fast BLAS
    pytest.skip("MLX is not installed", allow_module_level=True)

from engram.backends.mlx import backend, linux_cpu, model, training
from engram.models.model import resolve
from engram.plan.config import Config

mx = model.core()


def close(one, other, tolerance):
    return bool(mx.allclose(one, other, rtol=tolerance, atol=tolerance).item())


def test_swiglu_is_mlx_lm_s_own_and_so_are_its_gradients():
    import mlx.nn as nn

    gate, x = (mx.random.normal((3, 40, 64), key=mx.random.key(i)) * 6 for i in range(2))
    assert close(linux_cpu._swiglu()(gate, x), nn.silu(gate) * x, 1e-6)


def test_a_gradient_is_mlx_s_own_or_refused():
    import mlx_lm.models.llama as llama

    linux_cpu.use()
    gate = mx.random.normal((3, 40, 64), key=mx.random.key(1))
    with pytest.raises(RuntimeError, match="lazily"):
        mx.grad(lambda g: llama.swiglu(g, gate).sum())(gate)
    with linux_cpu.lazily():
        slopes = mx.grad(lambda g: llama.swiglu(g, gate).sum())(gate)
    assert close(slopes, mx.grad(lambda g: llama.swiglu.plain(g, gate).sum())(gate), 1e-6)


def test_swiglu_of_extreme_numbers():
    gate = mx.array([[-1e30, -200.0, 0.0, 200.0, 1e30]])
    made = linux_cpu._swiglu()(gate, mx.ones_like(gate)).tolist()[0]
    assert made == [0.0, 0.0, 0.0, 200.0, pytest.approx(1e30)]


@pytest.mark.parametrize("vocabulary", [64, 4096, 5000])
def test_cross_entropy_is_mlx_s(vocabulary):
    logits = mx.random.normal((9, vocabulary), key=mx.random.key(1)) * 8
    targets = mx.random.randint(0, vocabulary, (9,), key=mx.random.key(2))
    assert close(mx.array(linux_cpu.cross_entropy(logits, targets)), model.cross_entropy(logits, targets), 1e-5)


def test_cross_entropy_of_a_nearly_certain_target_is_exact():
    """Thousands of small terms beside a large one: float32 added up one by one would lose them."""
    logits = mx.concatenate([mx.array([[12.0]]), mx.zeros((1, 49_151))], axis=1)
    exact = math.log1p(49_151 * math.exp(-12))
    for losses in (linux_cpu.cross_entropy, model.cross_entropy):
        assert losses(logits, mx.array([0])).tolist()[0] == pytest.approx(exact, rel=1e-5)


def test_logits_that_are_no_numbers_give_a_loss_that_is_none():
    logits = mx.array([[0.0, float("nan")], [0.0, float("inf")]])
    assert all(math.isnan(loss) for loss in linux_cpu.cross_entropy(logits, mx.array([0, 0])).tolist())


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="on a GPU MLX computes by itself")
def test_models_use_it_on_a_cpu():
    session = backend.load(resolve("tiny"))
    import mlx_lm.models.llama as llama

    assert llama.swiglu.plain is not llama.swiglu
    few, many = mx.ones((1, 1, 512)), mx.ones((64, 1, 512))
    assert close(llama.swiglu(few, few), llama.swiglu(many, many)[:1], 1e-6)
    assert session.model.model.layers[0].mlp(mx.ones((1, 1, 192))).shape == (1, 1, 192)


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="on a GPU mlx-lm's own layer is used")
def test_an_adapted_layer_is_the_linear_one_and_the_scaled_product():
    from mlx_lm.tuner.lora import LoRALinear

    linux_cpu.use()
    layer = LoRALinear(8, 6, r=2, scale=3.0)
    layer.lora_b = mx.random.normal((2, 6))
    x = mx.random.normal((2, 5, 8))
    expected = layer.linear(x) + 3.0 * ((x @ layer.lora_a) @ layer.lora_b)
    assert close(layer(x), expected, 1e-5)


def test_all_parameters_at_once_are_updated_as_each_by_itself():
    config = Config(learning_rate=0.1, weight_decay=0.01)
    shapes = {"a": (3, 4), "b": (5,), "c": (1, 1)}
    draw = {name: mx.random.normal(shape) for name, shape in shapes.items()}
    slopes = {name: mx.random.normal(shape) for name, shape in shapes.items()}
    together = dict(draw)
    one_by_one = {name: {name: value} for name, value in draw.items()}
    joined = training.adamw(config, [0.1] * 3)
    single = {name: training.adamw(config, [0.1] * 3) for name in draw}
    for _ in range(3):
        together = joined.apply_gradients(slopes, together)
        for name in draw:
            one_by_one[name] = single[name].apply_gradients({name: slopes[name]}, one_by_one[name])
    for name, shape in shapes.items():
        assert together[name].shape == shape
        assert mx.array_equal(together[name], one_by_one[name][name]).item()
        assert not mx.array_equal(together[name], draw[name]).item()
