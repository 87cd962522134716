"""The data stage a row at a time: the same rows, refusals and bytes as with all of them in memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import quadratic
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import pattern, refusal

from engram.dataset import build, phrasing
from engram.dataset import leaks as leaks_module
from engram.dataset import rows as examples
from engram.dataset.build import check_data, split, write_data
from engram.dataset.leaks import check_leaks
from engram.dataset.rows import SPLITS, Example
from engram.patterns.loading import Pattern, find_files, load_patterns, stored_patterns
from engram.support import marks
from engram.support.errors import EngramError
from engram.support.lazy import Lazy

Rows = dict[str, list[Example]]
WORDS = ("alpha", "beta", "gamma", "Complete:", "Answer:", "Continue:", "x y", "12", "13", "a long word here", "é")


def some_patterns(draw: random.Random, most: int = 30) -> list[Pattern]:
    """Patterns that are near each other, share answers, and make each other's prompts now and then."""
    texts = {
        " ".join(draw.choices(WORDS, k=draw.randint(1, 6))) + draw.choice(["", "?", " ", "  z", "!"])
        for _ in range(most)
    }
    made = [pattern(text, draw.choice(["yes", "yes", "no", "maybe "])) for text in sorted(texts)]
    unique = {one.id: replace(one, place=f"p.yaml:{i}:1 $") for i, one in enumerate(made)}
    return [*unique.values()]


def spoil(rows: Rows, draw: random.Random) -> None:
    for _ in range(draw.randint(1, 6)):
        name, other = draw.choice(SPLITS), draw.choice(SPLITS)
        if not rows[name] or not rows[other]:
            continue
        row = draw.choice(rows[other])
        wording = draw.choice([*phrasing.ALL])
        row = draw.choice(
            [
                row,
                replace(row, split_kind=draw.choice(["train", "valid", "recall", "generalization"])),
                replace(row, answer=draw.choice(["yes", "no", "yes "])),
                replace(row, prompt=row.prompt + draw.choice(["?", " ", "x"])),
                replace(row, id=f"n{draw.randint(0, 9)}", phrasing=wording, prompt=phrasing.phrase(wording, row.input)),
            ]
        )
        rows[name].insert(draw.randint(0, len(rows[name])), row)
    if draw.random() < 0.3:
        draw.shuffle(rows["train"])


def leaks(rows: Rows) -> tuple[str, list[str]]:
    try:
        check_leaks(rows)
    except EngramError as error:
        return error.what, [*error.problems]
    return "", []


def expected_leaks(rows: Rows) -> tuple[str, list[str]]:
    found = quadratic.leaks(rows)
    return (f"the splits leak: {len(found)} problems", examples.first(found)) if found else ("", [])


@pytest.fixture(params=["marks", "one mark for all"])
def any_marks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "marks":
        for module in (marks, leaks_module):
            monkeypatch.setattr(module, "mark", lambda text: 7)


@pytest.mark.parametrize("seed", range(40))
def test_rows_and_refusals_are_those_of_the_plain_way(seed: int, any_marks: None) -> None:
    draw = random.Random(seed)
    patterns = some_patterns(draw)
    assert build._held_out(patterns, seed) == quadratic.held_out(patterns, seed)
    if collisions := quadratic.collisions(patterns):
        assert [*refusal(build._refuse_collisions, patterns).problems] == examples.first(collisions)
    else:
        build._refuse_collisions(patterns)
    rows = split(patterns, seed)
    assert leaks(rows) == expected_leaks(rows)
    spoil(rows, draw)
    assert leaks(rows) == expected_leaks(rows)


@pytest.mark.parametrize("seed", range(2))
def test_the_files_are_the_bytes_of_the_rows(seed: int, tmp_path: Path) -> None:
    files = [*find_files(), *find_files("http,ports,acronyms,capitals")]
    manifest = write_data(stored_patterns(files), files, tmp_path / "data", seed)
    for output, rows in zip(manifest["outputs"], split(load_patterns(files), seed).values()):
        written = (tmp_path / "data" / output["file"]).read_bytes()
        assert written == "".join(json.dumps(row.row(), ensure_ascii=False) + "\n" for row in rows).encode()
        assert output["rows"] == len(rows)
    assert {name: [*rows] for name, rows in check_data(tmp_path / "data").items()} == split(load_patterns(files), seed)


@given(st.lists(st.text(), min_size=8, max_size=8))
def test_a_line_is_what_json_makes_of_the_row(fields: list[str]) -> None:
    row = Example(*fields)
    assert row.line() == json.dumps(row.row(), ensure_ascii=False) + "\n"


