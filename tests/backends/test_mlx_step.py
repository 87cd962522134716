"""A new token of many rows: NumPy's attention and the positions computed before give what MLX gives."""

from __future__ import annotations

import importlib.util

import pytest

if not importlib.util.find_spec("mlx"):  # to import it here would keep every test after this one from the fast BLAS
    pytest.skip("MLX is not installed", allow_module_level=True)

from engram.backends.mlx import linux_cpu, model

mx = model.core()


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


@pytest.mark.parametrize("base, scale", [(10000.0, 1.0), (100000.0, 0.5)])
def test_rotation_is_mlx_s_own_to_the_last_bit(base, scale):
    import mlx.nn as nn

    layer = nn.RoPE(16, traditional=False, base=base, scale=scale)
    x = normal(5, 3, 1, 16)
    rotated = linux_cpu.rotation(unexpected)
    for offset in (mx.array([0, 1, 7, 300, 511]), mx.array([3, 512, 2000, 9, 9])):
        theirs = mx.fast.rope(x, 16, traditional=False, base=base, scale=scale, offset=offset)
        assert mx.array_equal(rotated(layer, x, offset), theirs).item()
    grown = mx.array([1, 1, 1, 1, 1])
    before = rotated(layer, x, grown)
    grown += 1  # in place: it is the same object
    assert not mx.array_equal(rotated(layer, x, grown), before).item()


def test_rotation_of_anything_else_is_left_to_mlx():
    import mlx.nn as nn

    x, offset = normal(5, 3, 1, 16), mx.zeros(5, mx.int32)
    rotated = linux_cpu.rotation(lambda *_: None)
    layer = nn.RoPE(16)
    for of, given, at in (
        *((layer, x, 3), (layer, normal(5, 3, 2, 16), offset), (layer, x.astype(mx.float16), offset)),
        *((nn.RoPE(16, traditional=True), x, offset), (nn.RoPE(8), x, offset), (layer, x, offset - 1)),
    ):
        assert rotated(of, given, at) is None


def test_the_most_likely_token_is_the_first_of_equal_ones():
    logits = mx.array([[0.0, 2.0, 2.0], [3.0, 1.0, 3.0]])
    assert linux_cpu.most_likely(logits).tolist() == mx.argmax(logits, axis=-1).tolist() == [1, 0]
    assert linux_cpu.most_likely(logits.astype(mx.float16)).tolist() == [1, 0]
