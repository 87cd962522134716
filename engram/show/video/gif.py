"""Pictures as a GIF with one palette: colours that a picture shares with the one before are not written again."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.support.files import write_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engram.show.video.encode import Pictures

COLOURS = 255  # of the palette; one more means «as before»
SURE = 24  # the most frequent colours are kept exactly
TICK = 100  # a GIF's time, in parts of a second


def gif(
    path: Path, pictures: Pictures, colours: tuple[NDArray[Any], NDArray[Any]], size: tuple[int, int], fps: int
) -> None:
    """Write a GIF that repeats for ever, whole or absent; `colours` are all that occur (n × 3), and their counts.

    Raises ValueError where a picture cannot stand for whole hundredths of a second.
    """
    import av

    if TICK % fps:
        raise ValueError(f"a GIF cannot show {fps} pictures a second")
    chosen = palette(*colours)
    numbers, shades = _numbers(colours[0], chosen), _argb(chosen)
    with io.BytesIO() as out:
        with av.open(out, "w", format="gif", options={"fflags": "+bitexact", "loop": "0"}) as container:
            stream = container.add_stream("gif", rate=fps)
            stream.width, stream.height = size
            stream.pix_fmt = "pal8"
            at = 0
            for picture, count in pictures:
                indexed: Any = (numbers[_packed(picture)], shades)
                frame = av.VideoFrame.from_ndarray(indexed, format="pal8")
                frame.pts, frame.time_base = at, Fraction(1, fps)
                for packet in stream.encode(frame):
                    packet.duration = count  # the muxer asks for the last one's
                    container.mux(packet)
                at += count
            container.mux(stream.encode(None))
        write_bytes(path, out.getvalue())


def palette(colours: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    """At most 255 colours (n × 3) for these: themselves, or median cuts beside the most frequent ones."""
    import numpy as np
    from PIL import Image

    if len(colours) <= COLOURS:
        return colours
    order = np.argsort(-counts, kind="stable")
    weighted = np.repeat(colours[order], np.log2(counts[order]).astype(int) + 1, axis=0)  # rare colours count too
    image = Image.fromarray(weighted[None]).quantize(COLOURS - SURE, Image.Quantize.MEDIANCUT)
    cuts = np.asarray(image.getpalette(), np.uint8).reshape(-1, 3)[: COLOURS - SURE]
    return np.unique(np.concatenate([colours[order[:SURE]], cuts]), axis=0)


def _numbers(colours: NDArray[Any], chosen: NDArray[Any]) -> NDArray[Any]:
    """For each 24-bit colour that occurs, the number of the nearest in the palette."""
    import numpy as np

    table = np.zeros(1 << 24, np.uint8)
    for start in range(0, len(colours), 4096):
        part = colours[start : start + 4096]
        distance = ((part[:, None].astype(np.int32) - chosen[None].astype(np.int32)) ** 2).sum(axis=2)
        table[_packed(part)] = distance.argmin(axis=1)
    return table


def _packed(colours: NDArray[Any]) -> NDArray[Any]:
    """The last axis, red, green and blue, as one number."""
    import numpy as np

    wide = colours.astype(np.uint32)
    packed: NDArray[Any] = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return packed


def _argb(chosen: NDArray[Any]) -> NDArray[Any]:
    """The palette as FFmpeg takes it; its last entry is see-through."""
    import numpy as np

    shades = np.zeros((256, 4), np.uint8)
    shades[: len(chosen), 0] = 255
    shades[: len(chosen), 1:] = chosen
    return shades
