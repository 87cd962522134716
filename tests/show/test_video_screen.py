"""What the terminal shows: cells, widths, colours, and the frame at which a change is seen."""

from __future__ import annotations

import random

import pytest

from engram.show.video import screen, theme
from engram.show.video.cast import _ALLOWED, Cast, Event
from engram.show.video.screen import Cell, Screen, together


def cast(*events: tuple[float, str], duration: float = 1.0, width: int = 20, height: int = 4) -> Cast:
    return Cast(width, height, duration, "", tuple(Event(time, "o", text) for time, text in events))


def shown(text: str, width: int = 20) -> Screen:
    return screen.last(cast((0.0, text), width=width))


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
