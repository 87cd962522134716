"""Patterns become the rows of three splits, in JSON Lines files with a manifest that describes them."""

from __future__ import annotations

import functools
import itertools
import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.dataset import phrasing
from engram.dataset.leaks import check_leaks, repeated
from engram.dataset.rows import LARGEST_DATA, SPLITS, Example, Rows, example, read_rows
from engram.patterns.loading import Pattern
from engram.support import locks, schema, strict_json
from engram.support.errors import EngramError
from engram.support.files import sha256, sha256_text, writing_together
from engram.support.text import first, near_duplicates, normalise

HELD_OUT_SHARE = 0.2
_AT_ONCE = 1000  # rows that are written in one piece


def is_held_out(pattern: Pattern, seed: int) -> bool:
    """Whether a pattern is never taught: decided by its id, its category and the seed, never by other patterns."""
    draw = int(sha256_text(f"held-out:{seed}:{pattern.category}:{pattern.id}")[:12], 16) / 16**12
    return draw < HELD_OUT_SHARE


def split(patterns: Sequence[Pattern], seed: int) -> dict[str, list[Example]]:
    """The examples of `train`, `valid` and `test`.

    A taught pattern has a row for each training and validation phrasing (so validation is 20 % of what is not
    test) and one test row in a phrasing that training never saw; a held-out pattern has its test row only.
    A held-out pattern whose near twin with the same answer is taught would not measure generalization: it is
    taught as well.
    """
    return {name: list(rows) for name, rows in _planned(patterns, seed).items()}


def _planned(patterns: Sequence[Pattern], seed: int) -> dict[str, Rows]:
    held_out = _held_out(patterns, seed)
    taught = [pattern for pattern in patterns if pattern.id not in held_out]

    def learned(name: str, wordings: Sequence[str]) -> Rows:
        return Rows(
            lambda: (example(pattern, wording, name) for pattern in taught for wording in wordings),
            len(taught) * len(wordings),
        )

    def asked() -> Iterator[Example]:
        for pattern in patterns:
            kind = "generalization" if pattern.id in held_out else "recall"
            yield example(pattern, _test_phrasing(pattern, seed), kind)

    return {
        "train": learned("train", [*phrasing.TRAIN]),
        "valid": learned("valid", [*phrasing.VALID]),
        "test": Rows(asked, len(patterns)),
    }


def _held_out(patterns: Sequence[Pattern], seed: int) -> set[str]:
    held_out = {pattern.id for pattern in patterns if is_held_out(pattern, seed)}
    by_answer: defaultdict[str, tuple[list[Pattern], list[Pattern]]] = defaultdict(lambda: ([], []))
    for pattern in patterns:
        by_answer[normalise(pattern.output)][pattern.id in held_out].append(pattern)
    for taught, kept in by_answer.values():
        while taught and kept:  # a twin that comes over may bring its own twins
            inputs = [pattern.input for pattern in kept]
            near = {index for index, _ in near_duplicates(inputs, [pattern.input for pattern in taught])}
            taught = [kept[index] for index in sorted(near)]
            kept = [pattern for index, pattern in enumerate(kept) if index not in near]
            held_out -= {pattern.id for pattern in taught}
    return held_out


def _test_phrasing(pattern: Pattern, seed: int) -> str:
    names = list(phrasing.TEST)
    return names[int(sha256_text(f"phrasing:{seed}:{pattern.id}")[:8], 16) % len(names)]


def write_data(patterns: Sequence[Pattern], files: Sequence[Path], folder: Path, seed: int) -> dict[str, Any]:
    """Write `{train,valid,test}.jsonl` and, last, `manifest.json`; return the manifest.

    Raises EngramError if two patterns make the same prompt, where nothing would be taught, where the splits leak,
    or where a file can't be written. Nothing is written before all is proven, and no file is replaced before all are
    on the disk.
    """
    _refuse_collisions(patterns)
    rows = _planned(patterns, seed)
    if not rows["train"]:
        what = "nothing is left to teach: every pattern is held out"
        raise EngramError(what, fix="add patterns, or take another SEED")
    check_leaks(rows)
    described = {**constants(seed), **_described(rows)}
    described["inputs"] = [{"file": path.name, "sha256": sha256(path)} for path in files]
    names = [f"{name}.jsonl" for name in SPLITS]
    paths = [folder / name for name in (*names, "manifest.json")]
    with locks.held(folder, "engram data"), writing_together(paths) as (*sinks, last):
        for sink, found in zip(sinks, rows.values()):
            lines = (row.line() for row in found)
            while piece := "".join(itertools.islice(lines, _AT_ONCE)):
                sink.write(piece.encode("utf-8"))
        outputs = [
            {"file": name, "sha256": sink.sha256, "rows": len(found)}
            for name, sink, found in zip(names, sinks, rows.values())
        ]
        manifest = {**described, "outputs": outputs}
        schema.check(manifest, "manifest", str(folder / "manifest.json"))
        last.write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
    return manifest


