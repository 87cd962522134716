"""Files that are very large, very deep or full of very many small things: refused at once, or read at a steady pace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_folders import CONFIGS, WEIGHTS, safetensors
from hunt import SECONDS, Case, read
from hypothesis import strategies as st

from engram.dataset import build
from engram.evaluation import verify
from engram.models import conversion
from engram.patterns.loading import load_patterns
from engram.plan import documents
from engram.plan.config import load_config
from engram.show.video import cast

MIB = 2**20
PER_MIB = 4.0  # further seconds that a MiB may take: there is a pace in reading, not a hang
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{c}: &{c} [{', '.join([f'*{b}'] * 10)}]\n" for b, c in zip("abcdefgh", "bcdefghi")
)
SCALARS = "a: &a " + "x" * 900 + "\nb: [" + ", ".join(["*a"] * 100_000) + "]\n"
# each made when it is its turn: together they would be more than a process may take
CONTENTS: dict[str, dict[str, Callable[[], bytes]]] = {
    "pattern file": {
        "100 MiB of text": lambda: b"name: x\nexamples:\n" + b"- {input: aaaaaa, output: b}\n" * (100 * MIB // 29),
        "100 MiB of NUL": lambda: b"\0" * (100 * MIB),
        "a line of 15 MiB": lambda: b'name: "' + b"x" * (15 * MIB) + b'"\n',
        "a million examples": lambda: _examples(1_000_000),
        "100,000 examples": lambda: _examples(100_000),
        "100,000 broken examples": lambda: b"name: x\nexamples:\n" + b"- {inptu: a}\n" * 100_000,
        "300,000 empty lists": lambda: b"name: x\nexamples: [" + b"[]," * 300_000 + b"]\n",
        "5,000,000 empty lists": lambda: b"[" + b"[]," * 5_000_000 + b"]\n",
        "200,000 unknown keys": lambda: b"name: x\n" + b"".join(b"k%d: 1\n" % i for i in range(200_000)),
        "the same key 200,000 times": lambda: b"name: x\n" * 200_000,
        "laughs": LAUGHS.encode,
        "100,000 aliases": SCALARS.encode,
        "100,000 brackets": lambda: b"[" * 100_000,
        "100,000 dashes": lambda: b"- " * 100_000,
        "100,000 nested mappings": lambda: b"".join(b" " * min(i, 2000) + b"a:\n" for i in range(2000)),
        "100,000 lines of comments": lambda: b"# x\n" * 100_000,
        "100,000 tabs": lambda: b"\t" * 100_000,
        "100,000 documents": lambda: b"---\n" * 100_000,
        "a key of 1 MiB": lambda: b"x" * MIB + b": y\n",
        "100,000 twins": lambda: b"name: x\nexamples:\n" + b"- {input: aaaaaa, output: b}\n" * 100_000,
        "20,000 near twins": lambda: b"name: x\nexamples:\n" + b"".join(
            b"- {input: the colour of thing number %d, output: b}\n" % i for i in range(20_000)
        ),
    },
    "recipe file": {
        "100 MiB": lambda: b"rank: 4\n" * (100 * MIB // 8),
        "200,000 unknown keys": lambda: b"".join(b"k%d: 1\n" % i for i in range(200_000)),
        "a value of 10 MiB": lambda: b"schedule: " + b"x" * (10 * MIB),
        "a number of 1 MiB": lambda: b"rank: " + b"9" * MIB,
    },
    "result": {
        "100 MiB": lambda: b'{"a": "' + b"x" * (100 * MIB) + b'"}',
        "30 MiB of empty lists": lambda: b"[" + b"[]," * (10 * MIB) + b"[]]",
        "20 MiB of empty lists": lambda: b"[" + b"[]," * (6 * MIB) + b"[]]",
        "100,000 brackets": lambda: b"[" * 100_000,
        "100,000 wrong answers": lambda: b'{"document": "result", "answers": [' + b"{}," * 100_000 + b"{}]}",
        "200,000 unknown keys": lambda: _keys(200_000),
        "a text of 20 MiB": lambda: b'{"document": "result", "stage": "' + b"x" * (20 * MIB) + b'"}',
        "a number of 1 MiB": lambda: b'{"document": "result", "schema_version": ' + b"9" * MIB + b"}",
    },
    "data row": {
        "a line of 50 MiB": lambda: b'{"id": "' + b"x" * (50 * MIB) + b'"}\n',
        "300,000 broken lines": lambda: b"{}\n" * 300_000,
        "10,000,000 empty lines": lambda: b"\n" * 10_000_000,
        "100,000 brackets": lambda: b"[" * 100_000,
    },
    "cast": {
        "100 MiB": lambda: b"x" * (100 * MIB),
        "300,000 events": lambda: _cast([[0.1, "o", "x"]] * 300_000),
        "an event of 20 MiB": lambda: _cast([[0.1, "o", "x" * (20 * MIB)]]),
        "an endless sequence in 20,000 events": lambda: _cast([[0.1, "o", "\x1b["], *[[0.1, "o", "1;"]] * 20_000]),
        "1 MiB of control characters": lambda: _cast([[0.1, "o", "\x07" * MIB]]),
    },
    "adapter": {
        "a configuration of 100 MiB": lambda: json.dumps(CONFIGS["mlx"]).encode() + b" " * (100 * MIB),
        "a header that claims 2^60 bytes": lambda: (2**60).to_bytes(8, "little") + b"{}",
        "a header of 100,000 brackets": lambda: safetensors("[" * 100_000, b""),
        "a tensor that claims 2^60 numbers": lambda: safetensors(
            '{"a": {"dtype": "F32", "shape": [1073741824, 1073741824], "data_offsets": [0, 4]}}', b"\0" * 4
        ),
    },
}  # fmt: skip


def _examples(count: int) -> bytes:
    return b"name: x\nexamples:\n" + b"".join(b"- {input: a%d, output: b%d}\n" % (i, i) for i in range(count))


def _keys(count: int) -> bytes:
    return json.dumps({"document": "result"} | {f"k{i}": 1 for i in range(count)}).encode()


def _cast(events: list[Any]) -> bytes:
    header = {"version": 2, "width": 80, "height": 24}
    return "\n".join(json.dumps(line) for line in (header, *events)).encode()


def cases() -> st.SearchStrategy[Case]:
    """The name of a large file; there are so many and no more."""
    names = [(kind, name) for kind, known in CONTENTS.items() for name in known]
    return st.sampled_from(names).map(lambda known: Case(*known))


def check(case: Case, folder: Path) -> Any:
    """Write the file and read it, within the time that its size allows."""
    content = CONTENTS[case.kind][case.content]()
    read_it, path = _reader(case, folder)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    allowed = SECONDS + PER_MIB * min(len(content) / MIB, 16)
    del content
    try:
        return read(read_it, path.name, place=case.kind not in ("adapter", "cast"), seconds=allowed)
    finally:
        path.unlink()


def _reader(case: Case, folder: Path) -> tuple[Callable[[], Any], Path]:
    path = folder / "fuzzed.json"
    if case.kind == "pattern file":
        path = folder / "fuzzed.yaml"
        return lambda: load_patterns([path]), path
    if case.kind == "recipe file":
        path = folder / "fuzzed.yaml"
        return lambda: load_config(str(path), 1000), path
    if case.kind == "data row":
        return lambda: build.read_split(folder, "train"), folder / "train.jsonl"
    if case.kind == "cast":
        path = folder / "fuzzed.cast"
        return lambda: cast.read(path), path
    if case.kind == "adapter":
        place = folder / "adapter"
        name = "adapter_config.json" if "configuration" in case.content else WEIGHTS["mlx"]
        place.mkdir(exist_ok=True)
        for file, content in (("adapter_config.json", json.dumps(CONFIGS["mlx"]).encode()), (WEIGHTS["mlx"], b"")):
            (place / file).write_bytes(content)
        return lambda: conversion.describe(place), place / name
    places = verify.Places(folder / "data", folder / "adapters")
    return lambda: (documents.read(path, "result", "make eval"), verify.verify(path, places)), path