ROW = json.loads(Example("a-bare", "a", "k", "c", "bare", "train", 'q "x"\n', "a").line())
SPOILS = (
    *(
        "\\u00e9",
        "\\ud800",
        '\\"',
        "\\\\",
        '\\\\"',
        "\\n",
        "é",
        "\x00",
        '"',
        ",",
        "{",
        "}",
        "[",
        "]",
        ":",
        " ",
        "\ufeff",
    ),
    *('"id": "b", ', '"role": "user", ', "NaN", "1e999", '"phrasing": "tell", ', '"x": 1, ', '"id": 5, ', "\ud800"),
)


@settings(deadline=None, max_examples=500)
@given(st.lists(st.tuples(st.integers(0, 260), st.integers(0, 3), st.sampled_from(SPOILS)), max_size=3), st.booleans())
def test_a_line_that_is_read_quickly_is_one_that_is_read_strictly(
    changes: list[tuple[int, int, str]], escaped: bool
) -> None:
    text = json.dumps(ROW, ensure_ascii=escaped)
    for at, cut, put in changes:
        text = text[:at] + put + text[at + cut :]
    line = text.encode("utf-8", "surrogatepass")
    if (row := examples._quickly(line)) is not None:
        assert examples._parsed(line) == (row, [])


def test_most_lines_are_read_quickly() -> None:
    rows = [row for found in split([pattern("What is \t {it}?", "a\nb")], 1).values() for row in found]
    assert rows and all(examples._quickly(row.line().encode()[:-1]) for row in rows)


class Counted(Lazy[Example]):
    """Rows that count how often they are asked for."""

    def __init__(self, rows: list[Example]) -> None:
        self.rows, self.passes, self.single = rows, 0, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Example]:
        self.passes += 1
        return iter(self.rows)

    def at(self, index: int) -> Example:
        self.single += 1
        return self.rows[index]


@pytest.mark.parametrize("answers", ["of their own", "one for all"])
def test_twice_the_patterns_are_twice_the_work(answers: str) -> None:
    draw = random.Random(0)

    def asked(count: int) -> int:
        texts = [f"{draw.randrange(16**30):030x} {draw.randrange(16**30):030x}" for _ in range(count)]
        patterns = [pattern(text, text if answers == "of their own" else "yes") for text in texts]
        rows = {name: Counted(found) for name, found in split(patterns, 0).items()}
        check_leaks(rows)
        assert [found.passes for found in rows.values()] == [1, 1, 1]
        return sum(found.single for found in rows.values())

    small, large = asked(400), asked(800)
    assert small < 400 * 10 and large < 2.3 * small


PEAK = """
import resource, sys
from engram.cli import main
try:
    main(sys.argv[1:])
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1))
"""


def test_memory_does_not_grow_with_the_patterns(tmp_path: Path) -> None:
    """5,000 patterns more are 45,000 rows more: with all in memory they took 60 MiB and more."""

    def peak(count: int) -> list[int]:
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(0, count, 500):
            lines = (
                f"  - {{input: what is {i:x} of {i * 7919 % 10007}, output: it is {i}}}\n"
                for i in range(number, number + 500)
            )
            (folder / f"p{number}.yaml").write_text("name: x\nexamples:\n" + "".join(lines))
        commands = (
            ["data", "--patterns", str(folder), "--data", f"{folder}/d"],
            ["data", "--check", "--data", f"{folder}/d"],
        )
        runs = [subprocess.run([sys.executable, "-c", PEAK, *one], capture_output=True, text=True) for one in commands]
        return [int(run.stdout.splitlines()[-1]) for run in runs]

    assert [large - small for small, large in zip(peak(500), peak(5500))] < [20 << 10] * 2


def test_a_write_that_breaks_off_in_the_middle_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "p.yaml"
    source.write_text("x")
    patterns = [pattern(f"What is thing {i} of {i * 31}?", f"it is {i}") for i in range(40)]
    write_data(patterns, [source], tmp_path / "data", 0)
    before = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    line = Example.line

    def stop(row: Example) -> str:
        if row.split_kind == "valid":
            raise KeyboardInterrupt
        return line(row)

    monkeypatch.setattr(Example, "line", stop)
    with pytest.raises(KeyboardInterrupt):
        write_data(patterns[:30], [source], tmp_path / "data", 1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before
    with pytest.raises(KeyboardInterrupt):
        write_data(patterns, [source], tmp_path / "new" / "data", 1)
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file()]
