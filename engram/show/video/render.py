"""Recordings as MP4, GIF and PNG: one, or several side by side in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engram.show.demo.stage import Marker
from engram.show.video.cast import Cast
from engram.support import locks
from engram.support.errors import EngramError
from engram.support.files import writing

if TYPE_CHECKING:
    from engram.show.video.draw import Scene

FULL = (1920, 1080)
KINDS = ("png", "gif", "mp4")  # what takes longest comes last
FPS, GIF_FPS = 20, 10
GIF_WIDTHS = (960, 1600)  # of one recording, and of several
GIF_SHADES = 8  # of a text's colour: the eye sees no fewer, and the file is a quarter smaller
TALLEST = 4000  # pixels that a GIF may have before it is trimmed
PACKAGES = ("av", "PIL", "numpy", "pyte")
# x264 keeps thin text sharp at this quality; one thread, so that the bytes do not depend on the number of cores
CODEC = "libx264"
X264 = {"crf": "18", "preset": "veryfast", "threads": "1", "g": "150"}
BT709 = 1  # of colour space, primaries and transfer, in H.264's tables
COLOURS: dict[str, Any] = {
    "dst_colorspace": "ITU709",
    "src_color_range": "JPEG",
    "dst_color_range": "MPEG",
    "threads": 1,
}
MOVIE = {"movflags": "+faststart", "fflags": "+bitexact"}


def render(
    casts: Sequence[Cast],
    out: Path,
    name: str,
    kinds: Sequence[str] = KINDS,
    size: tuple[int, int] = FULL,
    fps: int = FPS,
) -> list[Path]:
    """Write `out/name.mp4`, `.gif` and `.png` (the last screen), those that `kinds` names; the files written.

    The recordings are shown side by side until the longest ends, with the first one's sections as chapters; `size`
    (pixels) and `fps` are the MP4's. Raises EngramError if packages are missing or a recording does not fit.
    """
    require()
    from PIL import Image

    from engram.show.video import draw
    from engram.show.video.screen import together

    scene = draw.scene(casts, size)
    paths = [out / f"{name}.{kind}" for kind in kinds]
    with locks.held(out / name, "engram record"):
        for kind, path in zip(kinds, paths):
            if kind == "mp4":
                mp4(path, casts, scene, fps)
            elif kind == "gif":
                width = GIF_WIDTHS[len(casts) > 1] * size[0] // FULL[0]
                gif(path, casts, draw.scene(casts, (width, TALLEST), trim=True))
            else:
                *_, (screens, _) = together(casts, fps)
                with writing(path) as work:
                    Image.fromarray(draw.Painter(scene).paint(screens)).save(work, "PNG", optimize=True)
    return paths


def require() -> None:
    """Raise an EngramError that names the packages for recordings that are not installed."""
    import importlib.util

    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        what = f"recordings need packages that are not installed: {', '.join(missing).replace('PIL', 'pillow')}"
        raise EngramError(what, fix="make setup-video, or in the checkout: pip install '.[video]'")


def mp4(path: Path, casts: Sequence[Cast], scene: Scene, fps: int) -> None:
    """Write H.264 (yuv420p, BT.709, index first) with a chapter for each marker, whole or absent."""
    import av

    from engram.show.video.draw import Painter
    from engram.show.video.screen import together

    # the index can be put first in a file alone
    with writing(path) as work, av.open(str(work), "w", format="mp4", options=MOVIE) as container:
        container.metadata["title"] = casts[0].title
        try:
            stream: Any = container.add_stream(CODEC, rate=fps, options=X264)
        except av.codec.codec.UnknownCodecError as error:
            what = "this PyAV cannot write H.264"
            raise EngramError(what, where="av", fix="pip install --force-reinstall av") from error
        stream.width, stream.height = scene.width, scene.height
        stream.pix_fmt, context = "yuv420p", stream.codec_context
        context.flags |= av.codec.context.Flags.bitexact.value
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1  # limited, as players expect
        total, packets, painter = 0, list[Any](), Painter(scene)
        for screens, count in together(casts, fps):
            frame = av.VideoFrame.from_ndarray(painter.paint(screens), format="rgb24")
            frame = frame.reformat(format="yuv420p", **COLOURS)
            for _ in range(count):
                frame.pts, frame.time_base = total, Fraction(1, fps)
                packets += stream.encode(frame)
                total += 1
        packets += stream.encode(None)
        container.set_chapters(_chapters(casts[0].markers, round(1000 * total / fps)))
        for packet in packets:
            container.mux(packet)


def gif(path: Path, casts: Sequence[Cast], scene: Scene) -> None:
    """Write a GIF that repeats for ever, whole or absent; the screens are painted first for the one palette of all."""
    from PIL import Image

    from engram.show.video.draw import Painter
    from engram.show.video.screen import together

    painter = Painter(scene, GIF_SHADES)
    runs = list(together(casts, GIF_FPS))
    for screens, _ in runs:
        painter.paint(screens)
    colours, counts = painter.colours()
    weighted = np.repeat(colours, np.log2(counts).astype(int) + 1, axis=0)  # frequent colours are kept exactly
    palette = Image.fromarray(weighted[None]).quantize(255, Image.Quantize.MEDIANCUT)
    pictures = (
        Image.fromarray(painter.paint(screens)).quantize(palette=palette, dither=Image.Dither.NONE)
        for screens, _ in runs
    )
    durations = [1000 // GIF_FPS * count for _, count in runs]
    with writing(path) as work:
        next(pictures).save(work, "GIF", save_all=True, append_images=pictures, duration=durations, loop=0)


def _chapters(markers: Sequence[Marker], end: int) -> list[Any]:
    """Chapters in milliseconds, the first from 0, each to where the next begins; of several at one time, the last."""
    starts = [0, *(min(round(1000 * marker.time), end) for marker in markers[1:]), end]
    unit = Fraction(1, 1000)
    return [
        {"id": i, "start": starts[i], "end": starts[i + 1], "time_base": unit, "metadata": {"title": title}}
        for i, (_, title) in enumerate(markers)
        if starts[i] < starts[i + 1]
    ]
