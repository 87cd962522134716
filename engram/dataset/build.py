"""Pattern -> rows of chat messages, the split, JSONL and manifest, each gone through a row at a time."""

from __future__ import annotations

import itertools
import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.dataset import near, phrasing
from engram.dataset.leaks import check_leaks
from engram.dataset.rows import LARGEST_DATA, SPLITS, Example, RowFile, first, iterate
from engram.dataset.rows import example as _example
from engram.patterns.loading import Pattern
from engram.support import locks, schema, strict_json
from engram.support.errors import EngramError
from engram.support.files import sha256, sha256_text, writing_together
from engram.support.lazy import Lazy, View
from engram.support.marks import Places, marks, repeats
from engram.support.sink import Sink
from engram.support.text import normalise

HELD_OUT_SHARE = 0.2
_AT_ONCE = 1000  # rows that are written in one piece


def is_held_out(pattern: Pattern, seed: int) -> bool:
    """Whether a pattern is never taught: decided by its own id, category and the seed alone, so no other matters."""
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


class _Planned(Lazy[Example]):
    """Rows of one split, each made when it is asked for: `make` of a pattern, for each of `names`."""

    def __init__(self, patterns: Sequence[Pattern], chosen: Sequence[int], names: Sequence[str], make: _Make) -> None:
        self._patterns, self._chosen, self._names, self._make = patterns, chosen, names, make

    def __len__(self) -> int:
        return len(self._chosen) * len(self._names)

    def at(self, index: int) -> Example:
        """The row at an index, made."""
        number, name = divmod(index, len(self._names))
        return self._make(self._patterns[self._chosen[number]], self._names[name])

    def __iter__(self) -> Iterator[Example]:
        chosen = iter(self._chosen)
        wanted = next(chosen, None)
        for number, pattern in enumerate(self._patterns):
            if number == wanted:
                yield from (self._make(pattern, name) for name in self._names)
                wanted = next(chosen, None)


_Make = Callable[[Pattern, str], Example]


def _planned(patterns: Sequence[Pattern], seed: int) -> dict[str, _Planned]:
    held_out = _held_out(patterns, seed)
    taught = array("q", (number for number, pattern in enumerate(patterns) if pattern.id not in held_out))

    def asked(pattern: Pattern, _: str) -> Example:
        kind = "generalization" if pattern.id in held_out else "recall"
        return _example(pattern, _test_phrasing(pattern, seed), kind)

    return {
        "train": _Planned(patterns, taught, [*phrasing.TRAIN], lambda pattern, name: _example(pattern, name, "train")),
        "valid": _Planned(patterns, taught, [*phrasing.VALID], lambda pattern, name: _example(pattern, name, "valid")),
        "test": _Planned(patterns, range(len(patterns)), [""], asked),
    }


def write_data(patterns: Sequence[Pattern], files: Sequence[Path], folder: Path, seed: int) -> dict[str, Any]:
    """Write `{train,valid,test}.jsonl` and, last, `manifest.json`; return the manifest.

    `patterns` are gone through several times, and never held. Raises EngramError where two patterns make the same
    prompt, where nothing would be taught, where the splits leak, or where a file cannot be written. Nothing is written
    before all is proven, and no file is replaced before all are on the disk.
    """
    _refuse_collisions(patterns)
    rows = _planned(patterns, seed)
    if not rows["train"]:
        what = "nothing is left to teach: every pattern is held out"
        raise EngramError(what, fix="add patterns, or take another SEED")
    check_leaks(rows)
    described = {"schema_version": 1, "seed": seed, "held_out_share": HELD_OUT_SHARE, **_described(rows)}
    described["inputs"] = [{"file": path.name, "sha256": sha256(path)} for path in files]
    names = [f"{name}.jsonl" for name in SPLITS]
    paths = [folder / name for name in (*names, "manifest.json")]
    with locks.held(folder, "engram data"), writing_together(paths) as (*sinks, last):
        for sink, found in zip(sinks, rows.values()):
            _write(sink, found)
        outputs = [
            {"file": name, "sha256": sink.sha256, "rows": len(found)}
            for name, sink, found in zip(names, sinks, rows.values())
        ]
        manifest = {**described, "outputs": outputs}
        schema.check(manifest, "manifest", str(folder / "manifest.json"))
        last.write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
    return manifest