def _refuse_collisions(patterns: Sequence[Pattern]) -> None:
    """Refuse inputs that differ and still make one prompt: `Complete: x` alone, and `x` in the phrasing `complete`."""

    def prompts() -> Iterator[tuple[str, str, Pattern]]:
        return (
            (normalise(phrasing.phrase(n, pattern.input)), n, pattern) for pattern in patterns for n in phrasing.ALL
        )

    again = repeated(array("q", (hash(prompt) for prompt, *_ in prompts())))
    owners: dict[str, Pattern] = {}
    problems: dict[str, None] = {}
    for prompt, name, pattern in prompts() if again else ():
        owner = owners.setdefault(prompt, pattern) if hash(prompt) in again else pattern
        if owner is not pattern:
            problems[f"{pattern.place}: the phrasing {name!r} makes it the same prompt as {owner.place}"] = None
    if problems:
        raise EngramError(
            "two patterns ask the same", problems=first([*problems]), fix="reword the input of one of them"
        )


def _described(rows: Mapping[str, Rows]) -> dict[str, Any]:
    """The part of a manifest that follows from the rows; each pattern has exactly one test row."""
    sides = Counter((row.kind, row.category, row.split_kind) for row in rows["test"])
    categories: dict[str, dict[str, int]] = {}
    for kind, category, split_kind in sorted(sides):
        side = categories.setdefault(f"{kind}/{category}", {"taught": 0, "held_out": 0})
        side["taught" if split_kind == "recall" else "held_out"] += sides[kind, category, split_kind]
    held_out = sum(count for (*_, split_kind), count in sides.items() if split_kind == "generalization")
    taught = len(rows["test"]) - held_out
    counts = {"patterns": len(rows["test"]), "taught": taught, "held_out": held_out}
    counts |= {"train": len(rows["train"]), "valid": len(rows["valid"]), "recall": taught, "generalization": held_out}
    return {"counts": counts, "categories": categories}


def constants(seed: int) -> dict[str, Any]:
    """The part of a manifest that the code decides: other values make other rows of the same patterns."""
    return {
        "schema_version": 1,  # raise it whenever the same patterns give other rows
        "seed": seed,
        "held_out_share": HELD_OUT_SHARE,
        "phrasings": {"train": dict(phrasing.TRAIN), "valid": dict(phrasing.VALID), "test": dict(phrasing.TEST)},
    }


def read_split(folder: Path, name: str) -> list[Example]:
    """The examples of one data file; raises EngramError with every line that is not a valid row."""
    return list(read_rows(folder / f"{name}.jsonl"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a data folder, checked against its schema and against the files' own hashes."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise EngramError("the data manifest is missing", where=str(path), fix="make data")
    manifest: dict[str, Any] = strict_json.read(path, f"rm {path} && make data")
    schema.check(manifest, "manifest", str(path))
    hashes = {output["file"]: output["sha256"] for output in manifest["outputs"]}
    files = [(name, folder / name) for name in (f"{split}.jsonl" for split in SPLITS)]
    changed = [n for n, file in files if not file.is_file() or sha256(file, LARGEST_DATA) != hashes.get(n)]
    if changed:
        what = f"changed or gone since the manifest was written: {', '.join(changed)}"
        raise EngramError(what, where=str(path), fix=f"rm {path} && make data")
    return manifest


def check_data(folder: Path) -> dict[str, int]:
    """The number of rows in each written file, which are proven to be as the manifest describes them.

    Raises EngramError with every line that is not a row, and with every leak.
    """
    manifest = read_manifest(folder)
    paths = {name: folder / f"{name}.jsonl" for name in SPLITS}
    rows = {name: Rows(functools.partial(read_rows, path)) for name, path in paths.items()}
    check_leaks(rows)
    if wrong := [key for key, value in _described(rows).items() if manifest[key] != value]:
        what = f"the manifest's {' and '.join(wrong)} differ from the rows"
        raise EngramError(what, where=str(folder / "manifest.json"), fix=f"rm {folder / 'manifest.json'} && make data")
    return {name: len(found) for name, found in rows.items()}
