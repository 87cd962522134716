"""Pattern -> rows of chat messages, the split, JSONL and manifest, and the proof that nothing leaks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram import json_source, locks, phrasing, schema
from engram.errors import EngramError
from engram.files import read_bytes, sha256, sha256_text, write_texts
from engram.patterns import Pattern
from engram.text import near_duplicate, normalise, visible

HELD_OUT_SHARE = 0.2
SPLITS = ("train", "valid", "test")
KINDS = {"train": ("train",), "valid": ("valid",), "test": ("recall", "generalization")}


@dataclass(frozen=True)
class Example:
    """One row of a data file: a pattern's input in one phrasing, and the answer.

    `split_kind` is `train`, `valid`, `recall` (taught pattern, unseen phrasing) or `generalization` (held-out pattern).
    """

    id: str
    pattern: str
    kind: str
    category: str
    phrasing: str
    split_kind: str
    prompt: str
    answer: str

    @property
    def input(self) -> str:
        """The pattern's input, without the phrasing's words."""
        return phrasing.unphrase(self.phrasing, self.prompt) or self.prompt

    def row(self) -> dict[str, Any]:
        """The row as it stands in the file, `messages` as mlx-lm and TRL read them."""
        fields = ("id", "pattern", "kind", "category", "phrasing", "split_kind")
        messages = [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.answer}]
        return {**{name: getattr(self, name) for name in fields}, "messages": messages}


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
    held_out = _held_out(patterns, seed)
    rows: dict[str, list[Example]] = {name: [] for name in SPLITS}
    for pattern in patterns:
        if pattern.id not in held_out:
            rows["train"] += [_example(pattern, name, "train") for name in phrasing.TRAIN]
            rows["valid"] += [_example(pattern, name, "valid") for name in phrasing.VALID]
        kind = "generalization" if pattern.id in held_out else "recall"
        rows["test"].append(_example(pattern, _test_phrasing(pattern, seed), kind))
    return rows


def write_data(patterns: Sequence[Pattern], files: Sequence[Path], folder: Path, seed: int) -> dict[str, Any]:
    """Write `{train,valid,test}.jsonl` and, last, `manifest.json`; return the manifest.

    Raises EngramError where two patterns make the same prompt, where nothing would be taught, where the splits
    leak, or where a file cannot be written. Nothing is written before all is proven, and no file is replaced before all
    are on the disk.
    """
    _refuse_collisions(patterns)
    rows = split(patterns, seed)
    if not rows["train"]:
        what = "nothing is left to teach: every pattern is held out"
        raise EngramError(what, fix="add patterns, or take another SEED")
    check_leaks(rows)
    texts = {f"{name}.jsonl": "".join(_line(example) for example in rows[name]) for name in SPLITS}
    manifest = _manifest(files, texts, rows, seed)
    schema.check(manifest, "manifest", str(folder / "manifest.json"))
    texts["manifest.json"] = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    with locks.held(folder, "engram data"):
        write_texts({folder / name: text for name, text in texts.items()})
    return manifest


def read_split(folder: Path, name: str) -> list[Example]:
    """The examples of one data file; raises EngramError with every line that is not a valid row."""
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        raise EngramError("the data is missing", where=str(path), fix="make data")
    examples, problems = [], []
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if line.strip():
            row, wrong = _parse_line(line)
            problems += [f"{path}:{number} {problem}" for problem in wrong]
            if not wrong:
                examples.append(_from_row(row))
            if len(problems) >= schema.MOST:
                break
    if problems:
        what, fix = f"{len(problems)} problems in a data file", "make data (after taking the broken file away)"
        raise EngramError(what, where=str(path), problems=_first(problems), fix=fix)
    return examples


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a data folder, checked against its schema and against the files' own hashes."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise EngramError("the data manifest is missing", where=str(path), fix="make data")
    manifest: dict[str, Any] = json_source.read(path, f"rm {path} && make data")
    schema.check(manifest, "manifest", str(path))
    hashes = {output["file"]: output["sha256"] for output in manifest["outputs"]}
    names = [f"{name}.jsonl" for name in SPLITS]
    changed = [n for n in names if not (folder / n).is_file() or sha256(folder / n) != hashes.get(n)]
    if changed:
        raise EngramError(
            f"changed or gone since the manifest was written: {', '.join(changed)}",
            where=str(path),
            fix=f"rm {path} && make data",
        )
    return manifest


def check_data(folder: Path) -> dict[str, list[Example]]:
    """The examples of the written files, which are proven to be what they claim; raises EngramError with every leak."""
    manifest = read_manifest(folder)
    rows = {name: read_split(folder, name) for name in SPLITS}
    check_leaks(rows)
    if wrong := [key for key, value in _described(rows).items() if manifest[key] != value]:
        what = f"the manifest's {' and '.join(wrong)} are not those of the rows"
        raise EngramError(what, where=str(folder / "manifest.json"), fix=f"rm {folder / 'manifest.json'} && make data")
    return rows


def check_leaks(rows: Mapping[str, Sequence[Example]]) -> None:
    """Raise an EngramError that names every row by which one split gives away another's answer."""
    problems = [*_exact_leaks(rows), *_phrasing_leaks(rows), *_near_leaks(rows)]
    if problems:
        what = f"the splits leak: {len(problems)} problems"
        raise EngramError(what, problems=_first(problems), fix="rm -r data && make data")


