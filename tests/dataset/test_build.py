"""The split, its files, and the proof that nothing leaks."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from packs import by_pattern, pack, pattern, refusal, write_pack

from engram.dataset import build, phrasing
from engram.dataset.build import check_data, read_manifest, read_split, split, write_data
from engram.dataset.leaks import check_leaks
from engram.dataset.rows import SPLITS, Example, example
from engram.patterns.loading import Pattern, Rule, load_patterns
from engram.support import schema
from engram.support import text as text_module
from engram.support.files import sha256
from engram.support.text import near_duplicates

Rows = dict[str, list[Example]]


def taught(patterns: list[Pattern], seed: int = 0) -> set[str]:
    return {row.pattern for row in split(patterns, seed)["train"]}


def held_out_row(rows: Rows) -> Example:
    return next(row for row in rows["test"] if row.split_kind == "generalization")


def recall_row(rows: Rows) -> Example:
    return next(row for row in rows["test"] if row.split_kind == "recall")


def reworded(row: Example, name: str, split_kind: str) -> Example:
    prompt = phrasing.phrase(name, row.input)
    return replace(row, id=f"{row.pattern}-{name}", phrasing=name, split_kind=split_kind, prompt=prompt)


def test_every_pattern_has_one_test_row_and_every_taught_one_each_training_and_validation_phrasing() -> None:
    patterns = pack()
    rows = split(patterns, 0)
    assert sorted(row.pattern for row in rows["test"]) == sorted(p.id for p in patterns)
    assert len(rows["valid"]) * 4 == len(rows["train"]) > 0  # validation is a fifth of all but the test
    for name, phrasings in (("train", phrasing.TRAIN), ("valid", phrasing.VALID)):
        assert {row.pattern for row in rows[name]} == taught(patterns)
        for found in by_pattern(rows[name]).values():
            assert [row.phrasing for row in found] == list(phrasings)


@pytest.mark.parametrize("seed", range(5))
def test_a_held_out_pattern_is_in_no_other_split_under_any_phrasing(seed: int) -> None:
    rows = split(pack(), seed)
    held_out = [row for row in rows["test"] if row.split_kind == "generalization"]
    learned = [row.prompt for row in (*rows["train"], *rows["valid"])]
    assert held_out
    for row in held_out:
        assert not any(row.input in prompt for prompt in learned)


@pytest.mark.parametrize(
    ("count", "rule", "expected"),
    [(60, Rule(), 20), (24, Rule(), 8), (10, Rule(), 8), (5, Rule(), 5), (60, Rule(12), 12), (60, None, 60)],
)
def test_facts_are_all_taught_and_of_a_rule_as_many_as_it_says(count: int, rule: Rule | None, expected: int) -> None:
    patterns = pack(count, rule)
    assert all(len(taught(patterns, seed)) == expected for seed in range(3))
    assert len({frozenset(taught(patterns, seed)) for seed in range(8)}) > 1 or expected == count
    nothing = split(patterns, 0, "none")
    assert {row.split_kind for row in nothing["test"]} == {"recall"} and len(nothing["train"]) == 8 * count


def test_adding_members_moves_no_fact_and_none_from_held_out_to_taught() -> None:
    draw = random.Random(3)
    everything, facts = pack(200, Rule(12)), [pattern(f"What is called {i}", f"name {i}") for i in range(20)]
    for _ in range(40):
        small = draw.sample(everything, draw.randint(20, 100)) + facts
        added = [p for p in draw.sample(everything, draw.randint(1, 60)) if p not in small]
        large = small + added
        draw.shuffle(large)
        stayed = taught(large) & {p.id for p in small}
        assert {p.id for p in facts} <= stayed <= taught(small) and len(taught(small) - stayed) <= len(added)
        phrased = {row.pattern: row.phrasing for row in split(large, 0)["test"]}
        assert all(phrased[row.pattern] == row.phrasing for row in split(small, 0)["test"])


def test_a_control_is_asked_apart_and_rules_of_one_category_name_in_two_files_are_two() -> None:
    control = pack(40, Rule(12, control=True))
    other = [pattern(f"Double of the number {i}", str(2 * i), "other", rule=Rule(12)) for i in range(40)]
    rows = split([*control, *other], 0)
    kinds = [(row.kind, row.split_kind) for row in rows["test"]]
    assert kinds.count(("pack", "control")) == kinds.count(("other", "generalization")) == 28
    assert kinds.count(("pack", "recall")) == kinds.count(("other", "recall")) == 12


ALSO = ("The fifth of them, which?", "Which one comes after the fourth?", "Name number five")


def test_one_of_several_rewordings_is_asked_and_the_others_are_trained_on() -> None:
    asked = set()
    for seed in range(8):
        rows = split([pattern("What is at place five", "a hat", also=ALSO)], seed)
        (row,) = [row for row in rows["test"] if row.split_kind == "rewording"]
        trained = [row.prompt for row in rows["train"] if row.phrasing == phrasing.REWORDED]
        assert {row.prompt, *trained} == {*ALSO} and len(trained) == 2 and row.answer == "a hat"
        assert not any(row.prompt in one.prompt for one in (*rows["train"], *rows["valid"]))
        asked.add(row.prompt)
        check_leaks(rows)
    assert len(asked) > 1


@pytest.mark.parametrize("also", [ALSO[:1], ("what is at place five?", "What  is at place five!")])
def test_what_is_no_second_wording_is_trained_on(also: tuple[str, ...]) -> None:
    rows = split([pattern("What is at place five", "a hat", also=also)], 0)
    assert [row.split_kind for row in rows["test"]] == ["recall"]
    assert [row.prompt for row in rows["train"] if row.phrasing == phrasing.REWORDED] == [*also]


def test_all_rows_of_a_table_keep_the_same_rewording_for_the_test(tmp_path: Path) -> None:
    source = tmp_path / "t.yaml"
    lines = [f'      - ["{word}", "{word[::-1]}"]' for word in ("north", "south", "east", "west")]
    head = 'name: t\ntables:\n  - input: "Turn {a}"\n    also: ["Back to front: {a}", "{a}, read from its end"]\n'
    source.write_text(head + '    output: "{b}"\n    columns: [a, b]\n    rows:\n' + "\n".join(lines))
    rows = split(load_patterns([source]), 0)
    asked = [row.prompt.replace(row.answer[::-1], "") for row in rows["test"] if row.split_kind == "rewording"]
    assert len(asked) == 4 and len(set(asked)) == 1


def test_near_twins_are_never_separated() -> None:
    texts = [f"Name the shell command number {i} that lists the files" for i in range(120)]
    patterns = [pattern(text + end, f"answer {i}", rule=Rule()) for i, text in enumerate(texts) for end in ("", ".")]
    held_out = {row.pattern for row in split(patterns, 0)["test"] if row.split_kind == "generalization"}
    groups = [patterns[i : i + 2] for i in range(0, len(patterns), 2)]
    assert [len({p.id in held_out for p in group}) for group in groups] == [1] * len(groups)
    assert held_out and held_out != {p.id for p in patterns}


def test_a_chain_of_twins_comes_over_as_a_whole() -> None:
    """Each is a near twin of the next one only, so the last comes over because the one before it did."""
    texts = ["a" * length for length in range(20, 32, 2)]
    near = {(i, j) for i, j in near_duplicates(texts, texts) if i < j}
    assert near == {*itertools.pairwise(range(len(texts)))}
    patterns = [pattern(text, "same", rule=Rule(1)) for text in texts]
    assert all(taught(patterns, seed) == {p.id for p in patterns} for seed in range(5))


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("Capital of France", "capital of France?", True),
        ("Capital of France", "Capital of Frances", True),
        ("Capital of France", "Capital of Greece", False),
        ("", "", True),
        ("a", "b", False),
        ("?!", "!?", False),
        ("x" * 100, "x" * 120, False),
        ("HTTP status 404 means", "HTTP status 403 means", True),
        ("Port of SSH", "SSH port of", False),
    ],
)
def test_near_means_a_character_or_two(one: str, other: str, near: bool) -> None:
    assert [*near_duplicates([one], [other])] == [*near_duplicates([other], [one])] == [(0, 0)] * near


def test_near_duplicates_are_found_in_any_number_of_texts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    families = ["".join(draw.choices("abcdefgh ", k=draw.randint(20, 60))) for _ in range(6)]
    texts = [f"{draw.choice(families)}{draw.choice('xyz?')}" for _ in range(60)]
    both = itertools.product(range(60), range(60))
    expected = [(i, j) for i, j in both if [*near_duplicates([texts[i]], [texts[j]])]]
    assert len(expected) > 120 and [*near_duplicates(texts, texts)] == expected
    monkeypatch.setattr(text_module, "_AT_ONCE", 100)
    monkeypatch.setattr(text_module, "_FEW", 1)
    assert [*near_duplicates(texts, texts)] == expected


def test_an_example_gives_back_its_input_exactly_and_no_other_phrasings() -> None:
    inputs = ["plain", " a", "a ", "two\nlines\n", "{input}", "Complete: {input}", "\u2028", "🙂", "\nAnswer:"]
    for text in inputs:
        for name in phrasing.ALL:
            row = example(pattern(text, "b"), name, "train")
            assert (row.input, row.prompt) == (text, phrasing.ALL[name].replace("{input}", text))
    assert phrasing.unphrase("complete", "Continue: x") is None
    assert phrasing.unphrase("answer_after", "\nAnswer") is None
    assert phrasing.unphrase("complete", "Complete: ") == ""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_split(tmp_path: Path) -> None:
    for name in ("one", "same", "other"):
        (tmp_path / name).mkdir()
    one, same, other = (write_pack(tmp_path / name, seed) for name, seed in (("one", 0), ("same", 0), ("other", 4)))
    assert contents(one) == contents(same)
    assert all(contents(one)[name] != contents(other)[name] for name in contents(one))


def test_the_manifest_is_valid_and_its_hashes_and_counts_are_the_files(tmp_path: Path) -> None:
    folder = write_pack(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert schema.problems(manifest, "manifest") == [] and read_manifest(folder) == manifest
    assert manifest["inputs"] == [{"file": "colours.yaml", "sha256": sha256(tmp_path / "colours.yaml")}]
    assert [output["file"] for output in manifest["outputs"]] == ["train.jsonl", "valid.jsonl", "test.jsonl"]
    for output in manifest["outputs"]:
        assert output["sha256"] == sha256(folder / output["file"])
        assert output["rows"] == (folder / output["file"]).read_bytes().count(b"\n")
    assert manifest["counts"] == {
        **{"patterns": 10, "taught": 7, "held_out": 3, "train": 56, "valid": 14},
        **{"recall": 7, "rewording": 0, "generalization": 3, "control": 0},
    }
    assert manifest["categories"] == {"colours/colour": {"taught": 7, "held_out": 3}}


def test_files_are_utf8_with_one_row_a_line_whatever_the_text(tmp_path: Path) -> None:
    awkward = ["a\u2028b", "a\u2029b", "a\x85b", "two\nlines", "cr\r\nlf", "🙂 日本", "bell\x07", "\x0c"]
    patterns = pack(12) + [pattern(f"{text} {i}", text) for i, text in enumerate(awkward)]
    source = tmp_path / "p.yaml"
    source.write_text("x")
    write_data(patterns, [source], tmp_path / "data", 0)
    rows = split(patterns, 0)
    for name in SPLITS:
        content = (tmp_path / "data" / f"{name}.jsonl").read_bytes()
        assert b"\r" not in content and content.endswith(b"}\n") and content.decode("utf-8")
        assert [json.loads(line) for line in content.split(b"\n")[:-1]] == [row.row() for row in rows[name]]
        assert read_split(tmp_path / "data", name) == rows[name]
    assert "🙂 日本".encode() in (tmp_path / "data/test.jsonl").read_bytes()


def test_a_row_is_what_other_trainers_read(tmp_path: Path) -> None:
    row = read_split(write_pack(tmp_path), "train")[0].row()
    texts = {"user": "The colour of grass", "assistant": "green"}
    assert row["messages"] == [{"role": role, "content": text} for role, text in texts.items()]
    assert schema.problems(row, "data-row") == []


def test_one_single_fact_is_taught_and_asked(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("- {input: Who owns billing, output: Team Ledger}")
    counts = write_data(load_patterns([tmp_path / "p.yaml"]), [tmp_path / "p.yaml"], tmp_path / "data", 0)["counts"]
    assert (counts["taught"], counts["train"], counts["recall"], counts["held_out"]) == (1, 8, 1, 0)


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ("Complete: a", "a", "complete"),
        ("Continue: a", "a", "continue"),
        ("Give only the answer. a", "a", "only"),
        ("a\nAnswer:", "a", "answer_after"),
    ],
)
def test_patterns_that_become_the_same_prompt_are_refused(one: str, other: str, name: str, tmp_path: Path) -> None:
    error = refusal(write_data, [*pack(5), pattern(one, "x"), pattern(other, "y")], [], tmp_path / "data", 0)
    assert error.what == "two patterns ask the same" and error.fix == "reword the input of one of them"
    where = "pack.yaml:1:1 $.examples[0].input"
    assert f"{where}: the phrasing {name!r} makes it the same prompt as {where}" in error.problems


def test_rows_that_leak_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twins = [pattern(p.input + end, p.output) for p in pack() for end in ("", "?")]
    monkeypatch.setattr(build, "_held_out", lambda patterns, seed: {p.id for p in patterns[1::2]})
    error = refusal(write_data, twins, [], tmp_path / "data", 0)
    assert "is nearly train row" in error.problems[0] and not (tmp_path / "data").exists()


def test_an_interrupted_run_is_never_taken_for_a_finished_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, move = write_pack(tmp_path), Path.replace

    def interrupt(work: Path, path: Path) -> Path:
        if path.name == "train.jsonl":  # the last of the three
            raise KeyboardInterrupt
        return move(work, path)

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_data(pack(), [tmp_path / "colours.yaml"], folder, 0)
    changed = "changed or gone since the manifest was written: valid.jsonl, test.jsonl"
    assert refusal(check_data, folder).what == changed


def test_missing_files_name_the_command_that_makes_them(tmp_path: Path) -> None:
    rows, manifest = refusal(read_split, tmp_path, "train"), refusal(read_manifest, tmp_path)
    assert str(rows) == f"{tmp_path}/train.jsonl: the data is missing\n  fix: make data"
    assert str(manifest) == f"{tmp_path}/manifest.json: the data manifest is missing\n  fix: make data"


ROW = {
    "id": "a-bare", "pattern": "a", "kind": "k", "category": "c", "phrasing": "bare", "split_kind": "train",
    "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
}  # fmt: skip
TURNS = ROW["messages"]
LINES: dict[str, tuple[bytes, str]] = {
    "cut off": (json.dumps(ROW).encode()[:-9], "not JSON: Unterminated string"),
    "not UTF-8": (b'{"id": "\xff"}', "not JSON: not UTF-8: byte 0xff (column 9)"),
    "deep": (b"[" * 200_000, "not JSON: nested deeper than 32 levels"),
    "a number": (json.dumps({**ROW, "id": 4}).encode(), "$.id: is a number, not text"),
    "another kind": (json.dumps({**ROW, "split_kind": "dev"}).encode(), "$.split_kind: 'dev' is not one of"),
    "another phrasing": (json.dumps({**ROW, "phrasing": "\x1b"}).encode(), "$.phrasing: unknown phrasing '\\x1b'"),
    "empty answer": (json.dumps({**ROW, "messages": [TURNS[0], {"role": "assistant", "content": ""}]}).encode(),
                     "$.messages[1].content: is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_broken_row_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    line, message = LINES[name]
    (tmp_path / "train.jsonl").write_bytes(json.dumps(ROW).encode() + b"\n\n" + line + b"\n")
    error = refusal(read_split, tmp_path, "train")
    assert error.problems[0].startswith(f"{tmp_path}/train.jsonl:3 {message}")
    assert error.fix == "make data (after taking the broken file away)"


@pytest.mark.parametrize("name", ["train.jsonl", "valid.jsonl", "test.jsonl"])
def test_a_flipped_bit_a_cut_and_a_missing_file_are_seen(name: str, tmp_path: Path) -> None:
    folder = write_pack(tmp_path)
    whole = (folder / name).read_bytes()
    for content in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], b"", None):
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        error = refusal(check_data, folder)
        assert error.what == f"changed or gone since the manifest was written: {name}"
        assert error.fix == f"rm {folder}/manifest.json && make data"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not JSON: Expecting value"), (b"[]", "not a valid manifest document (schemas/manifest.schema.json)")],
)
def test_a_manifest_that_is_none_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    folder = write_pack(tmp_path)
    (folder / "manifest.json").write_bytes(content)
    error = refusal(read_manifest, folder)
    assert error.what.startswith(message) and error.where.startswith(str(folder / "manifest.json"))


Plant = Callable[[Rows], None]
Find = Callable[[Rows], Example]


def add(split: str, make: Find, prompt: Callable[[str], str] = str, **fields: str) -> Plant:
    """Put another row into a split."""
    return lambda rows: rows[split].append(replace(row := make(rows), prompt=prompt(row.prompt), **fields))


def change(split: str, find: Find, **fields: str) -> Plant:
    """Change a row of a split."""
    return lambda rows: rows[split].__setitem__(rows[split].index(old := find(rows)), replace(old, **fields))


def held_bare(rows: Rows) -> Example:
    return reworded(held_out_row(rows), "bare", "train")


def recall_bare(rows: Rows) -> Example:
    return reworded(recall_row(rows), "bare", "train")


def first_row(wording: str) -> Find:
    return lambda rows: next(row for row in rows["train"] if row.phrasing == wording)


HELD = "generalization row .* has the input of train row .*-bare"
KEPT = "kept for another split"
LEAKS: dict[str, tuple[Plant, str]] = {
    "a test row in training": (
        add("train", recall_row, split_kind="train"), "test row .* has the prompt of train row"),
    "a held-out input in training": (add("train", held_bare), HELD),
    "a held-out input in other white space": (
        add("train", held_bare, lambda text: text.replace(" ", "  ") + " "), HELD),
    "a near duplicate with the same answer": (
        add("train", held_bare, lambda text: text + "?", id="twin-bare"),
        "generalization row .* is nearly train row twin-bare, with the same answer"),
    "another wording than its phrasing's": (
        change("train", first_row("complete"), prompt="Say: something"),
        "train row .* is not worded as its phrasing 'complete'"),
    "another answer in the first training row": (
        change("train", first_row("bare"), answer="changed"),
        "train row .*-complete teaches another answer than .*-bare"),
    "another answer in a recall row": (
        change("test", recall_row, answer="changed"), "recall row .* expects another answer than .* teaches"),
    "a taught rewording in the test": (
        add("test", recall_bare, id="r", phrasing="reworded", split_kind="rewording"),
        "rewording row r has the input of train row .*-bare"),
    "a rewording of what is not taught": (
        add("test", held_out_row, lambda _: "In other words", id="r", phrasing="reworded", split_kind="rewording"),
        "rewording row r asks for a pattern that is not taught"),
    "a taught pattern among the held-out": (
        add("test", recall_row, lambda _: "Continue: x", id="r", split_kind="control"),
        "control row r asks for a pattern that row .*-bare teaches"),
    "a recall row that is not taught": (
        change("test", held_out_row, split_kind="recall"), "recall row .* asks for a pattern that is not taught"),
    **{f"the phrasing {wording} in {name}": (
        change(name, lambda rows, name=name: rows[name][0], phrasing=wording),
        f"{name} row .* uses the phrasing '{wording}', {KEPT}")
       for name, wording in (("train", "reply"), ("train", "tell"), ("valid", "bare"), ("test", "next"))},
    **{f"the kind {kind} in {name}": (
        change(name, lambda rows, name=name: rows[name][0], split_kind=kind), f"{name} row .* is of the kind '{kind}'")
       for name, kind in (("test", "train"), ("train", "recall"), ("valid", "train"))},
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_found(name: str) -> None:
    plant, expected = LEAKS[name]
    rows = split(pack(), 0)
    check_leaks(rows)  # sound before
    plant(rows)
    error = refusal(check_leaks, rows)
    assert error.what == f"the splits leak: {len(error.problems)} problems" and error.fix == "rm -r data && make data"
    assert any(re.match(expected, problem) for problem in error.problems), error.problems


def test_check_data_proves_it_from_the_files(tmp_path: Path) -> None:
    folder = write_pack(tmp_path)
    assert check_data(folder) == {"train": 56, "valid": 14, "test": 10}
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    row = json.loads((folder / "test.jsonl").read_bytes().splitlines()[0])
    with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**row, "split_kind": "train"}) + "\n")
    manifest["outputs"][0]["sha256"] = sha256(folder / "train.jsonl")  # someone made the hashes fit
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert "the splits leak" in str(refusal(check_data, folder))


def test_a_near_duplicate_with_another_answer_is_no_leak() -> None:
    rows = split(pack(), 0)
    row = reworded(held_out_row(rows), "bare", "train")
    rows["train"].append(replace(row, pattern="other", prompt=row.prompt + "?", answer="something else"))
    check_leaks(rows)
