"""The model hub and its cache on this disk: whole models or none, and every wait bounded."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.models import hub_worker
from engram.support.errors import EngramError, readable_errors
from engram.support.text import visible
from engram.support.untrusted import missing_files

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)
FIX = "check the name and the connection, or use MODEL=tiny, which needs neither"


@dataclass(frozen=True)
class Patience:
    """How long a download may bring less than this many bytes before it is given up."""

    seconds: float
    least: int


PATIENT = Patience(10.0, 100_000)
HASTY = Patience(5.0, 1_000_000)  # where the bundled model is as good an answer


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cached(hub_id: str) -> Path | None:
    """The folder of a hub model in the local cache, None where it is not whole there; asks no network."""
    from huggingface_hub import snapshot_download

    try:
        path = Path(snapshot_download(hub_id, local_files_only=True, allow_patterns=FILES))
        return None if missing_files(path) else path
    except Exception:  # not cached, in whatever way the library says it
        return None


def fetch(hub_id: str, patience: Patience = PATIENT) -> Path:
    """Download a model into the cache, and check each new file against the hash that the hub names; its folder there.

    Whole files of an earlier attempt are not fetched again. Raises EngramError where the hub does not answer, refuses,
    sends something else or less than `patience` asks for, and where the cache cannot be written.
    """
    folder = _folder(hub_id)
    before = {path.name for path in _blobs(folder)}
    answer = _watched(hub_id, folder, patience)
    if "path" not in answer:
        raise _refusal(hub_id, answer)
    _check(hub_id, [path for path in _blobs(folder) if path.name not in before])
    return Path(answer["path"])


def _watched(hub_id: str, folder: Path, patience: Patience) -> dict[str, Any]:
    """What the worker says; it is ended where the cache does not grow for too long."""
    process = _started(hub_id)
    try:
        seen, since = _size(folder), time.monotonic()
        while True:
            try:
                out, _ = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                size, now = _size(folder), time.monotonic()
                if size - seen >= patience.least:
                    seen, since = size, now
                elif now - since > patience.seconds:
                    return {"error": f"it sent {size - seen:,} bytes in {patience.seconds:g} seconds"}
    finally:
        process.kill()
        process.communicate()
        for part in folder.glob("blobs/*.incomplete"):  # each attempt names its own, so no other would go on with it
            part.unlink(missing_ok=True)
    try:
        answer: dict[str, Any] = json.loads(out)
    except ValueError:
        return {"error": f"the download ended with {process.returncode}"}
    return answer


def _started(hub_id: str) -> subprocess.Popen[bytes]:
    from huggingface_hub import constants

    command = [sys.executable, "-I", str(Path(hub_worker.__file__).resolve()), hub_id, *FILES]
    settings = {
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HUB_CACHE": str(constants.HF_HUB_CACHE),
        "HF_HUB_DOWNLOAD_TIMEOUT": str(int(hub_worker.SECONDS)),
        "HF_HUB_DISABLE_XET": "1",  # plain HTTP grows a file as it comes, which is what is watched
    }
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **settings}, bufsize=0)
    assert process.stdout
    process.stdout.readline()  # it has started: what takes time from here on is the hub
    return process


def _refusal(hub_id: str, answer: dict[str, Any]) -> EngramError:
    if answer.get("errno") in UNWRITABLE:
        what = f"the hub's cache cannot be written: {visible(str(answer['reason']))}"
        fix = "make it writable, free disk space, or set HF_HOME to another folder"
        return EngramError(what, where=visible(str(answer.get("file") or "HF_HOME")), fix=fix)
    reason = visible(str(answer.get("error"))[:200])
    return EngramError(f"{visible(hub_id)} cannot be had from the hub ({reason})", where="MODEL", fix=FIX)


def _check(hub_id: str, blobs: list[Path]) -> None:
    """Take away what is not what its name says: SHA-256 of a large file, git's SHA-1 of a small one."""
    wrong = [blob for blob in blobs if _hash(blob) not in (None, blob.name)]
    for blob in wrong:
        blob.unlink()
    if wrong:
        what = f"{visible(hub_id)}: {len(wrong)} files are not what the hub says they are (their hash is another)"
        raise EngramError(what, where="MODEL", fix=f"try again; {FIX}")


def _hash(blob: Path) -> str | None:
    """The hash of the kind that a blob's name has; None where the name is no hash."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return None
    git = len(blob.name) == 40
    digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size) if git else hashlib.sha256()
    with readable_errors(blob, "read this file"), blob.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _folder(hub_id: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=hub_id, repo_type="model")


def _blobs(folder: Path) -> list[Path]:
    return [path for path in folder.glob("blobs/*") if path.is_file()]


def _size(folder: Path) -> int:
    total = 0
    for path in _blobs(folder):
        try:
            total += path.stat().st_size
        except OSError:  # renamed meanwhile
            continue
    return total
