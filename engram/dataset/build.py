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
from engram.dataset.leaks import KINDS, NEVER_TAUGHT, check_leaks, repeated
from engram.dataset.rows import LARGEST_DATA, SPLITS, Example, Rows, example, read_rows
from engram.patterns.loading import Pattern
from engram.support import locks, schema, strict_json
from engram.support.errors import EngramError
from engram.support.files import sha256, sha256_text, writing_together
from engram.support.text import first, near_duplicates, normalise

RULES, NOTHING = "rules", "none"  # what is held out
LEAST_TAUGHT, SHARE_TAUGHT = 8, 3  # of a rule: so many members, or one of so many where that is more
_AT_ONCE = 1000  # rows that are written in one piece


def split(patterns: Sequence[Pattern], seed: int, holdout: str = RULES) -> dict[str, list[Example]]:
    """The examples of `train`, `valid` and `test`.

    Facts are all taught, and of a rule's members as many as it says. A taught pattern has a row for each training and
    validation phrasing, and one test row in a phrasing that training never saw. Its rewordings are training rows as
    well, but for one of two and more, which is asked in the test. A held-out member has its test row only; one whose
    near twin with the same answer is taught would not measure generalization: it is taught as well. With `holdout`
    `none` nothing is held out, and no rewording either.
    """
    return {name: list(rows) for name, rows in _planned(patterns, seed, holdout).items()}


def _planned(patterns: Sequence[Pattern], seed: int, holdout: str) -> dict[str, Rows]:
    held_out = set() if holdout == NOTHING else _held_out(patterns, seed)
    taught = [pattern for pattern in patterns if pattern.id not in held_out]
    asked_in = {p.id: None if holdout == NOTHING else _asked_rewording(p, seed) for p in taught if p.also}

    def trained() -> Iterator[Example]:
        for pattern in taught:
            yield from (example(pattern, wording, "train") for wording in phrasing.TRAIN)
            for number in range(len(pattern.also)):
                if number != asked_in[pattern.id]:
                    yield example(pattern, phrasing.REWORDED, "train", number)

    def validated() -> Iterator[Example]:
        return (example(pattern, wording, "valid") for pattern in taught for wording in phrasing.VALID)

    def asked() -> Iterator[Example]:
        for pattern in patterns:
            never = "control" if pattern.rule and pattern.rule.control else "generalization"
            yield example(pattern, _test_phrasing(pattern, seed), never if pattern.id in held_out else "recall")
            if (number := asked_in.get(pattern.id)) is not None:
                yield example(pattern, phrasing.REWORDED, "rewording", number)

    return {"train": Rows(trained), "valid": Rows(validated, len(taught) * len(phrasing.VALID)), "test": Rows(asked)}


def _held_out(patterns: Sequence[Pattern], seed: int) -> set[str]:
    """The members of rules that are not taught: all but those whose ids come first in the seed's order."""
    rules: defaultdict[tuple[str, str], list[Pattern]] = defaultdict(list)
    for pattern in patterns:
        if pattern.rule:
            rules[pattern.kind, pattern.category].append(pattern)
    held_out: set[str] = set()
    for members in rules.values():
        drawn = sorted(members, key=lambda p: sha256_text(f"held-out:{seed}:{p.category}:{p.id}"))
        most = drawn[0].rule.taught if drawn[0].rule else 0
        held_out |= {p.id for p in drawn[most or max(LEAST_TAUGHT, len(drawn) // SHARE_TAUGHT) :]}
    by_answer: defaultdict[str, tuple[list[Pattern], list[Pattern]]] = defaultdict(lambda: ([], []))
    for pattern in patterns if held_out else ():
        by_answer[normalise(pattern.output)][pattern.id in held_out].append(pattern)
    for taught, kept in by_answer.values():
        while taught and kept:  # a twin that comes over may bring its own twins
            inputs = [pattern.input for pattern in kept]
            near = {index for index, _ in near_duplicates(inputs, [pattern.input for pattern in taught])}
            taught = [kept[index] for index in sorted(near)]
            kept = [pattern for index, pattern in enumerate(kept) if index not in near]
            held_out -= {pattern.id for pattern in taught}
    return held_out


def _asked_rewording(pattern: Pattern, seed: int) -> int | None:
    """The number of the rewording kept for the test, the same for all rows of a table; None if all are trained on.

    One that differs from the input or another rewording by a character or two would not be another wording.
    """
    if len(pattern.also) < 2:
        return None
    chosen = _drawn(f"rewording:{seed}:{pattern.group}", len(pattern.also))
    others = [pattern.input, *(text for number, text in enumerate(pattern.also) if number != chosen)]
    return None if any(near_duplicates([pattern.also[chosen]], others)) else chosen


def _test_phrasing(pattern: Pattern, seed: int) -> str:
    names = list(phrasing.TEST)
    return names[_drawn(f"phrasing:{seed}:{pattern.id}", len(names))]


def _drawn(key: str, count: int) -> int:
    return int(sha256_text(key)[:8], 16) % count


def write_data(
    patterns: Sequence[Pattern], files: Sequence[Path], folder: Path, seed: int, holdout: str = RULES
) -> dict[str, Any]:
    """Write `{train,valid,test}.jsonl` and, last, `manifest.json`; return the manifest.

    Raises EngramError if two patterns make the same prompt, where the splits leak, or where a file can't be written.
    Nothing is written before all is proven, and no file is replaced before all are on the disk.
    """
    _refuse_collisions(patterns)
    rows = _planned(patterns, seed, holdout)
    check_leaks(rows)
    described = {**constants(seed, holdout), **_described(rows)}
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
        for pattern in patterns:
            yield from ((normalise(phrasing.phrase(n, pattern.input)), n, pattern) for n in phrasing.ALL)
            yield from ((normalise(text), phrasing.REWORDED, pattern) for text in pattern.also)

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
    """The part of a manifest that follows from the rows; each pattern has one test row, and a rewording's is apart."""
    sides = Counter((row.kind, row.category, row.split_kind) for row in rows["test"])
    categories: dict[str, dict[str, int]] = {}
    asked: Counter[str] = Counter(dict.fromkeys(KINDS["test"], 0))
    for kind, category, split_kind in sorted(sides):
        count = sides[kind, category, split_kind]
        asked[split_kind] += count
        if split_kind != "rewording":
            side = categories.setdefault(f"{kind}/{category}", {"taught": 0, "held_out": 0})
            side["taught" if split_kind == "recall" else "held_out"] += count
    taught, held_out = asked["recall"], sum(asked[kind] for kind in NEVER_TAUGHT)
    counts = {"patterns": taught + held_out, "taught": taught, "held_out": held_out}
    counts |= {"train": len(rows["train"]), "valid": len(rows["valid"]), **asked}
    return {"counts": counts, "categories": categories}


def constants(seed: int, holdout: str = RULES) -> dict[str, Any]:
    """The part of a manifest that the code decides: other values make other rows of the same patterns."""
    return {
        "schema_version": 2,  # raise it whenever the same patterns give other rows
        "seed": seed,
        "holdout": holdout,
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
