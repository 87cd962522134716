"""Marks find, texts decide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.support import lazy, marks, spool
from engram.support.errors import EngramError
from engram.support.marks import Places, repeats
from engram.support.spool import Spool

WORDS = st.lists(st.sampled_from("abcdef"), max_size=30)


def first_before(texts: list[str]) -> list[tuple[int, int]]:
    return [(i, texts.index(text)) for i, text in enumerate(texts) if texts.index(text) < i]


@settings(deadline=None)
@given(WORDS, st.sampled_from([hash, lambda text: 7, lambda text: ord(text) % 2]))
def test_what_stands_before_is_found_whatever_the_marks(texts: list[str], mark: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marks, "mark", mark)
        assert [*repeats(lambda: texts, len(texts), texts.__getitem__)] == first_before(texts)


@given(st.lists(st.integers(-4, 4), max_size=30), st.integers(-5, 5))
def test_places_are_those_of_a_list(known: list[int], wanted: int) -> None:
    places = Places(np.array(known, np.int64))
    assert places.of(wanted) == [i for i, one in enumerate(known) if one == wanted]
    assert places.have(np.array([wanted, 1], np.int64)).tolist() == [wanted in known, 1 in known]
    assert places.firsts().tolist() == [known.index(one) for one in known]
    several = [[i for i, one in enumerate(known) if one == mark] for mark in sorted({*known})]
    assert [group.tolist() for group in places.groups()] == [group for group in several if len(group) > 1]


@pytest.mark.parametrize("room", [0, 100, 1 << 20])
def test_a_spool_gives_back_what_it_was_given(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", room)
    monkeypatch.setattr(spool, "_PIECE", 50)
    kept: Spool[tuple[str, int]] = Spool(lambda text, number: (text, number))
    things = [("\ud800 é🙂\x00" * (i % 3), i) for i in range(700)]
    for i, thing in enumerate(things):
        kept.add(thing)
        assert kept[i] == thing and len(kept) == i + 1
    assert [*kept] == things == kept[:] and kept[-1] == things[-1] and kept[5:1:-2] == things[5:1:-2]
    pairs = iter(kept)
    assert [next(pairs), kept[600], next(pairs)] == [things[0], things[600], things[1]]
    with pytest.raises(IndexError):
        kept[700]


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: Spool[tuple[str]] = Spool(lambda text: (text,))
    kept.add(("a",))

    class Full:
        def seek(self, _: int) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "_file", Full())
    with pytest.raises(EngramError, match="cannot keep a working file: No space left on device"):
        kept[0]


def test_a_view_makes_what_it_is_asked_for() -> None:
    view = lazy.View([4, 5, 6], lambda number: number * 10)
    assert (len(view), view[0], view[-1], view[1:], [*view]) == (3, 40, 60, [50, 60], [40, 50, 60])
