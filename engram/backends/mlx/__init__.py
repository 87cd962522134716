"""mlx-lm: Apple Silicon's GPU; on Linux the same code on MLX's CPU build."""

from __future__ import annotations

import importlib.util
import platform

from engram.backends.mlx import blas
from engram.support.errors import EngramError

blas.prepare()  # before MLX is imported, which takes the BLAS that is loaded


def require(name: str = "mlx") -> None:
    """Raise an EngramError if mlx or mlx-lm is not installed."""
    if not (importlib.util.find_spec("mlx") and importlib.util.find_spec("mlx_lm")):
        fix = "make setup, or in the checkout: pip install '.[mlx]'"
        raise EngramError("the MLX backend is not installed", where=f"BACKEND={name}", fix=fix)


def device() -> str:
    """What MLX computes on, in words."""
    import mlx.core as mx

    if mx.default_device() == mx.gpu:
        return f"Apple GPU ({mx.device_info().get('device_name', 'Metal')})"
    return f"CPU ({platform.machine()}, {blas.prepare().split(' (')[0]})"
