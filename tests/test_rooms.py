"""The house stays as docs/design.md draws it: rooms in one order, imports in that order alone, limits kept."""

from __future__ import annotations

import pytest

from tools import house


@pytest.fixture(scope="module")
def today() -> house.House:
    return house.read()


def test_every_room_is_in_the_drawing(today: house.House) -> None:
    folders = {path.name for path in (house.ROOT / "engram").iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(house.rooms())


def test_no_room_imports_from_a_later_one(today: house.House) -> None:
    assert house.upwards(today) == []


def test_imports_inside_functions_and_of_submodules_are_seen(today: house.House) -> None:
    """The two that a reader of top-level lines would miss; without them the test above could not fail."""
    assert "engram.support.errors" in today.imports["engram.cli"]
    assert any(name.startswith("engram.training") for name in today.imports["engram.cli.stages"])


def test_small_modules_are_few(today: house.House) -> None:
    assert len(house.small(today)) <= house.LIMITS["small modules"], house.small(today)
