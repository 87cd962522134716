"""Recordings as MP4, GIF and PNG: one, or several side by side in one picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    from engram.show.video.draw import Picture, Scene

    Pictures = Iterable[tuple[Picture, int]]  # a picture, and its number of frames

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

    The recordings are shown side by side, each under its title; a shorter one's last
    screen stays until the longest ends. Chapters are the first one's sections. `size` (pixels) and `fps` are the MP4's.
    Raises EngramError if packages are missing or a recording does not fit into the picture.
    """
    require()
    from engram.show.video import draw
    from engram.show.video.screen import together

    scene = draw.scene(casts, size)
    paths = [out / f"{name}.{kind}" for kind in kinds]
    with locks.held(out / name, "engram record"):
        for kind, path in zip(kinds, paths):
            if kind == "mp4":
                painter = draw.Painter(scene)
                pictures = ((painter.paint(screens), count) for screens, count in together(casts, fps))
                mp4(path, pictures, size, fps, casts[0].title, casts[0].markers)
            elif kind == "gif":
                width = GIF_WIDTHS[len(casts) > 1] * size[0] // FULL[0]
                gif(path, casts, draw.scene(casts, (width, TALLEST), trim=True))
            else:
                *_, (screens, _) = together(casts, fps)
                png(path, draw.Painter(scene).paint(screens))
    return paths


def require() -> None:
    """Raise an EngramError that names the packages for recordings that are not installed."""
    import importlib.util

    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise EngramError(
            f"recordings need packages that are not installed: {', '.join(missing).replace('PIL', 'pillow')}",
            fix="make setup-video, or in the checkout: pip install '.[video]'",
        )


def mp4(path: Path, pictures: Pictures, size: tuple[int, int], fps: int, title: str, marks: Sequence[Marker]) -> None:
    """Write H.264 (yuv420p, BT.709, index first) with a chapter for each marker, whole or absent.

    The first chapter begins with the film, each ends where the next begins.
    """
    import av

    # the index can be put first in a file alone
    with writing(path) as work, av.open(str(work), "w", format="mp4", options=MOVIE) as container:
        container.metadata["title"] = title
        stream = _video(container, size, fps)
        total = 0
        packets: list[Any] = []
        for picture, count in pictures:
            frame = _frame(picture)
            for _ in range(count):
                frame.pts, frame.time_base = total, Fraction(1, fps)
                packets += stream.encode(frame)
                total += 1
        packets += stream.encode(None)
        container.set_chapters(_chapters(marks, round(1000 * total / fps)))
        for packet in packets:
            container.mux(packet)


def gif(path: Path, casts: Sequence[Cast], scene: Scene) -> None:
    """Write a GIF that repeats for ever, whole or absent. The screens are painted twice: for the colours, and to keep.

    All pictures have one palette, so that what does not change keeps its colour.
    """
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


def png(path: Path, picture: Picture) -> None:
    """Write one picture, whole or absent."""
    from PIL import Image

    with writing(path) as work:
        Image.fromarray(picture).save(work, "PNG", optimize=True)


def _video(container: Any, size: tuple[int, int], fps: int) -> Any:
    import av

    try:
        stream = container.add_stream(CODEC, rate=fps, options=X264)
    except av.codec.codec.UnknownCodecError as error:
        raise EngramError("this PyAV cannot write H.264", where="av", fix="pip install --force-reinstall av") from error
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.flags |= av.codec.context.Flags.bitexact.value
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = 1  # limited, as players expect
    return stream


def _frame(picture: Picture) -> Any:
    import av

    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return frame.reformat(
        format="yuv420p", dst_colorspace="ITU709", src_color_range="JPEG", dst_color_range="MPEG", threads=1
    )


def _chapters(markers: Sequence[Marker], end: int) -> list[Any]:
    """Chapters in milliseconds; of several markers at one time, the last."""
    starts = [0, *(min(round(1000 * marker.time), end) for marker in markers[1:]), end]
    unit = Fraction(1, 1000)
    return [
        {"id": i, "start": starts[i], "end": starts[i + 1], "time_base": unit, "metadata": {"title": title}}
        for i, (_, title) in enumerate(markers)
        if starts[i] < starts[i + 1]
    ]
