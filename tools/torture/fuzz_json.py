"""Documents and files of lines: results, the data's manifest, rows, recordings; read, checked, or refused by place."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from documents import HASH, training, write_run
from hypothesis import strategies as st
from packs import write_pack
from report_runs import recording

from engram.dataset import build, leaks
from engram.dataset.phrasing import phrase
from engram.dataset.rows import Example
from engram.evaluation import compare, compare_runs, seeds, verify
from engram.models import retention
from engram.plan import documents as results
from engram.show.report import html
from engram.show.video import cast, screen
from tools.torture import nasty
from tools.torture.hunt import Case, read

KINDS = ("result", "training", "comparison", "comparisons", "seeds", "manifest")
OF_LINES = ("data row", "general row", "cast")
EXAMPLE = Example("1-bare", "1", "facts", "c", "bare", "train", phrase("bare", "Half of two"), "one")
CHAT = {"kind": "chat", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
SOUND: dict[str, list[Any]] = {
    "data row": [EXAMPLE.row(), EXAMPLE.row() | {"id": "2-bare"}],
    "general row": [CHAT, {"kind": "text", "text": "Once upon a time."}],
    "cast": [json.loads(line) for line in cast.dumps(recording("engram")).splitlines()],
}
SEQUENCES = (
    "\x1b[31m", "\x1b[999;999H", "\x1b[99999A", "\x1b[2J", "\x1b[3J", "\x1b]0;x\x07", "\x1bP", "\x1b[", "\x1b[?25l",
    "\x1b[?1049h", "\x1b[38;5;300m", "\x1b[38;5m", "\x1b[38;2;1;2;3m", "\x1b[99999L", "\x1b[1000@", "\x1b[12P",
    "\x1b7", "\x1b8", "\x1bc", "\x1b[0;0H", "\x1b[" + "1;" * 40 + "m", "\x9b31m", "\x07", "\x0e", "\u202e", "\u200d",
    "中" * 99, "\u0301" * 99, "\r\n" * 99, "\b" * 99, "\x1b[", "\x1b[-1A", "\x1b[;H", "\x1b[1;2;3H", "\x1b[ q",
    "\x1b[!p", "\x1b(0", "\x1b#8", "\x1b[4h", "\x1b[6n", "\x1b[c", "\t" * 99,
)  # fmt: skip


@functools.cache
def documents(folder: Path) -> dict[str, Any]:
    """A small valid document of each kind, the run that they speak of in `folder`."""
    place = folder / "mlx"
    write_run(place, before=[False, True], after=[True, True])
    results.write(place / "training.json", training(HASH["b"], losses=(2.0, 1.0)), "training")
    compare.compare(place)
    compare_runs.collect(folder)
    write_pack(folder)
    results.write(folder / "seeds.json", seeds.summarise([place]), "seeds")
    files = {
        "result": place / "tuned.json", "training": place / "training.json", "comparison": place / "comparison.json",
        "comparisons": folder / "comparison.json", "seeds": folder / "seeds.json",
        "manifest": folder / "data" / "manifest.json",
    }  # fmt: skip
    found = {name: json.loads(path.read_bytes()) for name, path in files.items()}
    found["result"]["answers"] = found["result"]["answers"][:3]
    return found


def documents_cases(folder: Path) -> st.SearchStrategy[Case]:
    """A spoiled or damaged document of any kind."""
    known = documents(folder)
    return st.sampled_from(KINDS).flatmap(lambda kind: st.builds(Case, st.just(kind), _document(known[kind])))


def _document(document: Any) -> st.SearchStrategy[bytes]:
    text = json.dumps(document, indent=1).encode()
    spoiled = nasty.spoiled(document).map(lambda made: nasty.dumps(made).encode("utf-8", "surrogatepass"))
    return st.one_of(spoiled, spoiled, nasty.damaged(text), st.binary(max_size=40))


def check_documents(case: Case, folder: Path) -> Any:
    """Read the document by whoever reads its kind, and verify it."""
    if case.kind == "manifest":
        return _checked_manifest(case, folder)
    place = folder / "mlx" if case.kind != "comparisons" else folder
    path = place / "fuzzed.json"
    path.write_bytes(case.content)
    document = read(lambda: results.read(path, case.kind, "make eval"), path.name)
    places = verify.Places(folder / "data", folder / "adapters", "nowhere/x" if case.kind == "result" else None)
    read(lambda: verify.verify(path, places), path.name)
    return document


def _checked_manifest(case: Case, folder: Path) -> Any:
    path = folder / "data" / "manifest.json"
    sound = path.read_bytes()
    try:
        path.write_bytes(case.content)
        return read(lambda: build.read_manifest(folder / "data"), path.name, place=False)
    finally:
        path.write_bytes(sound)


def lines_cases(_: Path) -> st.SearchStrategy[Case]:
    """A file of any kind, one of its lines or its bytes spoiled."""
    shown = st.lists(st.one_of(st.sampled_from(SEQUENCES), nasty.texts()), min_size=1, max_size=6).map("".join)
    played = st.builds(_cast, shown, st.integers(8, 310), st.integers(2, 125))
    spoiled = st.sampled_from(OF_LINES).flatmap(lambda kind: st.builds(Case, st.just(kind), _lines(SOUND[kind])))
    return st.one_of(spoiled, spoiled, spoiled, st.builds(Case, st.just("cast"), played))


@st.composite
def _lines(draw: st.DrawFn, rows: list[Any]) -> bytes:
    lines = [json.dumps(row).encode() for row in rows]
    if draw(st.booleans()):
        at = draw(st.integers(0, len(rows) - 1))
        lines[at] = nasty.dumps(draw(nasty.spoiled(rows[at]))).encode("utf-8", "surrogatepass")
        return b"\n".join(lines) + b"\n"
    return draw(nasty.damaged(b"\n".join(lines) + b"\n"))


def _cast(text: str, width: int, height: int) -> bytes:
    header = {"version": 2, "width": width, "height": height}
    return (json.dumps(header) + "\n" + json.dumps([0.5, "o", text]) + "\n").encode()


def check_lines(case: Case, folder: Path) -> Any:
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
        read(lambda: (screen.last(found), html.film(found).data()), path.name)
        assert all(cast._ALLOWED.fullmatch(e.data) for e in found.events if e.code == cast.OUTPUT)
    return found