def _refuse_collisions(patterns: Sequence[Pattern]) -> None:
    """Two inputs may differ and still make one prompt: `Complete: x` as it is, and `x` in the phrasing `complete`."""
    owners: dict[str, Pattern] = {}
    problems: dict[str, None] = {}
    for pattern in patterns:
        for name in phrasing.ALL:
            owner = owners.setdefault(normalise(phrasing.phrase(name, pattern.input)), pattern)
            if owner is not pattern:
                problems[f"{pattern.place}: the phrasing {name!r} makes it the same prompt as {owner.place}"] = None
    if problems:
        fix = "reword the input of one of them"
        raise EngramError("two patterns ask the same", problems=_first([*problems]), fix=fix)


def _first(problems: list[str]) -> list[str]:
    return problems[:20] + ([f"… and {len(problems) - 20} more"] if len(problems) > 20 else [])


def _held_out(patterns: Sequence[Pattern], seed: int) -> set[str]:
    held_out = {pattern.id for pattern in patterns if is_held_out(pattern, seed)}
    by_answer: defaultdict[str, list[Pattern]] = defaultdict(list)
    for pattern in patterns:
        by_answer[normalise(pattern.output)].append(pattern)
    for group in by_answer.values():
        taught = [pattern for pattern in group if pattern.id not in held_out]
        while taught:  # every twin that comes over may have twins of its own
            kept = [pattern for pattern in group if pattern.id in held_out]
            twins = [p for p in kept if any(near_duplicate(p.input, t.input) for t in taught)]
            held_out -= {pattern.id for pattern in twins}
            taught = twins
    return held_out


def _test_phrasing(pattern: Pattern, seed: int) -> str:
    names = list(phrasing.TEST)
    return names[int(sha256_text(f"phrasing:{seed}:{pattern.id}")[:8], 16) % len(names)]


def _example(pattern: Pattern, name: str, split_kind: str) -> Example:
    prompt = phrasing.phrase(name, pattern.input)
    row_id = f"{pattern.id}-{name}"
    return Example(row_id, pattern.id, pattern.kind, pattern.category, name, split_kind, prompt, pattern.output)


def _line(example: Example) -> str:
    return json.dumps(example.row(), ensure_ascii=False) + "\n"


def _parse_line(line: bytes) -> tuple[dict[str, Any], list[str]]:
    try:
        row = json_source.parse(line)
    except json_source.JSONError as error:
        return {}, [f"not JSON: {error.what} ({error.place.replace('1:', 'column ', 1)})"]
    wrong = schema.problems(row, "data-row")
    problems = [f"{schema.json_path(p.path)}: {visible(p.message)}" for p in wrong]
    if not problems and row["phrasing"] not in phrasing.ALL:
        problems.append(f"$.phrasing: unknown phrasing {row['phrasing']!r}")
    return row, problems


