"""The backup recordings: there, whole, and of these results and no others."""

from __future__ import annotations

import struct
from pathlib import Path

from engram.show.prep import shown
from engram.show.prep.finding import PASS, Finding, Situation, failed, refused, unchecked
from engram.show.video import cast
from engram.support.errors import EngramError
from engram.support.files import read_bytes

NAME = "backup recordings"
KINDS = ("cast", "mp4", "gif")


def check(at: Situation, explained: bool) -> Finding:
    """Whether cast, film and GIF of the demo are there, whole, and show what the demo would show now.

    A recording follows from the results alone, so the cast is held against one made now, byte by byte: that is newer
    than the adapter whatever the file times say. Film and GIF are drawn from the cast, so they must not be older.
    Where the demo cannot be performed, that is this line's failure unless another line has `explained` it.
    """
    anew = at.make("record")
    files = {kind: at.place / f"demo.{kind}" for kind in KINDS}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        return failed(NAME, f"missing in {at.place}: {', '.join(missing)}", anew)
    broken = [f"{files[kind].name}: {why}" for kind in KINDS[1:] if (why := WHOLE[kind](files[kind]))]
    try:
        stored = cast.read(files["cast"])
    except EngramError as error:
        return refused(NAME, error, anew)
    if broken:
        return failed(NAME, "not whole", anew, tuple(broken))
    try:
        now = shown.perform(at, stored.width, stored.height)
    except EngramError as error:
        if explained:
            return unchecked(NAME, "the demo cannot be shown now")
        return failed(NAME, f"nothing to hold them against: {error.what}", at.make("demo record"), error.problems)
    if cast.dumps(now).encode("utf-8") != read_bytes(files["cast"]):
        return failed(NAME, "stale: the demo of these results looks different now", anew)
    if older := [files[kind].name for kind in KINDS[1:] if _older(files[kind], files["cast"])]:
        return failed(NAME, f"stale: {', '.join(older)} older than demo.cast", anew)
    return Finding(NAME, PASS, f"cast, film and GIF of these results, {now.duration:.0f} s")


def _older(file: Path, than: Path) -> bool:
    return file.stat().st_mtime < than.stat().st_mtime


def _film(path: Path) -> str:
    """What is wrong with an MP4's outer boxes, or nothing: each has its length and its kind in front."""
    size, at, kinds = path.stat().st_size, 0, []
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            length, kind = struct.unpack(">I4s", file.read(8))
            if length == 1:  # the length did not fit into 32 bits and follows
                length = int.from_bytes(file.read(8), "big")
            at += max(length or size - at, 8)  # 0: up to the end
            kinds.append(kind)
    if kinds[:1] != [b"ftyp"]:
        return "no MP4"
    return "" if at == size and {b"moov", b"mdat"} <= {*kinds} else "cut off"


def _gif(path: Path) -> str:
    content = read_bytes(path)
    if content[:6] not in (b"GIF89a", b"GIF87a"):
        return "no GIF"
    return "" if content.endswith(b"\x3b") else "cut off"


WHOLE = {"mp4": _film, "gif": _gif}
