"""What the terminal shows, as cells and as a picture: widths, colours, frames, and lines that join."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

from engram.show.video import draw, screen, theme
from engram.show.video.cast import _ALLOWED, Cast, Event
from engram.show.video.draw import Font
from engram.show.video.render import FULL
from engram.show.video.screen import Cell, Screen, together
from engram.support.errors import EngramError

SIZE = (320, 180)


def cast(*events: tuple[float, str], duration: float = 1.0, width: int = 20, height: int = 4) -> Cast:
    return Cast(width, height, duration, "", tuple(Event(time, "o", text) for time, text in events))


def shown(text: str, width: int = 20, height: int = 4) -> Screen:
    return screen.last(cast((0.0, text), width=width, height=height))


def test_frames_show_what_was_written_up_to_their_time() -> None:
    made = cast((0.0, "a"), (0.1, "b"), (0.101, "c"), (0.9, "d"), (1.0, "e"))
    runs = [(s.text[0], count) for s, count in screen.play(made, 10)]
    assert runs == [("a", 1), ("ab", 1), ("abc", 7), ("abcde", 1)]
    assert sum(count for _, count in runs) == screen.frames(made, 10) == 10


def test_what_changes_nothing_makes_no_new_screen() -> None:
    made = cast((0.0, "a"), (0.5, "\x1b[31m"), (0.6, "\ra"), duration=2.0)
    assert [count for _, count in screen.play(made, 10)] == [6, 14]  # the second `a` is red
    assert [count for _, count in screen.play(cast((0.0, "a"), (0.5, "\x1b[31m\x1b[m")), 10)] == [10]


def test_a_recording_without_length_has_one_frame() -> None:
    assert [count for _, count in screen.play(cast((0.0, "a"), duration=0.0), 10)] == [1]


def test_colours_and_styles() -> None:
    row = shown("\x1b[1;31ma\x1b[22;39mb\x1b[0;7md\x1b[0;2me\x1b[22mf").rows[0]
    front, back = theme.FOREGROUND, theme.BACKGROUND
    assert row[0] == Cell("a", theme.PALETTE["red"], back, bold=True)
    assert row[1] == Cell("b", front, back)
    assert row[2] == Cell("d", back, front)
    assert row[3] == Cell("e", theme.faint(front, back), back) != Cell("e")
    assert row[4] == row[5]._replace(text="f") == Cell("f")


def test_all_ways_to_name_a_colour() -> None:
    row = shown("\x1b[38;2;1;2;3;48;5;226ma\x1b[0;38;5;9mb\x1b[0;95mc\x1b[0;105md\x1b[48;5;1me").rows[0]
    assert (row[0].colour, row[0].background) == ((1, 2, 3), (255, 255, 0))
    assert row[1].colour == theme.PALETTE["brightred"]
    assert row[2].colour == row[3].background == theme.PALETTE["brightmagenta"]
    assert row[4].background == theme.PALETTE["red"]


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("漢x", ["漢", "", "x"]),
        ("e\u0301x", ["é", "x", " "]),
        ("x\u0304y", ["x\u0304", "y", " "]),
        ("漢\u0301x", ["漢\u0301", "", "x"]),
        ("a\u200bb", ["a", "b", " "]),  # a zero-width space must not end the line
        ("\u0301a", ["a", " ", " "]),
        ("ab\bc", ["a", "c", " "]),
        ("\tx\rab", ["a", "b", " "]),
        ("a\u202eb", ["a", "b", " "]),
    ],
)
def test_widths(text: str, texts: list[str]) -> None:
    assert [cell.text for cell in shown(text).rows[0][:3]] == texts


def test_a_wide_character_at_the_edge_goes_to_the_next_line() -> None:
    assert shown("123456789漢", width=10).text[:2] == ["123456789", "漢"]
    assert shown("12345678漢x", width=10).text[:2] == ["12345678漢", "x"]
    assert shown("\x1b[?7l123456789漢", width=10).text[:2] == ["12345678漢", ""]


def test_many_combining_marks_do_not_grow_a_cell_without_end() -> None:
    assert len(shown("a" + "\u0304" * 5000).rows[0][0].text) == 8


def test_what_a_recording_may_hold_never_breaks_the_terminal() -> None:
    """Everything that `cast` allows, in any order: no failure, and as many cells as columns."""
    parts = ["ab", "漢字", "\u0301", "\r", "\n", "\b", "\t", "\x1b7", "\x1b8", "\x1b[?7l", "\x1b[?7h", "\x1b[?25l"]
    parts += [f"\x1b[{n}{final}" for final in "ABCDEFGHdfLMPX@" for n in ("", "0", "3", "99999")]
    parts += ["\x1b[7;9H", *(f"\x1b[{n}{final}" for final in "JK" for n in ("", "0", "1", "2")), "\x1b[7;38;5;9m"]
    chooser = random.Random(0)
    for _ in range(300):
        text = "".join(chooser.choices(parts, k=40))
        assert _ALLOWED.fullmatch(text)
        whole = shown(text, width=10)
        assert [len(row) for row in whole.rows] == [10] * 4
        halves = cast((0.0, text[:80]), (0.5, text[80:]), width=10)
        assert [s for s, _ in screen.play(halves, 10)][-1] == whole  # no changed row is missed


def test_scrolling() -> None:
    assert shown("1\r\n2\r\n3\r\n4\r\n5").text == ["2", "3", "4", "5"]


def test_side_by_side_the_shorter_one_stays() -> None:
    left, right = cast((0.0, "a"), (0.5, "b")), cast((0.0, "x"), (1.5, "y"), duration=2.0)
    runs = [([s.text[0] for s in screens], count) for screens, count in together([left, right], 10)]
    assert runs == [(["a", "x"], 5), (["ab", "x"], 10), (["ab", "xy"], 5)]


def test_every_text_colour_can_be_read() -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 or more."""
    assert theme.contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    for colour in (theme.FOREGROUND, *theme.PALETTE.values()):
        assert theme.contrast(colour, theme.BACKGROUND) >= theme.CONTRAST
        assert theme.contrast(theme.faint(colour, theme.BACKGROUND), theme.BACKGROUND) >= theme.CONTRAST
    assert theme.contrast(theme.TITLE, theme.BAR) >= theme.CONTRAST


