"""The model hub and its cache on this disk: whole models or none, and a bounded wait for each."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engram.support.errors import EngramError, readable_errors
from engram.support.text import visible
from engram.support.untrusted import missing_files

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)
SECONDS = 4.0  # for each answer of the hub
CHUNK = 1 << 16  # bytes written at once
FIX = "check the name and the connection, or use MODEL=tiny, which needs neither"


@dataclass(frozen=True)
class Patience:
    """Give up on a download that brings fewer than `least` bytes in so many `seconds`."""

    seconds: float
    least: int


PATIENT = Patience(10.0, 100_000)
HASTY = Patience(5.0, 1_000_000)  # where the bundled model is as good an answer


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids asking the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cached(hub_id: str) -> Path | None:
    """The folder of a hub model in the local cache, None if it is not whole there; asks no network."""
    folder = _folder(hub_id)
    try:
        path = folder / "snapshots" / (folder / "refs" / "main").read_text("utf-8")
        return None if missing_files(path) or not _complete(path) else path
    except (OSError, ValueError, EngramError):  # not there, or not a cache
        return None


def _complete(path: Path) -> bool:
    """Whether a snapshot has the files of FILES in the client's listing of it; True where there is no listing."""
    try:
        listing = json.loads((path.parents[1] / "trees" / f"{path.name}.json").read_text("utf-8"))
        names = [name for name in listing["files"] if _wanted(name)] if listing["format_version"] == 1 else []
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return all((path / name).is_file() for name in names)


def _wanted(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in FILES)


def fetch(hub_id: str, patience: Patience = PATIENT) -> Path:
    """Download a model into the cache, and check each new file against the hash that the hub names; its folder there.

    Complete files of an earlier attempt are not fetched again. Raises EngramError if the hub does not answer, refuses,
    sends something else or less than `patience` asks for, and if the cache cannot be written.
    """
    folder = _folder(hub_id)
    before = {path.name for path in _blobs(folder)}
    try:
        with _given_up_after(patience, folder):
            path = _download(hub_id)
    except (_StalledError, Exception) as error:  # connection, authorisation, missing repository: a dozen classes
        for part in folder.glob("blobs/*.incomplete"):  # each attempt names its own, so no other would go on with it
            part.unlink(missing_ok=True)
        raise _refusal(hub_id, error) from error
    _check(hub_id, [path for path in _blobs(folder) if path.name not in before])
    return path


def _download(hub_id: str) -> Path:
    """The folder of a model, each file fetched unless it is in the cache; in this thread, which can be interrupted."""
    from huggingface_hub import HfApi, constants, hf_hub_download

    # plain HTTP in small pieces: a file grows as it comes, which is how progress is seen
    constants.DOWNLOAD_CHUNK_SIZE, constants.HF_HUB_DISABLE_XET = CHUNK, True
    constants.HF_HUB_DOWNLOAD_TIMEOUT = int(SECONDS)
    found = HfApi().model_info(hub_id, timeout=SECONDS).siblings or []
    names = [one.rfilename for one in found if _wanted(one.rfilename)]
    places = [Path(hf_hub_download(hub_id, name, etag_timeout=SECONDS)) for name in names]
    if not places:
        raise FileNotFoundError("it holds no model")
    return places[0].parents[names[0].count("/")]


class _StalledError(BaseException):
    """A download brought too little for too long; the library catches no BaseException."""


@contextlib.contextmanager
def _given_up_after(patience: Patience, folder: Path) -> Iterator[None]:
    """Interrupt the block when the cache does not grow for too long.

    The client's time-outs bound each answer, but not a hub that asks to wait (`Retry-After`), drips bytes, or a lock
    held by another process. Signals reach the main thread only; elsewhere the client's time-outs have to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen, since = _size(folder), time.monotonic()

    def look(*_: object) -> None:
        nonlocal seen, since
        size, now = _size(folder), time.monotonic()
        if size - seen >= patience.least:
            seen, since = size, now
        elif now - since > patience.seconds:
            raise _StalledError(f"it sent {size - seen:,} bytes in {patience.seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _refusal(hub_id: str, error: BaseException) -> EngramError:
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        what = f"the hub's cache cannot be written: {visible(str(error.strerror))}"
        fix = "make it writable, free disk space, or set HF_HOME to another folder"
        return EngramError(what, where=visible(str(error.filename or "HF_HOME")), fix=fix)
    said = str(error).strip().split("\n")[0]
    reason = visible((said if isinstance(error, _StalledError) else f"{type(error).__name__}: {said}")[:200])
    return EngramError(f"{visible(hub_id)} cannot be had from the hub ({reason})", where="MODEL", fix=FIX)


def _check(hub_id: str, blobs: list[Path]) -> None:
    """Delete files that don't have the hash in their name: SHA-256 of a large file, git's SHA-1 of a small one."""
    wrong = [blob for blob in blobs if _hash(blob) not in (None, blob.name)]
    for blob in wrong:
        blob.unlink()
    if wrong:
        what = f"{visible(hub_id)}: {len(wrong)} files are not what the hub says they are (their hash is another)"
        raise EngramError(what, where="MODEL", fix=f"try again; {FIX}")


def _hash(blob: Path) -> str | None:
    """The hash of the kind that a blob's name has; None if the name is no hash."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return None
    git = len(blob.name) == 40
    digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size) if git else hashlib.sha256()
    with readable_errors(blob, "read this file"), blob.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _folder(hub_id: str) -> Path:
    """The folder of a model where the hub's client would look, whose import takes a third of a second."""
    if client := sys.modules.get("huggingface_hub.constants"):
        cache = str(client.HF_HUB_CACHE)
    else:
        home = Path(os.environ.get("HF_HOME", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")))
        usual = os.environ.get("HUGGINGFACE_HUB_CACHE", str(home / "hub"))
        cache = os.path.expandvars(os.path.expanduser(os.environ.get("HF_HUB_CACHE", usual)))  # noqa: PTH111
    return Path(cache).resolve() / "--".join(("models", *hub_id.split("/")))


def _blobs(folder: Path) -> list[Path]:
    return [path for path in folder.glob("blobs/*") if path.is_file()]


def _size(folder: Path) -> int:
    total = 0
    for path in _blobs(folder):
        with contextlib.suppress(OSError):  # renamed meanwhile
            total += path.stat().st_size
    return total
