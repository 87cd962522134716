"""A file written piece by piece."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from engram.support.errors import readable_errors


class Sink:
    """A working file that is written piece by piece, its SHA-256 computed on the way."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file, self._digest = path, file, hashlib.sha256()

    def write(self, content: bytes) -> None:
        """Add `content` at the end; raises EngramError where the disk is full."""
        self._digest.update(content)
        with readable_errors(self._path, "write this file"):
            self._file.write(content)

    @property
    def sha256(self) -> str:
        """The hash of what was written so far, in hexadecimal."""
        return self._digest.hexdigest()