def cell(picture: Any, scene: draw.Scene, x: int, y: int) -> Any:
    window = scene.windows[0]
    width, height = window.cell
    left, top = window.left + window.padding + x * width, window.top + window.bar + window.padding + y * height
    return picture[top : top + height, left : left + width]


@pytest.mark.parametrize(("grid", "least"), [((100, 30), 16), ((80, 24), 19)])
def test_the_usual_sizes_fill_the_picture(grid: tuple[int, int], least: int) -> None:
    window = draw.scene([cast(width=grid[0], height=grid[1])], FULL).windows[0]
    assert window.cell[0] >= least
    assert window.left * 2 + window.size[0] in (1919, 1920) and window.top * 2 + window.size[1] in (1079, 1080)
    assert window.left > 0 and window.top > 0


def test_two_windows_stand_beside_each_other() -> None:
    scene = draw.scene([cast(width=80, height=24), cast(width=60, height=30)], FULL)
    left, right = scene.windows
    assert left.left > 0 and left.left + left.size[0] < right.left and right.left + right.size[0] < 1920
    assert left.cell == right.cell


def test_a_terminal_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(EngramError, match="a terminal of 300×120 does not fit into 320×180 pixels"):
        draw.scene([cast(width=300, height=120)], SIZE)


def test_cells_stand_where_the_terminal_has_them() -> None:
    scene = draw.scene([cast(width=20, height=5)], SIZE)
    picture = draw.Painter(scene).paint([shown("\x1b[41mA\x1b[0m\r\n  █\x1b[2;3H", height=5)])
    assert (cell(picture, scene, 2, 1) == theme.FOREGROUND).all()
    assert (cell(picture, scene, 3, 1) == theme.BACKGROUND).all()
    red = cell(picture, scene, 0, 0)
    assert (red[0, 0] == theme.PALETTE["red"]).all() and not (red == theme.PALETTE["red"]).all()


def test_painting_on_equals_painting_anew() -> None:
    scene = draw.scene([cast(width=20, height=5)], SIZE)
    texts = ("abc", "abX\r\n漢字", "abX", "x\r\n\x1b[31m漢", "a漢b\x1b[2G\x1b[P")
    screens = [shown(text, height=5) for text in texts]
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