def _write(sink: Sink, rows: Iterable[Example]) -> None:
    lines = (row.line() for row in rows)
    while piece := "".join(itertools.islice(lines, _AT_ONCE)):
        sink.write(piece.encode("utf-8"))


def read_split(folder: Path, name: str) -> list[Example]:
    """The examples of one data file; raises EngramError with every line that is not a valid row."""
    return list(iterate(folder / f"{name}.jsonl"))


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
        raise EngramError(
            f"changed or gone since the manifest was written: {', '.join(changed)}",
            where=str(path),
            fix=f"rm {path} && make data",
        )
    return manifest


def check_data(folder: Path) -> Mapping[str, Sequence[Example]]:
    """The rows of the written files, on the disk, which are proven to be what they claim.

    Raises EngramError with every line that is no row, and with every leak.
    """
    manifest = read_manifest(folder)
    rows = {name: RowFile(folder / f"{name}.jsonl") for name in SPLITS}
    check_leaks(rows)
    if wrong := [key for key, value in _described(rows).items() if manifest[key] != value]:
        what = f"the manifest's {' and '.join(wrong)} are not those of the rows"
        raise EngramError(what, where=str(folder / "manifest.json"), fix=f"rm {folder / 'manifest.json'} && make data")
    return rows


def _refuse_collisions(patterns: Sequence[Pattern]) -> None:
    """Two inputs may differ and still make one prompt: `Complete: x` as it is, and `x` in the phrasing `complete`."""
    names = [*phrasing.ALL]

    def prompts() -> Iterator[str]:
        return (normalise(phrasing.phrase(name, pattern.input)) for pattern in patterns for name in names)

    def prompt(at: int) -> str:
        return normalise(phrasing.phrase(names[at % len(names)], patterns[at // len(names)].input))

    problems: dict[str, None] = {}
    for at, earlier in repeats(prompts, len(patterns) * len(names), prompt):
        if at // len(names) != earlier // len(names):
            pattern, owner = patterns[at // len(names)], patterns[earlier // len(names)]
            name = names[at % len(names)]
            problems[f"{pattern.place}: the phrasing {name!r} makes it the same prompt as {owner.place}"] = None
    if problems:
        fix = "reword the input of one of them"
        raise EngramError("two patterns ask the same", problems=first([*problems]), fix=fix)


def _held_out(patterns: Sequence[Pattern], seed: int) -> set[str]:
    held_out = {pattern.id for pattern in patterns if is_held_out(pattern, seed)}
    answers = marks((normalise(pattern.output) for pattern in patterns), len(patterns))
    for numbers in Places(answers).groups():
        groups: defaultdict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for number in numbers.tolist():
            pattern = patterns[number]
            groups[normalise(pattern.output)][pattern.id in held_out].append(number)
        for taught, kept in groups.values():
            twins = near.reached(_inputs(patterns, kept), _inputs(patterns, taught)) if taught else ()
            held_out -= {patterns[kept[index]].id for index in twins}
    return held_out


def _inputs(patterns: Sequence[Pattern], numbers: Sequence[int]) -> Sequence[str]:
    return View(numbers, lambda number: patterns[number].input)


def _test_phrasing(pattern: Pattern, seed: int) -> str:
    names = list(phrasing.TEST)
    return names[int(sha256_text(f"phrasing:{seed}:{pattern.id}")[:8], 16) % len(names)]


def _described(rows: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    """What a manifest says of the rows; each pattern has exactly one test row."""
    sides = Counter((row.kind, row.category, row.split_kind) for row in rows["test"])
    categories: dict[str, dict[str, int]] = {}
    for kind, category, split_kind in sorted(sides):
        side = categories.setdefault(f"{kind}/{category}", {"taught": 0, "held_out": 0})
        side["taught" if split_kind == "recall" else "held_out"] += sides[kind, category, split_kind]
    held_out = sum(count for (*_, split_kind), count in sides.items() if split_kind == "generalization")
    taught = len(rows["test"]) - held_out
    counts = {"patterns": len(rows["test"]), "taught": taught, "held_out": held_out}
    counts |= {"train": len(rows["train"]), "valid": len(rows["valid"]), "recall": taught, "generalization": held_out}
    return {
        "phrasings": {"train": dict(phrasing.TRAIN), "valid": dict(phrasing.VALID), "test": dict(phrasing.TEST)},
        "counts": counts,
        "categories": categories,
    }
