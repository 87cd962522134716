"""Near duplicates among many texts: as comparing every pair, with far less to compare."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.dataset import near
from engram.support import columns
from engram.support.text import folded, near_duplicate

FEW = near.FEW
PAIRS = 64  # that are looked at one by one here, where texts are few


@pytest.fixture(autouse=True, scope="module")
def few() -> Iterator[None]:
    """What is made for many texts is tried on few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "FEW", PAIRS)
        yield


ALPHABETS = ("ab ", "abcdefgh ,?é", "0123456789", "aA. ß中\U0001f600")


def alike(seed: int, count: int) -> list[str]:
    """Texts of few families, each a few characters from others of its own."""
    draw = random.Random(seed)
    letters = draw.choice(ALPHABETS)
    families = ["".join(draw.choices(letters, k=draw.randint(0, 60))) for _ in range(6)]
    return [_changed(draw.choice(families), letters, draw) for _ in range(count)]


def _changed(text: str, letters: str, draw: random.Random) -> str:
    for _ in range(draw.randint(0, 4)):
        at = draw.randint(0, len(text))
        text = text[:at] + draw.choice(["", *letters]) + text[at + draw.randint(0, 1) :]
    return text


def every_pair(ones: list[str], others: list[str]) -> set[tuple[int, int]]:
    return {(i, j) for i, one in enumerate(ones) for j, other in enumerate(others) if near_duplicate(one, other)}


def closure(ones: list[str], others: list[str]) -> set[int]:
    found: set[int] = set()
    while others:
        fresh = {i for i, j in every_pair(ones, others)} - found
        found |= fresh
        others = [ones[i] for i in fresh]
    return found


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40))
def test_it_finds_the_pairs_that_comparing_all_of_them_finds(seed: int, count: int, more: int) -> None:
    texts = alike(seed, count + more)
    ones, others = texts[:count], texts[count:]
    assert set(near.pairs(ones, others)) == every_pair(ones, others)
    assert near.reached(ones, others) == closure(ones, others)


@pytest.mark.parametrize("seed", range(6))
def test_it_does_so_where_each_pair_is_looked_at(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "FEW", 10**9)
    texts = alike(seed, 120)
    assert set(near.pairs(texts[:60], texts[60:])) == every_pair(texts[:60], texts[60:])
    assert near.reached(texts[:90], texts[90:]) == closure(texts[:90], texts[90:])


@pytest.mark.parametrize("seed", range(3))
def test_it_does_so_in_small_blocks_too(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "ROOM", 2000)
    texts = alike(seed, 120)
    assert set(near.pairs(texts[:60], texts[60:])) == every_pair(texts[:60], texts[60:])
    assert near.reached(texts[:90], texts[90:]) == closure(texts[:90], texts[90:])


@pytest.mark.parametrize("seed", range(3))
def test_it_does_so_where_every_hash_is_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (near, columns):
        monkeypatch.setattr(module, "hashes_of", lambda codes: np.zeros(len(codes), np.uint64))
    texts = alike(seed, 120)
    assert set(near.pairs(texts[:60], texts[60:])) == every_pair(texts[:60], texts[60:])


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32))
def test_near_duplicates_leave_no_more_unmatched_than_is_looked_for(seed: int) -> None:
    one, other = alike(seed, 2)
    a, b = folded(one), folded(other)
    if near_duplicate(one, other):
        assert len(a) + len(b) - 2 * near._common(a, b) <= near.unmatched(len(a), len(b))


def test_the_common_subsequence_is_the_longest() -> None:
    assert [near._common(*pair) for pair in (("", "a"), ("abcbdab", "bdcaba"), ("xay", "bab"), ("aa", "aaa"))] == [
        *(0, 4, 1, 2)
    ]


def test_parts_are_cut_where_texts_differ() -> None:
    draw = random.Random(0)
    texts = [f"the number is {draw.randrange(10**9):09} as they say" for _ in range(500)]
    ((_, table),) = columns.tables(texts)
    inner = [part.first for part in columns.cut(table.codes, 4)][1:]
    assert all(14 < first < 23 for first in inner)


@pytest.mark.parametrize("make", ["words", "template"])
def test_twice_the_texts_of_one_answer_are_about_twice_the_work(make: str) -> None:
    """Counted in pairs that are looked at one by one; comparing all would be four times as many."""
    draw = random.Random(2)
    words = ["".join(draw.choices("abcdefghijklmnoprstuvw", k=draw.randint(3, 9))) for _ in range(2000)]

    def text() -> str:
        if make == "template":
            return f"is {draw.randrange(16**20):020x} the right key or not"
        return " ".join(draw.choices(words, k=7))

    def work(count: int) -> int:
        texts = [text() for _ in range(count)]
        index = near.Near(texts[: count // 5])
        index.reached(texts[count // 5 :])
        return index.confirmed

    small, large = work(2000), work(4000)
    assert large <= 4 * small + 100 and large < 4000 * 3200 / 5 / 1000


def test_many_small_groups_need_no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million patterns have thousands of answers with a few dozen texts each: a `Near` for each took minutes."""
    monkeypatch.setattr(near, "FEW", FEW)
    monkeypatch.delattr(near, "Near")
    texts = alike(3, 100)
    assert set(near.pairs(texts[:20], texts[20:])) == every_pair(texts[:20], texts[20:])
    assert near.reached(texts[:20], texts[20:]) == closure(texts[:20], texts[20:])
