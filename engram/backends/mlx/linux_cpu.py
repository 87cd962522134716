"""MLX on Linux's CPU: NumPy for what its CPU build computes one number at a time.

The `mlx-cpu` wheel's exponential is a scalar function that calls libm for every fused multiply-add: 20 ns a number,
a third of an answer. NumPy takes 0.7 ns, and reads MLX's arrays where they are. Gradients are left to MLX (`lazily`).
This is the only module that patches mlx-lm, and only on a CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from engram.plan.batches import Floats

# of malloc.h: one arena for all threads, no block from the system below 32 MiB, nothing given back below 1 GiB
M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = (-8, 1), (-3, 32 << 20), (-1, 1 << 30)
FEW = 2048  # numbers; for fewer, as when one token is generated, waiting for MLX costs more than it saves
FEW_QUANTIZED = 8  # rows; for fewer MLX's own product with a quantized matrix is faster
_lazy = [False]  # whether this is inside `lazily`


@functools.cache
def use() -> None:
    """Let mlx-lm compute on this CPU as this module does; once, also in what has been imported of its models."""
    from mlx_lm.models import activations, base
    from mlx_lm.tuner.lora import LoRALinear

    _replace(activations, "swiglu", _chosen(activations.swiglu))
    _replace(base, "scaled_dot_product_attention", attention(base.scaled_dot_product_attention))
    LoRALinear.__call__ = _lora
    mx.quantized_matmul = quantized(mx.quantized_matmul)
    _keep_memory()


def _replace(home: Any, name: str, fast: Any) -> None:
    """Put a function in the place of another, also where mlx-lm's models have imported it."""
    plain = getattr(home, name)
    setattr(home, name, fast)
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("mlx_lm.models.") and getattr(module, name, None) is plain:
            setattr(module, name, fast)


def _lora(layer: Any, x: Any) -> Any:
    """A linear layer with its adapter, which is scaled where it is narrow and added where it is multiplied."""
    narrow = (layer.dropout(x) @ layer.lora_a) * layer.scale
    return mx.addmm(layer.linear(x), narrow.astype(x.dtype), layer.lora_b.astype(x.dtype))


def quantized(plain: Any) -> Any:
    """MLX's product with a quantized matrix, which for several rows is far slower here than with the whole one."""

    def product(x: Any, w: Any, /, scales: Any, biases: Any, **more: Any) -> Any:
        usual = w.ndim == 2 and biases is not None and more.get("transpose")
        if not usual or x.size < FEW_QUANTIZED * x.shape[-1]:
            return plain(x, w, scales=scales, biases=biases, **more)
        return _dequantized(more["group_size"], more["bits"])(x, w, scales, biases)

    product.plain = plain  # type: ignore[attr-defined]
    return product


@functools.cache
def _dequantized(group: int, bits: int) -> Any:
    """x times a matrix that is made whole for the moment: also for a gradient, so that none is kept in between."""

    @mx.custom_function
    def product(x: Any, w: Any, scales: Any, biases: Any) -> Any:
        return x @ mx.dequantize(w, scales, biases, group, bits).T

    @product.vjp
    def _(primals: Any, cotangent: Any, _output: Any) -> Any:
        _, w, scales, biases = primals
        return cotangent @ mx.dequantize(w, scales, biases, group, bits), *map(mx.zeros_like, primals[1:])

    return product


@contextlib.contextmanager
def lazily() -> Iterator[None]:
    """Around a gradient: MLX computes everything, so that it knows what is still needed, and frees the rest.

    NumPy waits for its arguments, and what MLX computes before it knows the whole gradient stays in memory.
    """
    _lazy[0] = True
    try:
        yield
    finally:
        _lazy[0] = False


def _keep_memory() -> None:
    """Have the C library keep freed memory for this process: every step would get the same pages back, zeroed."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc
        for option, value in (M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            mallopt(option, value)


def _chosen(plain: Any) -> Any:
    def swiglu(gate: Any, x: Any) -> Any:
        if _lazy[0] or gate.size < FEW or gate.dtype != mx.float32 or x.dtype != mx.float32:
            return plain(gate, x)
        return _swiglu(gate, x)

    swiglu.plain = plain  # type: ignore[attr-defined]
    return swiglu


@mx.custom_function
def _swiglu(gate: Any, x: Any) -> Any:
    """silu(gate) · x; a gradient of it is refused, since it needs `lazily`."""
    silu = np.negative(_host(gate))
    with np.errstate(over="ignore"):  # infinity's inverse is the 0 that is meant
        np.exp(silu, out=silu)
    silu += 1
    np.reciprocal(silu, out=silu)
    silu *= _host(gate)
    silu *= _host(x)
    return mx.array(silu)


@_swiglu.vjp
def _(*_: Any) -> Any:
    raise RuntimeError("a gradient outside of linux_cpu.lazily()")


def cross_entropy(logits: Any, targets: Any) -> Floats:
    """Cross-entropy in float32 [rows] of logits [rows, vocabulary] at the targets [rows], without a gradient.

    NumPy adds in pairs, so that a large vocabulary's small terms are not lost in a large sum.
    """
    scores, chosen = _host(logits), _host(targets)
    top = scores.max(axis=-1)
    with np.errstate(invalid="ignore"):  # infinite logits give a loss that is no number, and that is said elsewhere
        powers = np.exp(scores - top[:, None])
    losses: Floats = np.log(powers.sum(axis=-1)) + (top - scores[np.arange(len(chosen)), chosen])
    return losses


def _host(array: Any) -> Any:
    """An MLX array as NumPy sees the same memory; waits until it is computed."""
    return np.array(array, copy=False)


def attention(plain: Any) -> Any:
    """mlx-lm's `scaled_dot_product_attention`, the softmax of new tokens in NumPy."""

    def scaled(
        queries: Any, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: Any = None, **more: Any
    ) -> Any:
        rows, heads, new, size = queries.shape
        usual = cache is not None and new == 1 and sinks is None and not more
        exact = isinstance(keys, mx.array) and queries.dtype == keys.dtype == mx.float32  # not a quantized one's parts
        known = mask is None or (isinstance(mask, mx.array) and mask.dtype == mx.bool_)
        if not (usual and exact and known) or rows * heads * keys.shape[2] < FEW:
            return plain(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks, **more)
        shared = keys.shape[1]
        shares = np.array((queries * scale).reshape(rows, shared, heads // shared, size) @ keys.swapaxes(-1, -2))
        if mask is not None:  # [rows, 1, 1, columns]
            np.copyto(shares, -np.inf, where=~np.array(mask))
        shares -= shares.max(axis=-1, keepdims=True)
        np.exp(shares, out=shares)
        shares /= shares.sum(axis=-1, keepdims=True)
        return (mx.array(shares) @ values).reshape(rows, heads, 1, values.shape[-1])

    scaled.plain = plain  # type: ignore[attr-defined]
    return scaled


def most_likely(logits: Any) -> Any:
    """The index of the largest of each row's logits [rows, vocabulary], the first of equal ones."""
    if mx.default_device() != mx.cpu or logits.dtype != mx.float32:
        return mx.argmax(logits, axis=-1)
    return mx.array(np.array(logits, copy=False).argmax(axis=-1).astype(np.uint32))
