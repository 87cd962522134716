"""What NumPy computes for MLX on a CPU: the same numbers and gradients, whatever they are."""

from __future__ import annotations

import importlib.util
import math

import pytest

if not importlib.util.find_spec("mlx"):  # to import it here would keep every test after this one from the fast BLAS
    pytest.skip("MLX is not installed", allow_module_level=True)

from engram.backends.mlx import backend, linux_cpu, model
from engram.models.model import resolve

# isort: split
import mlx.core as mx


def close(one, other, tolerance):
    return bool(mx.allclose(one, other, rtol=tolerance, atol=tolerance).item())


def test_swiglu_is_mlx_lm_s_own_and_so_are_its_gradients():
    import mlx.nn as nn

    gate, x = (mx.random.normal((3, 40, 64), key=mx.random.key(i)) * 6 for i in range(2))
    assert close(linux_cpu._swiglu(gate, x), nn.silu(gate) * x, 1e-6)


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
    made = linux_cpu._swiglu(gate, mx.ones_like(gate)).tolist()[0]
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
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(3, 5, 128), (2, 128)])
def test_a_product_with_a_quantized_matrix_is_mlx_s_and_so_is_its_gradient(bits, shape):
    linux_cpu.use()
    x, whole = (mx.random.normal(one, key=mx.random.key(i)) for i, one in enumerate((shape, (64, 128))))
    w, scales, biases = mx.quantize(whole, group_size=64, bits=bits)
    more = {"scales": scales, "biases": biases, "transpose": True, "group_size": 64, "bits": bits, "mode": "affine"}
    one, other = mx.quantized_matmul, mx.quantized_matmul.plain
    assert close(one(x, w, **more), other(x, w, **more), 1e-4)
    slopes = [mx.grad(lambda x, f=f: f(x, w, **more).sum())(x) for f in (one, other)]
    assert close(*slopes, 1e-4)


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


# --- a new token of many rows: attention


def normal(*shape, seed=0):
    return mx.random.normal(shape, key=mx.random.key(seed))


def unexpected(*_, **__):
    raise AssertionError("MLX's own was called")


@pytest.mark.parametrize("heads, shared", [(3, 1), (4, 2), (2, 2)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_mlx_s_own(heads, shared, masked):
    rows, columns, size = 30, 40, 16
    queries, keys, values = normal(rows, heads, 1, size), *(normal(rows, shared, columns, size, seed=i) for i in (1, 2))
    mask = mx.arange(columns)[None, None, None] >= mx.arange(rows)[:, None, None, None] if masked else None
    theirs = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.25, mask=mask)
    ours = linux_cpu.attention(unexpected)(queries, keys, values, cache=object(), scale=0.25, mask=mask)
    assert ours.shape == theirs.shape
    assert mx.allclose(ours, theirs, rtol=1e-5, atol=1e-6).item()


def test_attention_of_anything_else_is_left_to_mlx():
    q, k = normal(30, 2, 1, 16), normal(30, 2, 40, 16)
    half, few, two = q.astype(mx.float16), q[:1], normal(30, 2, 2, 16)
    called = []
    scaled = linux_cpu.attention(lambda *given, **named: called.append((given, named)))
    for queries, cache, mask, sinks in (
        *((half, object(), None, None), (few, object(), None, None), (two, object(), "causal", None)),
        *((q, None, None, None), (q, object(), mx.zeros((30, 1, 1, 40)), None), (q, object(), None, mx.zeros(2))),
    ):
        assert scaled(queries, k[: len(queries)], k[: len(queries)], cache, scale=1.0, mask=mask, sinks=sinks) is None
    assert len(called) == 6 and called[-1][1]["sinks"] is not None


def test_the_most_likely_token_is_the_first_of_equal_ones():
    logits = mx.array([[0.0, 2.0, 2.0], [3.0, 1.0, 3.0]])
    assert linux_cpu.most_likely(logits).tolist() == mx.argmax(logits, axis=-1).tolist() == [1, 0]
    assert linux_cpu.most_likely(logits.astype(mx.float16)).tolist() == [1, 0]
