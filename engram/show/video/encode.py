"""Pictures as MP4 and PNG; the same pictures give the same bytes with the same packages on one machine."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.show.clock import Marker
from engram.support.errors import EngramError
from engram.support.files import write_bytes, writing

if TYPE_CHECKING:
    from engram.show.video.draw import Picture

    Pictures = Iterable[tuple[Picture, int]]  # a picture, and for how many frames it stands

PACKAGES = ("av", "PIL", "numpy", "pyte")
# x264 keeps thin text sharp at this quality; one thread, so that the bytes do not depend on the number of cores
CODEC = "libx264"
X264 = {"crf": "18", "preset": "veryfast", "threads": "1", "g": "150"}
BT709 = 1  # of colour space, primaries and transfer, in H.264's tables
MOVIE = {"movflags": "+faststart", "fflags": "+bitexact"}


def require() -> None:
    """Raise an EngramError that names the packages for recordings that are not installed."""
    import importlib.util

    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise EngramError(
            f"recordings need packages that are not installed: {', '.join(missing).replace('PIL', 'pillow')}",
            fix="make setup-video, or pip install 'engram[video]'",
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


def png(path: Path, picture: Picture) -> None:
    """Write one picture, whole or absent."""
    from PIL import Image

    with io.BytesIO() as out:
        Image.fromarray(picture).save(out, "PNG", optimize=True)
        write_bytes(path, out.getvalue())


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
