"""Files that are whole or absent, their hashes, and where the bundled folders lie."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engram.errors import EngramError

PACKAGE = Path(__file__).resolve().parent
BUNDLED = PACKAGE / "bundled"


def bundled(name: str) -> Path:
    """The folder `name` (`schemas`, `patterns`) of the checkout, or its copy inside an installed package."""
    checkout = PACKAGE.parent / name
    return checkout if (PACKAGE.parent / "pyproject.toml").is_file() and checkout.is_dir() else BUNDLED / name


@contextlib.contextmanager
def readable_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn the operating system's refusals (permission, full disk, wrong kind of file) into an EngramError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise EngramError(
            f"cannot {doing}: {reason}", where=str(path), fix="check the path, its permissions and the free disk space"
        ) from error


def read_bytes(path: Path) -> bytes:
    """The file's bytes; raises EngramError where it cannot be read."""
    with readable_errors(path, "read this file"):
        return path.read_bytes()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to disk and move it into place: whole or absent."""
    with readable_errors(path, "write this file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with `\\n` line ends on every system, whole or absent."""
    write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A fresh folder beside `path` that takes its place when the block ends without an error.

    Where `path` is a link, the folder that it leads to is replaced. Raises EngramError where a file stands there.
    """
    path = path.resolve()
    with readable_errors(path, "write this folder"):
        if path.is_file():
            raise NotADirectoryError(errno.ENOTDIR, "a file stands where the folder goes")
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        work.chmod(0o777 & ~_umask())
    old = work.with_suffix(".old")
    try:
        yield work
        with readable_errors(path, "replace this folder"):
            if path.exists():
                path.rename(old)
            try:
                work.rename(path)
            except BaseException:  # an interrupt too must not cost the old folder
                if old.exists():
                    old.rename(path)
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with readable_errors(path, "read this file"), path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """The SHA-256 of a string's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def cache_folder() -> Path:
    """This user's cache folder for engram (`XDG_CACHE_HOME`, else `~/.cache`)."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "engram"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
