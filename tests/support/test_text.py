"""Text as people compare it and as a screen may show it."""

from __future__ import annotations

import pytest

from engram.support.text import nearest, normalise, shorten, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode 日本 🙂", "plain, ünïcode 日本 🙂"),
        ("a\nb", "a⏎b"),
        ("a\tb", "a⇥b"),
        ("a\r\nb", "a\\x0d⏎b"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("bell\x07 null\x00 delete\x7f", "bell\\x07 null\\x00 delete\\x7f"),
        ("\x9b2J\x85", "\\x9b2J\\x85"),
        ("\u202eevil\u202c \u2066x\u2069", "\\u202eevil\\u202c \\u2066x\\u2069"),
        ("zero\u200bwidth \ufeff soft\u00adhyphen", "zero\\u200bwidth \\ufeff soft\\xadhyphen"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("half \ud83d", "half \\ud83d"),
        ("private \ue000 \U000f0000", "private \\ue000 \\U000f0000"),
        ("می\u200cخواهم 👩\u200d🔬 🏳️\u200d🌈 क्\u200dष", "می\u200cخواهم 👩\u200d🔬 🏳️\u200d🌈 क्\u200dष"),
        ("\u200d a\u200c 1\u200d2 a\u200d\u200db", "\\u200d a\\u200c 1\\u200d2 a\\u200d\\u200db"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("", ""),
    ],
)
def test_what_could_drive_a_terminal_is_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown == visible(shown)
    shown.encode("utf-8")


def test_a_line_break_is_shown_as_the_caller_likes() -> None:
    assert visible("a\nb\x1b", newline="\n") == "a\nb\\x1b"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  a \t b\n\nc ", "a b c"),
        ("cafe\u0301", "café"),
        ("a\u00a0b\u2028c", "a b c"),
        ("Case. And, punctuation!", "Case. And, punctuation!"),
        ("ﬁ", "ﬁ"),
        (" \n", ""),
    ],
)
def test_normalising_is_nfc_and_white_space_and_nothing_else(text: str, normal: str) -> None:
    assert normalise(text) == normal == normalise(normal)


def test_the_nearest_known_word_is_offered_and_nothing_far() -> None:
    assert nearest("exampels", ["name", "examples"]) == ", did you mean 'examples'?"
    assert nearest("zzz", ["name", "examples"]) == "" == nearest("name", [])


def test_shortening_marks_the_cut() -> None:
    assert [shorten("abcdef", limit) for limit in (7, 6, 3, 1, 0)] == ["abcdef", "abcdef", "ab…", "…", "…"]
