"""Files and folders that are whole or absent, their hashes, and where the bundled folders lie."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from engram.support.errors import readable_errors
from engram.support.sink import Sink

PACKAGE = Path(__file__).resolve().parents[1]
BUNDLED = PACKAGE / "bundled"
LARGEST = 1 << 30  # bytes of a file, model weights aside


def bundled(name: str) -> Path:
    """The folder `name` (`schemas`, `patterns`) of the checkout, or its copy inside an installed package."""
    checkout = PACKAGE.parent / name
    return checkout if (PACKAGE.parent / "pyproject.toml").is_file() and checkout.is_dir() else BUNDLED / name


def read_bytes(path: Path) -> bytes:
    """The file's bytes; raises EngramError where it cannot be read, and where it is far too large to be engram's."""
    with reading(path) as file:
        return file.read()


@contextlib.contextmanager
def reading(path: Path, most: int = LARGEST) -> Iterator[BinaryIO]:
    """An open file; raises EngramError where it has more than `most` bytes, and as `read_bytes` does."""
    with readable_errors(path, "read this file"), path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"it is larger than {most >> 30} GiB")
        yield file


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to disk and move it into place: whole or absent."""
    _write_all({path: content})


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with `\n` line ends on every system, whole or absent."""
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Several files as `write_text` writes one; none takes its place before all of them are on the disk."""
    _write_all({path: text.encode("utf-8") for path, text in texts.items()})


@contextlib.contextmanager
def writing_together(paths: Iterable[Path]) -> Iterator[list[Sink]]:
    """Files that take their places when the block ends without an error, none before all of them are on the disk."""
    with contextlib.ExitStack() as stack:
        works = {path: _beside(path, stack) for path in paths}
        files = {path: stack.enter_context(work.open("wb", 1 << 20)) for path, work in works.items()}
        yield [Sink(path, file) for path, file in files.items()]
        for path, work in works.items():
            with readable_errors(path, "write this file"):
                files[path].close()
                _flush(work)
        for path, work in works.items():
            with readable_errors(path, "write this file"):
                work.replace(path)
                _flush(path.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A file for others to write, which takes the place of `path` when the block ends without an error."""
    with contextlib.ExitStack() as stack:
        work = _beside(path, stack)
        with readable_errors(path, "write this file"):
            yield work
            _flush(work)
            work.replace(path)
            _flush(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A fresh folder beside `path` that takes its place, flushed to disk, when the block ends without an error.

    Where `path` is a link, the folder that it leads to is replaced. Old and new change places in one step where
    system and filesystem can do that; where they cannot, `sweep` puts back what a killed writer had moved away.
    Raises EngramError where a file stands there.
    """
    path = Path(os.path.realpath(path))
    with contextlib.ExitStack() as stack:
        with readable_errors(path, "write this folder"):
            if os.path.lexists(path) and not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "a file stands where the folder goes")
            path.parent.mkdir(parents=True, exist_ok=True)
            work = stack.enter_context(_working(path, _make_folder))
            work.chmod(0o777 & ~_umask())
        yield work
        with readable_errors(path, "replace this folder"):
            for folder, _, names in os.walk(work):
                for name in (*names, ""):
                    _flush(Path(folder, name))
            _replace_folder(work, path)
            _flush(path.parent)


def sweep(path: Path) -> None:
    """Take away what killed writers left beside `path`, and put back a folder that one had moved out of its place.

    A living writer's files are left alone: it holds a lock on them. So is everything where there are no locks.
    """
    with contextlib.suppress(OSError):
        for left in [one for one in path.parent.iterdir() if _is_left_over(one.name, path.name)]:
            with contextlib.suppress(OSError), _opened(left) as descriptor:
                alone = lock(descriptor)
                if left.suffix == ".old" and alone is not False and not os.path.lexists(path):
                    left.rename(path)
                elif alone and is_open_at(descriptor, left):
                    _remove(left)


def lock(descriptor: int) -> bool | None:
    """Lock an open file for this process until it is closed; False where another has it, None where none can be had.

    The kernel gives a lock back when its process ends, however that may be.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network filesystems
        return None
    return True


def is_open_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`: between opening and locking it, another may take it away."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _write_all(contents: Mapping[Path, bytes]) -> None:
    with writing_together(contents) as sinks:
        for sink, content in zip(sinks, contents.values()):
            sink.write(content)


def _beside(path: Path, stack: contextlib.ExitStack) -> Path:
    """An empty working file beside `path`, taken away at the stack's end unless it was moved into place."""
    with readable_errors(path, "write this file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        work = stack.enter_context(_working(path, _make_file))
        work.chmod(0o666 & ~_umask())
    return work


def _make_file(path: Path) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(descriptor)
    return Path(name)


def _make_folder(path: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))


@contextlib.contextmanager
def _working(path: Path, make: Callable[[Path], Path]) -> Iterator[Path]:
    """What `make` makes beside `path`, locked as long as the block lasts, and taken away at its end."""
    sweep(path)
    while True:
        work = make(path)
        with contextlib.ExitStack() as stack:
            stack.callback(_remove, work)
            try:
                descriptor = stack.enter_context(_opened(work))
            except FileNotFoundError:  # swept by another before it was locked
                continue
            lock(descriptor)
            if is_open_at(descriptor, work):
                yield work
                return


def _replace_folder(work: Path, path: Path) -> None:
    if not path.exists():
        work.rename(path)
    elif not _exchange(work, path):
        old = work.with_suffix(".old")
        with _opened(path) as descriptor:
            lock(descriptor)  # so that nobody takes it for a killed writer's
            path.rename(old)
            try:
                work.rename(path)
            except BaseException:  # an interrupt too must not cost the old folder
                if not path.exists():
                    old.rename(path)
                raise
            _remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step: Linux, macOS; False where system or filesystem cannot."""
    import ctypes

    system = ctypes.CDLL(None)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(system, "renameat2"):
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        return bool(system.renameat2(here, names[0], here, names[1], exchange) == 0)
    swap = 2  # RENAME_SWAP
    return hasattr(system, "renamex_np") and bool(system.renamex_np(*names, swap) == 0)


def _is_left_over(name: str, of: str) -> bool:
    """Whether a file's name is that of working files for `of`."""
    return bool(re.fullmatch(rf"\.{re.escape(of)}\.[a-z0-9_]{{8}}\.(part|old)", name))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Have a file's content, or a folder's list of names, reach the disk; a folder's where the filesystem can."""
    folder = path.is_dir()
    try:
        with _opened(path) as descriptor:
            os.fsync(descriptor)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF):
            raise


def _remove(path: Path) -> None:
    """Take a file or folder away, if it is there."""
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
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "engram"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