def _from_row(row: dict[str, Any]) -> Example:
    fields = {name: row[name] for name in ("id", "pattern", "kind", "category", "phrasing", "split_kind")}
    prompt, answer = (message["content"] for message in row["messages"])
    return Example(**fields, prompt=prompt, answer=answer)


def _described(rows: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    """What a manifest says of the rows; each pattern has exactly one test row."""
    categories: dict[str, dict[str, int]] = {}
    for e in sorted(rows["test"], key=lambda e: (e.kind, e.category)):
        side = categories.setdefault(f"{e.kind}/{e.category}", {"taught": 0, "held_out": 0})
        side["taught" if e.split_kind == "recall" else "held_out"] += 1
    held_out = sum(e.split_kind == "generalization" for e in rows["test"])
    taught = len(rows["test"]) - held_out
    counts = {"patterns": len(rows["test"]), "taught": taught, "held_out": held_out}
    counts |= {"train": len(rows["train"]), "valid": len(rows["valid"]), "recall": taught, "generalization": held_out}
    return {
        "phrasings": {"train": dict(phrasing.TRAIN), "valid": dict(phrasing.VALID), "test": dict(phrasing.TEST)},
        "counts": counts,
        "categories": categories,
    }


def _manifest(
    files: Sequence[Path], texts: Mapping[str, str], rows: Mapping[str, Sequence[Example]], seed: int
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "seed": seed,
        "held_out_share": HELD_OUT_SHARE,
        **_described(rows),
        "inputs": [{"file": path.name, "sha256": sha256(path)} for path in files],
        "outputs": [
            {"file": f"{name}.jsonl", "sha256": sha256_text(texts[f"{name}.jsonl"]), "rows": len(rows[name])}
            for name in SPLITS
        ],
    }


def _exact_leaks(rows: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    prompts: dict[str, Example] = {}
    for name in SPLITS:
        for example in rows[name]:
            if twin := prompts.get(normalise(example.prompt)):
                yield f"{name} row {example.id} has the very prompt of {twin.split_kind} row {twin.id}"
        prompts |= {normalise(example.prompt): example for example in rows[name]}
    teachers: dict[str, Example] = {}
    for example in (*rows["train"], *rows["valid"]):
        teacher = teachers.setdefault(normalise(example.input), example)
        if teacher.answer != example.answer:
            yield f"{example.split_kind} row {example.id} teaches another answer than {teacher.id}"
    for example in rows["test"]:
        yield from _test_row_leaks(example, teachers.get(normalise(example.input)))


def _test_row_leaks(example: Example, teacher: Example | None) -> Iterator[str]:
    if example.split_kind == "generalization" and teacher:
        yield f"held-out row {example.id} has the input of {teacher.split_kind} row {teacher.id}"
    if example.split_kind == "recall" and not teacher:
        yield f"recall row {example.id} asks for a pattern that is not taught"
    if example.split_kind == "recall" and teacher and teacher.answer != example.answer:
        yield f"recall row {example.id} expects another answer than {teacher.id} teaches"


def _phrasing_leaks(rows: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    allowed = {"train": phrasing.TRAIN, "valid": phrasing.VALID, "test": phrasing.TEST}
    for name, examples in rows.items():
        for example in examples:
            if example.split_kind not in KINDS[name]:
                yield f"{name} row {example.id} is of the kind {example.split_kind!r}"
            if example.phrasing not in allowed[name]:
                yield f"{name} row {example.id} uses the phrasing {example.phrasing!r}, kept for another split"
            elif phrasing.unphrase(example.phrasing, example.prompt) is None:
                yield f"{name} row {example.id} is not worded as its phrasing {example.phrasing!r}"


def _near_leaks(rows: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    by_answer: defaultdict[str, dict[str, Example]] = defaultdict(dict)
    for example in (*rows["train"], *rows["valid"]):
        by_answer[normalise(example.answer)].setdefault(normalise(example.input), example)
    for example in rows["test"]:
        if example.split_kind != "generalization":
            continue
        for twin in by_answer[normalise(example.answer)].values():
            if near_duplicate(example.input, twin.input):
                yield f"held-out row {example.id} is nearly {twin.split_kind} row {twin.id}, with the same answer"
