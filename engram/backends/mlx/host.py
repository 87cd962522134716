"""What MLX's CPU build computes one number at a time, computed by NumPy's vector instructions instead.

The `mlx-cpu` wheel's exponential is a scalar function that calls libm for every fused multiply-add: 20 ns a number,
a quarter of a training step. NumPy's takes 0.7 ns. Each function here is a `mx.custom_function` with its own gradient;
the arrays that it reads are shared with MLX, not copied. On a GPU none of this is used.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import TYPE_CHECKING, Any

from engram.backends.mlx import step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

# of malloc.h: one arena for all threads, no block from the system below 32 MiB, nothing given back below 1 GiB
_MALLOC = {"M_ARENA_MAX": (-8, 1), "M_MMAP_THRESHOLD": (-3, 32 << 20), "M_TRIM_THRESHOLD": (-1, 1 << 30)}
FEW = 2048  # numbers; for fewer, as when one token is generated, waiting for MLX costs more than it saves


@functools.cache
def use() -> None:
    """Let mlx-lm compute on this CPU as this module does; once, also in what has been imported of its models."""
    from mlx import nn
    from mlx_lm.models import activations, base
    from mlx_lm.tuner.lora import LoRALinear

    _replace(activations, "swiglu", _chosen(activations.swiglu))
    _replace(base, "scaled_dot_product_attention", step.attention(base.scaled_dot_product_attention))
    nn.RoPE.__call__ = step.rotation(nn.RoPE.__call__)
    LoRALinear.__call__ = _lora
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
    import mlx.core as mx

    narrow = (layer.dropout(x) @ layer.lora_a) * layer.scale
    return mx.addmm(layer.linear(x), narrow.astype(x.dtype), layer.lora_b.astype(x.dtype))


def _keep_memory() -> None:
    """Have the C library keep freed memory for this process: every step would get the same pages anew, zeroed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # glibc
        for option, value in _MALLOC.values():
            mallopt(option, value)


def cross_entropy(logits: Any, targets: Any) -> Any:
    """Cross-entropy in float32 [rows] of logits [rows, vocabulary] at the targets [rows], and its gradient.

    NumPy adds in pairs, so that a large vocabulary's small terms are not lost beside a large sum.
    """
    return _cross_entropy()(logits, targets)


def _chosen(plain: Any) -> Any:
    import mlx.core as mx

    fast = _swiglu()

    def swiglu(gate: Any, x: Any) -> Any:
        if gate.size < FEW or gate.dtype != mx.float32 or x.dtype != mx.float32:
            return plain(gate, x)
        return fast(gate, x)

    swiglu.plain = plain  # type: ignore[attr-defined]
    return swiglu


@functools.cache
def _swiglu() -> Any:
    """silu(gate) · x, and its gradient."""
    import mlx.core as mx

    @mx.custom_function
    def swiglu(gate: Any, x: Any) -> Any:
        silu = _host(gate) * _sigmoid(_host(gate))
        silu *= _host(x)
        return mx.array(silu)

    @swiglu.vjp
    def vjp(primals: Any, cotangent: Any, _: Any) -> tuple[Any, Any]:
        gate, x, upper = (_host(one) for one in (*primals, cotangent))
        sigmoid = _sigmoid(gate)
        silu = gate * sigmoid
        to_x = mx.array(upper * silu)
        # d silu / d gate = sigmoid + silu · (1 - sigmoid)
        silu -= silu * sigmoid
        silu += sigmoid
        silu *= x
        silu *= upper
        return mx.array(silu), to_x

    return swiglu


@functools.cache
def _cross_entropy() -> Any:
    import mlx.core as mx
    import numpy as np

    @mx.custom_function
    def cross_entropy(logits: Any, targets: Any) -> Any:
        scores, chosen = _host(logits), _host(targets)
        top = scores.max(axis=-1)
        with np.errstate(invalid="ignore"):  # infinite logits give a loss that is no number, and that is said elsewhere
            powers = np.exp(scores - top[:, None])
        return mx.array(np.log(powers.sum(axis=-1)) + (top - scores[np.arange(len(chosen)), chosen]))

    @cross_entropy.vjp
    def vjp(primals: Any, cotangent: Any, losses: Any) -> tuple[Any, Any]:
        scores, chosen, upper, lost = (_host(one) for one in (*primals, cotangent, losses))
        rows = np.arange(len(chosen))
        whole = lost + scores[rows, chosen]  # the log of the sum of all exponentials
        shares = scores - whole[:, None]
        np.exp(shares, out=shares)
        shares[rows, chosen] -= 1
        shares *= upper[:, None]
        return mx.array(shares), mx.zeros_like(primals[1])

    return cross_entropy


def _sigmoid(values: Floats) -> Floats:
    import numpy as np

    result: Floats = np.negative(values)
    with np.errstate(over="ignore"):  # infinity's inverse is the 0 that is meant
        np.exp(result, out=result)
    result += 1
    return np.reciprocal(result, out=result)


def _host(array: Any) -> Any:
    """An MLX array as NumPy sees the same memory; waits until it is computed."""
    import numpy as np

    return np.array(array, copy=False)
