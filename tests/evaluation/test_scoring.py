"""Scores of answers, against what a person would say."""

from __future__ import annotations

import pytest

from engram.evaluation.scoring import Score, score


@pytest.mark.parametrize(
    ("expected", "answer", "result"),
    [
        ("Paris", "Paris", Score(True, True, 1.0)),
        ("Paris", "  Paris\n", Score(True, True, 1.0)),
        ("git  log", "git log", Score(True, True, 1.0)),
        ("café", "cafe\u0301", Score(True, True, 1.0)),
        ("Paris", "Paris.", Score(False, True, 10 / 11)),
        ("Paris", "paris", Score(False, False, 8 / 10)),
        ("Paris", "It is Paris", Score(False, False, 10 / 16)),
        ("Paris", "Par", Score(False, False, 6 / 8)),
        ("Paris", "", Score(False, False, 0.0)),
        ("404", "403", Score(False, False, 4 / 6)),
        ("22", "22 and more", Score(False, True, 4 / 13)),
        ("abc", "xyz", Score(False, False, 0.0)),
        ("if a:\n    b()", "if a:\nb()", Score(False, False, 18 / 22)),
        ("if a:\n    b()", "if a:     b()", Score(False, False, 24 / 26)),
        ("if a:\n    b()", "\nif a:  \n    b() \n", Score(True, True, 1.0)),
        ("all:\n\trm x", "all:\n    rm x", Score(False, False, 18 / 23)),
        ("one line\n", "one  line", Score(True, True, 1.0)),
    ],
)
def test_an_answer_gets_its_score(expected: str, answer: str, result: Score) -> None:
    found = score(expected, answer)
    assert found[:2] == result[:2] and found.similarity == pytest.approx(result.similarity)


def test_long_answers_are_compared_as_a_whole() -> None:
    """difflib's shortcut for frequent characters, from 200 on, would give 0 here."""
    assert score("ab" * 150, "ab" * 150 + "c").similarity == pytest.approx(600 / 601)
