"""Screens as pictures: cells where they belong, lines that join, and nothing drawn that did not change."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from engram.show.video import draw, screen, theme
from engram.show.video.cast import Cast, Event
from engram.show.video.draw import Font
from engram.show.video.render import FULL
from engram.support.errors import EngramError

SIZE = (320, 180)


def terminal(width: int, height: int) -> Cast:
    return Cast(width, height, 1.0, "t", ())


def shown(text: str, width: int = 20, height: int = 5) -> screen.Screen:
    return screen.last(Cast(width, height, 1.0, "", (Event(0.0, "o", text),)))


def cell(picture: Any, scene: draw.Scene, x: int, y: int) -> Any:
    window = scene.windows[0]
    width, height = window.cell
    left, top = window.left + window.padding + x * width, window.top + window.bar + window.padding + y * height
    return picture[top : top + height, left : left + width]


@pytest.mark.parametrize(("grid", "least"), [((100, 30), 16), ((80, 24), 19)])
def test_the_usual_sizes_fill_the_picture(grid: tuple[int, int], least: int) -> None:
    window = draw.scene([terminal(*grid)], FULL).windows[0]
    assert window.cell[0] >= least
    assert window.left * 2 + window.size[0] in (1919, 1920) and window.top * 2 + window.size[1] in (1079, 1080)
    assert window.left > 0 and window.top > 0


def test_two_windows_stand_beside_each_other() -> None:
    scene = draw.scene([terminal(80, 24), terminal(60, 30)], FULL)
    left, right = scene.windows
    assert left.left > 0 and left.left + left.size[0] < right.left and right.left + right.size[0] < 1920
    assert left.cell == right.cell


def test_a_terminal_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(EngramError, match="a terminal of 300×120 does not fit into 320×180 pixels"):
        draw.scene([terminal(300, 120)], SIZE)


def test_cells_stand_where_the_terminal_has_them() -> None:
    scene = draw.scene([terminal(20, 5)], SIZE)
    picture = draw.Painter(scene).paint([shown("\x1b[41mA\x1b[0m\r\n  █\x1b[2;3H")])
    assert (cell(picture, scene, 2, 1) == theme.FOREGROUND).all()
    assert (cell(picture, scene, 3, 1) == theme.BACKGROUND).all()
    red = cell(picture, scene, 0, 0)
    assert (red[0, 0] == theme.PALETTE["red"]).all() and not (red == theme.PALETTE["red"]).all()


def test_painting_on_equals_painting_anew() -> None:
    scene = draw.scene([terminal(20, 5)], SIZE)
    texts = ("abc", "abX\r\n漢字", "abX", "x\r\n\x1b[31m漢", "a漢b\x1b[2G\x1b[P")
    screens = [shown(text) for text in texts]
    painter = draw.Painter(scene)
    for one in screens:
        assert (painter.paint([one]) == draw.Painter(scene).paint([one])).all()


@pytest.mark.parametrize("width", [7, 8, 15, 16])
def test_lines_join_across_cells(width: int) -> None:
    """Where two neighbours have arms towards each other, their pixels at the common edge are the same."""
    drawn = {c: Font(width).mask(c).astype(int) for c in "─│┌┐└┘├┤┬┴┼╭╮╰╯"}
    for one, other in itertools.product("─┌└├┬┴┼╭╰", "─┐┘┤┬┴┼╮╯"):
        assert drawn[one][:, -1].any() and abs(drawn[one][:, -1] - drawn[other][:, 0]).max() <= 16, (one, other)
    for one, other in itertools.product("│┌┐├┤┬┼╭╮", "│└┘├┤┴┼╰╯"):
        assert drawn[one][-1].any() and (drawn[one][-1] == drawn[other][0]).all(), (one, other)


@pytest.mark.parametrize("width", [7, 16])
def test_blocks_fill_their_share(width: int) -> None:
    for blocks in ("▁▂▃▄▅▆▇█", "▏▎▍▌▋▊▉"):
        shares = [8 * Font(width).mask(character).mean() / 255 for character in blocks]
        assert shares == pytest.approx(range(1, len(blocks) + 1), abs=0.4)


def test_the_font_has_what_the_shows_print() -> None:
    font = Font(16)
    nothing = font.mask("\uffff")
    for character in "✓✗→·…–“”⏎⇥≥±×éß_gjpqy":
        assert font.mask(character).any() and not np.array_equal(font.mask(character), nothing), character
    assert font.mask("漢", 2).shape == (31, 32) and font.mask("漢", 2).any()
    assert not np.array_equal(font.mask("x\u0304"), font.mask("x"))
    assert not np.array_equal(font.mask("x", bold=True), font.mask("x"))


@pytest.mark.parametrize("width", range(5, 24))
def test_no_glyph_is_cut_at_the_bottom(width: int) -> None:
    """`_` reaches lowest: at no size may it vanish."""
    assert Font(width).mask("_").max() > 100
