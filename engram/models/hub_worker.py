"""Fetches a model into the hub's cache, in a process of its own that `hub.py` starts, watches and ends.

A thread could not be ended, and the library may sleep for as long as a hub asks it to. This file runs alone, so it
imports nothing of engram's. Arguments: the hub id, then the patterns of the files. On standard output a line when it
starts, and one of JSON at the end.
"""

from __future__ import annotations

import json
import sys

SECONDS = 4.0  # for each answer but a file's own
CHUNK = 1 << 16  # bytes that are written at once, and so what is seen to grow and can be gone on with


def main(hub_id: str, patterns: list[str]) -> dict[str, object]:
    """`{"path": …}`, or what went wrong: `{"error": …}`, of a system's refusal with `errno` and `file`."""
    from huggingface_hub import HfApi, constants, snapshot_download  # here: `hub.py` reads this module's constants

    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    try:
        HfApi().model_info(hub_id, timeout=SECONDS)  # a hub that does not answer is said at once
        return {"path": snapshot_download(hub_id, allow_patterns=patterns, etag_timeout=SECONDS)}
    except Exception as error:  # connection, authorisation, missing repository: the library has a dozen classes
        first = str(error).strip().splitlines()[:1]
        said: dict[str, object] = {"error": ": ".join([type(error).__name__, *first])[:300]}
        if isinstance(error, OSError):
            said |= {"errno": error.errno, "reason": error.strerror, "file": error.filename}
        return said


if __name__ == "__main__":
    import huggingface_hub.hf_api  # noqa: F401  (before it says so: what takes time from then on is the hub)

    print("started", flush=True)
    print(json.dumps(main(sys.argv[1], sys.argv[2:]), default=str))
