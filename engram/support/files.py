"""Write files and folders whole or not at all, hash them, and find the bundled folders."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from engram.support.errors import readable_errors

PACKAGE = Path(__file__).resolve().parents[1]
BUNDLED = PACKAGE / "bundled"
LARGEST = 1 << 30  # bytes of a file, model weights aside


def bundled(name: str) -> Path:
    """The folder `name` (`schemas`, `patterns`) of the checkout, or its copy inside an installed package."""
    checkout = PACKAGE.parent / name
    return checkout if (PACKAGE.parent / "pyproject.toml").is_file() and checkout.is_dir() else BUNDLED / name


def read_bytes(path: Path) -> bytes:
    """Return the file's bytes; raises EngramError if it can't be read or is larger than LARGEST."""
    with reading(path) as file:
        return file.read()


@contextlib.contextmanager
def reading(path: Path, most: int = LARGEST) -> Iterator[BinaryIO]:
    """An open file; raises EngramError if it has more than `most` bytes, and as `read_bytes` does."""
    with readable_errors(path, "read this file"), path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            limit = f"{most >> 30} GiB" if most >> 30 else f"{most >> 20} MiB"
            raise OSError(errno.EFBIG, f"it is larger than {limit}")
        yield file


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` next to `path`, flush it to disk and move it into place: whole or absent."""
    with writing(path) as work:
        work.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with `\n` line ends on every system, whole or absent."""
    write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A working file to fill; it is flushed to disk and takes the place of `path` when the block ends without an error.

    Of several in an ExitStack none takes its place before all are filled, and the one entered first comes last.
    """
    with readable_errors(path, "write this file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        work = _beside(path)
        try:
            yield work
            _flush(work)
            work.replace(path)
            _flush(path.parent)
        finally:
            _remove(work)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A fresh folder that takes the place of `path`, flushed to disk, when the block ends without an error.

    If `path` is a link, the folder it leads to is replaced. The old folder is moved away first; `recover` puts it back
    if the writer is killed before the new one is in place. Raises EngramError if `path` is a file.
    """
    path = Path(os.path.realpath(path))
    with readable_errors(path, "write this folder"):
        recover(path)
        if os.path.lexists(path) and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file stands where the folder goes")
        path.parent.mkdir(parents=True, exist_ok=True)
        work = _beside(path)
        work.mkdir()
    try:
        yield work
        with readable_errors(path, "replace this folder"):
            for folder, _, names in os.walk(work):
                for name in (*names, ""):
                    _flush(Path(folder, name))
            _replace_folder(work, path)
            _flush(path.parent)
    finally:
        _remove(work)


def recover(path: Path, *, parts: bool = False) -> None:
    """Put back a folder that a killed writer moved out of its place; with `parts` also delete its working files.

    Only a process that holds the lock on `path` may ask for `parts`: another writer's files would go too.
    """
    ours = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.(part|old)")
    with contextlib.suppress(OSError):
        found = [(left, match[1]) for left in path.parent.iterdir() if (match := ours.fullmatch(left.name))]
        for left, kind in found:
            with contextlib.suppress(OSError):
                if kind == "old" and not os.path.lexists(path):
                    left.rename(path)
                elif kind == "old" or parts:
                    _remove(left)


def _beside(path: Path) -> Path:
    """A new name for a working file or folder next to `path`, as `recover` finds it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _replace_folder(work: Path, path: Path) -> None:
    old = work.with_suffix(".old")
    try:
        if path.exists():
            path.rename(old)
        work.rename(path)
    except BaseException:  # an interrupt must not cost the old folder either
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    _remove(old)


def _flush(path: Path) -> None:
    """Write a file's content, or a folder's list of names, to the disk; a folder's only if the filesystem can."""
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF):
            raise


def _remove(path: Path) -> None:
    """Delete a file or folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def sha256(path: Path, most: int = LARGEST) -> str:
    """The file's SHA-256 in hexadecimal, read in 1 MiB pieces; raises EngramError as `read_bytes` does."""
    digest = hashlib.sha256()
    with reading(path, most) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """The SHA-256 of a string's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def cache_folder() -> Path:
    """This user's cache folder for engram (`XDG_CACHE_HOME`, else `~/.cache`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "engram"
