"""Films, GIFs and stills, read again: size, frames, chapters, and the same bytes each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from engram.cli import main
from engram.show.video import cast, draw, render, theme
from engram.show.video.cast import Cast, Event
from engram.support.errors import EngramError

SIZE = (480, 270)
CAST = Cast(
    *(24, 6),
    *(3.05, "small"),
    (
        Event(0.0, "m", "First, “quoted”"),
        Event(0.0, "o", "\x1b[?25lone \x1b[31m✗\x1b[0m"),
        Event(1.0, "m", "Second"),
        Event(1.0, "o", "\r\n\x1b[42m████\x1b[0m \x1b[32m✓"),
        Event(2.0, "m", "gone at once"),
        Event(2.0, "m", "Third"),
        Event(2.5, "o", "\x1b[2J"),
    ),
)


def decoded(path: Path) -> tuple[list[Any], list[Any], dict[str, str]]:
    with av.open(str(path)) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        return frames, film.chapters(), film.metadata


def seen(picture: Image.Image) -> set[Any]:
    """The colours of a picture."""
    return set(map(tuple, np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()))


def near(frame: Any, colour: theme.Colour) -> Any:
    """Where a decoded picture has the colour, but for what H.264 takes from it."""
    return np.abs(frame.astype(int) - colour).max(axis=2) < 40


def test_the_film_has_every_frame_and_chapter(tmp_path: Path) -> None:
    (path,) = render.render([CAST], tmp_path, "film", ["mp4"], size=SIZE, fps=10)
    frames, chapters, metadata = decoded(path)
    assert len(frames) == 31 and frames[0].shape == (270, 480, 3)
    assert [(c["metadata"]["title"], c["start"], c["end"]) for c in chapters] == [
        ("First, “quoted”", 0, 1000),
        ("Second", 1000, 2000),
        ("Third", 2000, 3100),
    ]
    assert metadata["title"] == "small" and not {"creation_time", "encoder"} & set(metadata)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays before all of it is there
    assert near(frames[9], theme.PALETTE["red"]).sum() > 5
    assert not near(frames[9], theme.FOREGROUND)[135:].any()  # the second part is not there one frame early
    width, height = draw.scene([CAST], SIZE).windows[0].cell
    assert near(frames[10], theme.FOREGROUND).sum() > 4 * width * height * 0.9


def test_a_full_size_film_is_1080p_in_a_format_that_players_know(tmp_path: Path) -> None:
    short = Cast(100, 30, 0.2, "full", (Event(0.0, "o", "x"),))
    (path,) = render.render([short], tmp_path, "film", ["mp4"])
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (1920, 1080, 4)
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")


def test_the_gif_merges_what_does_not_change(tmp_path: Path) -> None:
    (path,) = render.render([CAST], tmp_path, "film", ["gif"], size=SIZE)
    with Image.open(path) as picture:
        assert picture.width == 240 and picture.info["loop"] == 0
        durations, colours = [], []
        for number in range(picture.n_frames):
            picture.seek(number)
            durations.append(picture.info["duration"])
            colours.append(seen(picture))
    assert durations == [1000, 1500, 600]
    assert theme.PALETTE["red"] in colours[0] and theme.PALETTE["green"] not in colours[0]
    assert {theme.BACKGROUND, theme.FOREGROUND} <= colours[1] and theme.FOREGROUND not in colours[2]


def test_the_still_is_the_last_screen(tmp_path: Path) -> None:
    (path,) = render.render([CAST], tmp_path, "film", ["png"], size=SIZE)
    with Image.open(path) as picture:
        assert picture.size == SIZE
        assert theme.FOREGROUND not in seen(picture) and theme.BACKGROUND in seen(picture)


def test_the_same_recording_gives_the_same_bytes(tmp_path: Path) -> None:
    once, twice = (render.render([CAST, CAST], tmp_path / n, "film", size=SIZE, fps=10) for n in "ab")
    assert [path.suffix for path in once] == [".png", ".gif", ".mp4"]
    for one, other in zip(once, twice, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_side_by_side_both_are_shown_to_the_longer_ones_end(tmp_path: Path) -> None:
    right = Cast(24, 6, 4.0, "right", (Event(0.0, "o", "\x1b[?25l"), Event(3.5, "o", "\x1b[44m    \x1b[0m")))
    (path,) = render.render([CAST, right], tmp_path, "both", ["mp4"], size=SIZE, fps=10)
    frames, chapters, _ = decoded(path)
    assert len(frames) == 40
    assert chapters[0]["metadata"]["title"] == "First, “quoted”" and chapters[-1]["end"] == 4000
    blue = near(frames[-1], theme.PALETTE["blue"])
    assert blue[:, 240:].any() and not blue[:, :240].any()
    assert not near(frames[30], theme.PALETTE["blue"]).any()


def test_missing_packages_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "PACKAGES", ("no_such_package", "PIL"))
    with pytest.raises(EngramError, match="not installed: no_such_package") as caught:
        render.render([CAST], tmp_path, "film")
    assert "make setup-video" in caught.value.fix
    assert not list(tmp_path.iterdir())


def test_a_pyav_without_h264_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "CODEC", "no_such_codec")
    with pytest.raises(EngramError, match="this PyAV cannot write"):
        render.render([CAST], tmp_path, "film", ["mp4"], size=SIZE)
    assert not list(tmp_path.iterdir())


def test_the_command_renders_what_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "demo.cast"
    cast.write(path, CAST)
    done = CliRunner().invoke(main, ["render", str(path), "--png"])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demo.cast", "demo.png"]
    assert done.output.startswith(f"{tmp_path / 'demo.png'}: ")


def test_the_command_refuses_a_broken_recording(tmp_path: Path) -> None:
    path = tmp_path / "demo.cast"
    path.write_text('{"version": 2, "width": 80, "height": 24}\n[0, "o", "\\u001b]52;c;eA==\\u0007"]\n')
    done = CliRunner().invoke(main, ["render", str(path)])
    assert done.exit_code == 2
    assert "line 2: '\\x1b]52;c;e' is not allowed in a recording" in done.output
    assert list(tmp_path.iterdir()) == [path]
