"""Files of lines: rows of the data, general text and chat, and recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nasty
from hunt import Case, read
from hypothesis import strategies as st
from report_runs import recording

from engram.dataset import build, leaks
from engram.dataset.phrasing import phrase
from engram.dataset.rows import Example
from engram.models import retention
from engram.show.report import player
from engram.show.video import cast, control, screen

KINDS = ("data row", "general row", "cast")
EXAMPLE = Example("1-bare", "1", "facts", "c", "bare", "train", phrase("bare", "Half of two"), "one")
CHAT = {"kind": "chat", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
SOUND: dict[str, list[Any]] = {
    "data row": [EXAMPLE.row(), EXAMPLE.row() | {"id": "2-bare"}],
    "general row": [CHAT, {"kind": "text", "text": "Once upon a time."}],
    "cast": [json.loads(line) for line in cast.dumps(recording("engram")).splitlines()],
}
SEQUENCES = (
    *(
        "\x1b[31m",
        "\x1b[999;999H",
        "\x1b[99999A",
        "\x1b[2J",
        "\x1b[3J",
        "\x1b]0;x\x07",
        "\x1bP",
        "\x1b[",
        "\x1b[?25l",
        "\x1b[?1049h",
    ),
    *(
        "\x1b[38;5;300m",
        "\x1b[38;5m",
        "\x1b[38;2;1;2;3m",
        "\x1b[99999L",
        "\x1b[1000@",
        "\x1b[12P",
        "\x1b7",
        "\x1b8",
        "\x1bc",
        "\x1b[0;0H",
    ),
    *(
        "\x1b[" + "1;" * 40 + "m",
        "\x9b31m",
        "\x07",
        "\x0e",
        "\u202e",
        "\u200d",
        "中" * 99,
        "\u0301" * 99,
        "\r\n" * 99,
        "\b" * 99,
        "\x1b[",
    ),
    *(
        "\x1b[-1A",
        "\x1b[;H",
        "\x1b[1;2;3H",
        "\x1b[ q",
        "\x1b[!p",
        "\x1b(0",
        "\x1b#8",
        "\x1b[4h",
        "\x1b[6n",
        "\x1b[c",
        "\t" * 99,
    ),
)


def cases() -> st.SearchStrategy[Case]:
    """A file of any kind, one of its lines or its bytes spoiled."""
    shown = st.lists(st.one_of(st.sampled_from(SEQUENCES), nasty.texts()), min_size=1, max_size=6).map("".join)
    played = st.builds(_cast, shown, st.integers(8, 310), st.integers(2, 125))
    spoiled = st.sampled_from(KINDS).flatmap(lambda kind: st.builds(Case, st.just(kind), _contents(SOUND[kind])))
    return st.one_of(spoiled, spoiled, spoiled, st.builds(Case, st.just("cast"), played))


@st.composite
def _contents(draw: st.DrawFn, rows: list[Any]) -> bytes:
    lines = [json.dumps(row).encode() for row in rows]
    if draw(st.booleans()):
        at = draw(st.integers(0, len(rows) - 1))
        lines[at] = nasty.dumps(draw(nasty.spoiled(rows[at]))).encode("utf-8", "surrogatepass")
        return b"\n".join(lines) + b"\n"
    return draw(nasty.damaged(b"\n".join(lines) + b"\n"))


def _cast(text: str, width: int, height: int) -> bytes:
    header = {"version": 2, "width": width, "height": height}
    return (json.dumps(header) + "\n" + json.dumps([0.5, "o", text]) + "\n").encode()


def check(case: Case, folder: Path) -> Any:
    """Read the file; play what is a recording."""
    if case.kind == "data row":
        (folder / "train.jsonl").write_bytes(case.content)
        rows = read(lambda: build.read_split(folder, "train"), "train.jsonl")
        if rows:
            read(lambda: leaks.check_leaks({"train": rows, "valid": [], "test": rows}), "", place=False)
        return rows
    if case.kind == "general row":
        path = folder / "heldout.jsonl"
        path.write_bytes(case.content)
        return read(lambda: retention._read(path, ("chat", "text")), path.name, place=False)
    path = folder / "fuzzed.cast"
    path.write_bytes(case.content)
    found = read(lambda: cast.read(path), path.name)
    if found:
        read(lambda: (screen.last(found), player.film(found).data()), path.name)
        assert all(control.refused(e.data) == ([], "") for e in found.events if e.code == cast.OUTPUT)
    return found
