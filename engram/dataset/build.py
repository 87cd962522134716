"""Patterns become the rows of three splits, in JSON Lines files with a manifest that describes them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from engram.dataset import phrasing
from engram.dataset.leaks import KINDS, NEVER_TAUGHT, check_leaks
from engram.dataset.rows import LARGEST_DATA, SPLITS, Example, example, read_rows
from engram.patterns.loading import Pattern
from engram.support import locks, schema, strict_json
from engram.support.errors import EngramError
from engram.support.files import sha256, sha256_text, writing
from engram.support.text import first, near_duplicates, normalise, twins

RULES, NOTHING = "rules", "none"  # what is held out
LEAST_TAUGHT, SHARE_TAUGHT = 8, 3  # of a rule: so many members, or one of so many where that is more


def split(patterns: Sequence[Pattern], seed: int, holdout: str = RULES) -> dict[str, list[Example]]:
    """The examples of `train`, `valid` and `test`.

    Facts are all taught, and of a rule's members as many as it says. A taught pattern has a row for each training and
    validation phrasing, where its rewordings take turns with the input, a training row for each rewording, and a test
    row in a phrasing that training never saw. One of two or more rewordings is asked in the test instead. A held-out
    member has its test row only; one whose near twin with the same answer is taught is taught as well. With `holdout`
    `none` nothing is held out, and no rewording either.
    """
    held_out = set() if holdout == NOTHING else _held_out(patterns, seed)
    taught = [pattern for pattern in patterns if pattern.id not in held_out]
    asked_in = {p.id: None if holdout == NOTHING else _asked_rewording(p, seed) for p in taught if p.also}

    train, test = [], []
    for pattern in taught:
        reworded = [number for number in range(len(pattern.also)) if number != asked_in[pattern.id]]
        wordings = [None, *reworded]
        for turn, name in enumerate(phrasing.TRAIN):
            train.append(example(pattern, name, "train", wordings[turn % len(wordings)]))
        train += [example(pattern, phrasing.REWORDED, "train", number) for number in reworded]
    for pattern in patterns:
        never = "control" if pattern.rule and pattern.rule.control else "generalization"
        asked = [*phrasing.TEST][_drawn(f"phrasing:{seed}:{pattern.id}", len(phrasing.TEST))]
        test.append(example(pattern, asked, never if pattern.id in held_out else "recall"))
        if (number := asked_in.get(pattern.id)) is not None:
            test.append(example(pattern, phrasing.REWORDED, "rewording", number))
    valid = [example(pattern, wording, "valid") for pattern in taught for wording in phrasing.VALID]
    return {"train": train, "valid": valid, "test": test}


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
    kept, taught = ([p for p in patterns if (p.id in held_out) == held] for held in (True, False))
    while kept and taught:  # a twin that comes over may bring its own twins
        near = {i for i, _ in twins([(p.input, p.output) for p in kept], [(p.input, p.output) for p in taught])}
        taught = [pattern for index, pattern in enumerate(kept) if index in near]
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
    rows = split(patterns, seed, holdout)
    check_leaks(rows)
    described = {**constants(seed, holdout), **_described(rows)}
    described["inputs"] = [{"file": path.name, "sha256": sha256(path)} for path in files]
    path = folder / "manifest.json"
    with locks.held(folder, "engram data"), ExitStack() as stack:
        last, described["outputs"] = stack.enter_context(writing(path)), []
        for name in SPLITS:
            work = stack.enter_context(writing(folder / f"{name}.jsonl"))
            with work.open("w", encoding="utf-8", newline="") as file:
                file.writelines(json.dumps(row.row(), ensure_ascii=False) + "\n" for row in rows[name])
            output = {"file": f"{name}.jsonl", "sha256": sha256(work, LARGEST_DATA), "rows": len(rows[name])}
            described["outputs"].append(output)
        schema.check(described, "manifest", str(path))
        last.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return described


def _refuse_collisions(patterns: Sequence[Pattern]) -> None:
    """Refuse inputs that differ and still make one prompt: `Complete: x` alone, and `x` in the phrasing `complete`."""
    owners: dict[str, Pattern] = {}
    problems: dict[str, None] = {}
    for pattern in patterns:
        prompts = [(name, phrasing.phrase(name, pattern.input)) for name in phrasing.ALL]
        for name, prompt in (*prompts, *((phrasing.REWORDED, text) for text in pattern.also)):
            owner = owners.setdefault(normalise(prompt), pattern)
            if owner is not pattern:
                problems[f"{pattern.place}: the phrasing {name!r} makes it the same prompt as {owner.place}"] = None
    if problems:
        fix = "reword the input of one of them"
        raise EngramError("two patterns ask the same", problems=first([*problems]), fix=fix)


def _described(rows: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
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
    files = {name: folder / name for name in (f"{split}.jsonl" for split in SPLITS)}
    changed = [n for n, file in files.items() if not file.is_file() or sha256(file, LARGEST_DATA) != hashes.get(n)]
    if changed:
        what = f"changed or gone since the manifest was written: {', '.join(changed)}"
        raise EngramError(what, where=str(path), fix=f"rm {path} && make data")
    return manifest


def check_data(folder: Path) -> dict[str, int]:
    """The number of rows in each written file, which are proven to be as the manifest describes them.

    Raises EngramError with every line that is not a row, and with every leak.
    """
    manifest = read_manifest(folder)
    rows = {name: read_split(folder, name) for name in SPLITS}
    check_leaks(rows)
    if wrong := [key for key, value in _described(rows).items() if manifest[key] != value]:
        what = f"the manifest's {' and '.join(wrong)} differ from the rows"
        raise EngramError(what, where=str(folder / "manifest.json"), fix=f"rm {folder / 'manifest.json'} && make data")
    return {name: len(found) for name, found in rows.items()}
