"""Recordings as MP4, GIF and PNG: one, or several side by side in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engram.show.video import draw, encode
from engram.show.video.cast import Cast
from engram.show.video.compose import together
from engram.show.video.gif import gif
from engram.support import locks

KINDS = ("png", "gif", "mp4")  # what takes longest comes last
FPS, GIF_FPS = 20, 10
GIF_WIDTHS = (960, 1600)  # of one recording, and of several
GIF_SHADES = 8  # of a text's colour: the eye sees no fewer, and the file is a quarter smaller
TALLEST = 4000  # pixels that a GIF may have before it is trimmed


def render(
    casts: Sequence[Cast],
    out: Path,
    name: str,
    kinds: Sequence[str] = KINDS,
    titles: Sequence[str] | None = None,
    size: tuple[int, int] = draw.FULL,
    fps: int = FPS,
) -> list[Path]:
    """Write `out/name.mp4`, `.gif` and `.png` (the last screen), those that `kinds` names; the files written.

    The recordings stand side by side, each under its title (by default its own); a shorter one's last screen stays
    until the longest ends. Chapters are the first one's sections. `size` (pixels) and `fps` are the MP4's. Raises
    EngramError where packages are missing or a recording does not fit into the picture.
    """
    encode.require()
    titles = titles or [cast.title for cast in casts]
    grids = [(cast.width, cast.height) for cast in casts]
    scene = draw.scene(grids, titles, size)
    paths = [out / f"{name}.{kind}" for kind in kinds]
    with locks.held(out / name, "engram record"):
        for kind, path in zip(kinds, paths):
            if kind == "mp4":
                painter = draw.Painter(scene)
                pictures = ((painter.paint(screens), count) for screens, count in together(casts, fps))
                encode.mp4(path, pictures, size, fps, titles[0], casts[0].markers)
            elif kind == "gif":
                width = GIF_WIDTHS[len(casts) > 1] * size[0] // draw.FULL[0]
                _gif(path, casts, draw.trimmed(draw.scene(grids, titles, (width, TALLEST))))
            else:
                *_, (screens, _) = together(casts, fps)
                encode.png(path, draw.Painter(scene).paint(screens))
    return paths


def _gif(path: Path, casts: Sequence[Cast], scene: draw.Scene) -> None:
    """Paint twice: for the colours, and for the file."""
    painter = draw.Painter(scene, GIF_SHADES)
    runs = list(together(casts, GIF_FPS))
    for screens, _ in runs:
        painter.paint(screens)
    pictures = ((painter.paint(screens), count) for screens, count in runs)
    gif(path, pictures, painter.colours(), (scene.width, scene.height), GIF_FPS)
