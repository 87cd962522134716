"""Measure the house: lines and modules by room, imports that climb, small modules with one importer.

`python -m tools.house` prints the numbers; `--check` exits with 1 where a limit of docs/design.md is missed.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SMALL = 80  # lines; a module with fewer and a single importer belongs into its importer
LIMITS = {"lines": 18_000, "modules": 130, "test lines": 15_000, "imports upwards": 0, "small modules": 10}


class House(NamedTuple):
    """The package as its source files say: module name -> path, and module name -> names of imported modules."""

    modules: dict[str, Path]
    imports: dict[str, set[str]]


def rooms() -> list[str]:
    """The rooms in the order of docs/design.md, whose table is the order of imports."""
    table = (ROOT / "docs" / "design.md").read_text("utf-8").partition("| room |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `([a-z]+)/` \|", table, re.M)


def read() -> House:
    """Parse every module of `engram/`, imports inside functions included."""
    modules = {_name(path): path for path in sorted((ROOT / "engram").rglob("*.py"))}
    return House(modules, {name: _imported(path, modules) for name, path in modules.items()})


def upwards(house: House) -> list[str]:
    """A line for each import from a room into one that stands below it in the table."""
    order = {room: place for place, room in enumerate(rooms())}
    return [
        f"{name} imports {other}"
        for name, others in house.imports.items()
        for other in sorted(others)
        if order.get(_room(name), len(order)) < order.get(_room(other), -1)
    ]


def small(house: House) -> list[str]:
    """Modules with exactly one importer and fewer than SMALL lines; packages' `__init__` and `__main__` not counted."""
    importers = defaultdict(set)
    for name, others in house.imports.items():
        for other in others:
            importers[other].add(name)
    return [
        name
        for name, path in house.modules.items()
        if len(importers[name]) == 1 and lines(path) < SMALL and not path.stem.startswith("__")
    ]


def lines(*paths: Path) -> int:
    """Lines of these files."""
    return sum(len(path.read_text("utf-8").splitlines()) for path in paths)


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def _imported(path: Path, modules: dict[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    deepest = {name for name in found & set(modules) if not any(other.startswith(f"{name}.") for other in found)}
    return (deepest | {name for name in found & set(modules) if modules[name].stem != "__init__"}) - {_name(path)}


def main() -> None:
    """Print the numbers next to their limits."""
    house = read()
    print(f"{'room':12} {'lines':>6} {'modules':>8}")
    for room in [*rooms(), ""]:
        paths = [path for name, path in house.modules.items() if _room(name) == room]
        print(f"{room or 'engram':12} {lines(*paths):6} {len(paths):8}")
    measured = {
        "lines": lines(*house.modules.values()),
        "modules": len(house.modules),
        "test lines": lines(*(ROOT / "tests").rglob("*.py")),
        "imports upwards": len(upwards(house)),
        "small modules": len(small(house)),
    }
    for name, value in measured.items():
        print(f"{name:16} {value:6} of at most {LIMITS[name]:,}{'' if value <= LIMITS[name] else '  MISSED'}")
    print("\n".join([*upwards(house), *(f"small, one importer: {name}" for name in small(house))]))
    if "--check" in sys.argv[1:]:
        sys.exit(any(value > LIMITS[name] for name, value in measured.items()))


if __name__ == "__main__":
    main()
