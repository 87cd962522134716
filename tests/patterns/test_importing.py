"""Import: what is written is what was given, what cannot be written is refused line by line, nothing is overwritten."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from packs import refusal

from engram.cli import main
from engram.patterns import importing, yaml_source
from engram.patterns.loading import find_files, load_patterns

HOSTILE = (
    "yes", "no", "null", "~", "1.0", "0x1F", "2024-01-01", "1_000", ".inf", "- a", "-", "? a", ": ", "a: b", "a #b",
    "# a", " lead", "trail ", "\tx\t", "a\nb", "a\n\n", "\nx", "'", '"', "''", '"a"', "{a}", "{", "[a, b]",
    "&a", "*a", "!tag", "%YAML", "@x", "`x`", "|", ">", "---", "...", "\\n", "\\", "a\\", "é", "e\u0301", "\u00a0x",
    "\u2028x", "\ufeffx", "\ufffex", "\u202ex", "\U0001f600", "\u200cx", "\ue000x", "01", "1e3", "on", "12:30:00",
    "\U000e0001x", "\U0010ffffx", "日本語", "<<", "=", "a,b", "a;b", "a\tb", "a|b", "x" * 400,
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> str:
    Path(name).write_bytes(text.encode())
    return name


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def there() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def bring(*arguments: str, out: str = "faq.yaml") -> Result:
    return CliRunner().invoke(main, ["import", *arguments, "--out", out])


def pairs(out: str = "faq.yaml") -> list[tuple[str, str, str]]:
    return [(pattern.input, pattern.output, pattern.category) for pattern in load_patterns(find_files(out))]


def refused(result: Result, *problems: str, out: str = "faq.yaml") -> None:
    """Exit code 2, just these lines, nothing written."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.splitlines()[1:-1] == [f"  {problem}" for problem in problems]
    assert result.stderr.endswith("  fix: correct these lines, or take them out; nothing was written\n")
    assert not Path(out).exists()


def test_a_table_becomes_a_pattern_file() -> None:
    write("faq.csv", 'Question,Answer,Category\nWho?,"Ann, Bob",people\n"Where\nnow?","the ""old"" house",\n')
    result = bring("faq.csv", out="mine/faq.yaml")
    said = "mine/faq.yaml: 2 patterns in 2 categories\nnext: engram validate mine/faq.yaml --advise\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, said, "")
    assert Path("mine/faq.yaml").read_text() == (
        '# Imported from "faq.csv"\nname: "faq"\nexamples:\n'
        '  - input: "Who?"\n    output: "Ann, Bob"\n    category: "people"\n'
        '  - input: "Where\\nnow?"\n    output: "the \\"old\\" house"\n'
    )
    assert pairs("mine/faq.yaml") == [("Who?", "Ann, Bob", "people"), ("Where\nnow?", 'the "old" house', "faq")]
    assert [path.name for path in Path("mine").iterdir()] == ["faq.yaml"]


TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("name", "text", "arguments"),
    [
        ("a.csv", "\ufeffinput,output\na,b\n", ()),
        ("a.csv", "input;output\r\na;b\r\n", ()),
        ("a.csv", "prompt|completion\na|b", ()),
        ("a.csv", "input\toutput\na\tb\n", ()),
        ("a.tsv", "input\toutput\n\na\tb\n\n", ()),
        ("a.csv", "category,q,a\n,a,b\n", ("--input", "q", "--output", "a")),
        ("a.csv", "a,b\n", ("--no-header",)),
        ("a.csv", "x,b,a\n", ("--no-header", "--input", "3", "--output", "2", "--category", "1", "--ignore-extra")),
        ("a.csv", "a:b\n", ("--no-header", "--delimiter", ":")),
        ("a.csv", "id,input,output\n7,a,b\n", ("--ignore-extra",)),
        ("a.jsonl", lines({"messages": TURNS}), ()),
        ("a.jsonl", '\n{"prompt": "a", "completion": "b", "category": null}\r\n', ()),
        ("a.ndjson", '{"instruction": "a", "input": "", "output": "b"}', ()),
        ("a.json", '[{"instruction": "a", "output": "b"}]', ()),
        ("a.jsonl", lines({"id": 3, "messages": [TURNS[0], TURNS[1] | {"weight": 1}]}), ("--ignore-extra",)),
        ("a.json", ' [\n {"question": "a",\n "answer": "b"}\n]\n', ()),
        ("a.json", '{"frage": "a", "antwort": "b"}', ("--input", "frage", "--output", "antwort")),
    ],
)
def test_the_forms_that_are_read(name: str, text: str, arguments: tuple[str, ...]) -> None:
    result = bring(write(name, text), *arguments)
    assert result.exit_code == 0, result.stderr
    assert [pair[:2] for pair in pairs()] == [("a", "b")]


def test_several_files_make_one_and_alpacas_input_follows_its_instruction() -> None:
    write("a.json", '[{"instruction": "a", "input": " cat", "output": "b"}]')
    write("b.jsonl", lines({"input": "c", "output": "d", "category": "k"}))
    assert bring("a.json", "b.jsonl").stdout.startswith("faq.yaml: 2 patterns in 2 categories\n")
    assert pairs() == [("a\n cat", "b", "faq"), ("c", "d", "k")]


def table(rows: list[tuple[str, str, str]], delimiter: str) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([("input", "output", "category"), *rows])
    return text.getvalue()


@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_taken_comes_back_the_same(seed: int) -> None:
    """Every form of file gives the same pairs, of random pieces of text and of texts that YAML could misread."""
    draw = random.Random(seed)
    pieces = [*HOSTILE[:-1], *(chr(draw.randrange(0xA0, 0x2FFF)) for _ in range(30)), "word", " "]

    def text() -> str:
        return "".join(draw.choice(pieces) for _ in range(draw.randrange(1, 6)))

    rows = [(f"{number} {text()}", f"{text()}.", draw.choice(["k", "l"])) for number in range(20)]
    rows = [row for row in rows if len(row[1]) <= 400]
    rows += [(f"{number}{text}", text, "k") for number, text in enumerate(HOSTILE)]
    records = [{"input": a, "output": b, "category": c} for a, b, c in rows]
    for delimiter in (",", ";", "|"):
        write(f"{ord(delimiter)}.csv", table(rows, delimiter))
    write("a.tsv", table(rows, "\t"))
    write("a.jsonl", lines(*records))
    write("a.json", json.dumps(records, ensure_ascii=False, indent=draw.choice([None, 2])))
    for file in [path.name for path in Path().iterdir()]:
        result = bring(file, *["--quotes"] * file.endswith(".tsv"), out=f"out/{file}.yaml")
        assert result.exit_code == 0, (file, result.stderr)
        assert pairs(f"out/{file}.yaml") == rows


def test_every_line_that_cannot_be_kept_is_named() -> None:
    write(
        "a.jsonl",
        lines(
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]},
            {"messages": [{"role": role, "content": "x"} for role in ("user", "assistant") * 4]},
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]},
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]},
            {"messages": []},
            {"messages": "hello"},
            {"prompt": "a", "completion": ""},
            {"prompt": "a", "completion": "b" * 401},
            {"prompt": "a" * 1001, "completion": 4},
            {"prompt": "a", "completion": "\ud800"},
            {"prompt": "a", "completion": "b", "category": "c" * 61},
            {"prompt": "a", "completion": "b", "category": "c\n"},
            {"prompt": "a", "completion": "b", "system": "s", "id": 7},
            {"prompt": "a", "input": "b", "completion": "c"},
            {"text": "a"},
            ["a", "b"],
        )
        + '{"prompt": "a", "prompt": "b", "completion": "c"}',
    )  # fmt: skip
    out = "take it out"
    whole = "write one whole object here"
    refused(
        bring("a.jsonl"),
        f"a.jsonl:1: a pattern is one user's and one assistant's message, not: system, user; {out}",
        "a.jsonl:2: a pattern is one user's and one assistant's message, not: "
        f"user, assistant, user, assistant, user, assistant, …; {out}",
        "a.jsonl:3: a pattern has no place for 'weight'; leave them out with --ignore-extra",
        "a.jsonl:4: 'output' is missing or empty; write some text or take the entry out",
        f"a.jsonl:5: a pattern is one user's and one assistant's message, not: none; {out}",
        "a.jsonl:6: 'messages' is not a list of objects; write role and content of each",
        "a.jsonl:7: the output has nothing to be seen; write some text or take the entry out",
        "a.jsonl:8: the output is 401 characters long, at most 400 fit; shorten it",
        "a.jsonl:9: 'completion' is 4, not text; write it in quotes",
        f"a.jsonl:10: not JSON: the text holds half a character; {whole}",
        "a.jsonl:11: the category is 61 characters long, at most 60 fit; shorten it",
        "a.jsonl:12: the category holds a control or invisible character; write plain text in one line",
        "a.jsonl:13: a pattern has no place for 'system', 'id'; leave them out with --ignore-extra",
        "a.jsonl:14: 'input' and 'prompt' may each be the input; name one: --input",
        "a.jsonl:15: no column is known as the input: there is 'text'; name it: --input",
        "a.jsonl:16: not an object; write one in braces for each row",
        f"a.jsonl:17: not JSON: the key 'prompt' stands twice; {whole}",
    )


@pytest.mark.parametrize(
    ("name", "text", "arguments", "problem"),
    [
        ("a.csv", "input,output\na\nb,c\nd,e,f\n", (), None),
        ("a.csv", "frage,antwort\na,b\n", (),
         "a.csv:1: no column is known as the input: there is 'frage', 'antwort'; name it: --input"),
        ("a.csv", "prompt,input,output\na,b,c\n", (),
         "a.csv:1: 'input' and 'prompt' may each be the input; name one: --input"),
        ("a.csv", "frage,antwort\na,b\n", ("--input", "frag"),
         "a.csv:1: there is no 'frag', did you mean 'frage'?; name one: --input"),
        ("a.csv", "input,output\na,b\n", ("--output", "input"),
         "a.csv:1: one column can't be two things; name another"),
        ("a.csv", "id,input,output\n1,a,b\n", (),
         "a.csv:1: a pattern has no place for 'id'; leave them out with --ignore-extra"),
        ("a.csv", "input,output,output\na,b,c\n", (),
         "a.csv:1: the column 'output' is named twice; rename one of them"),
        ("a.csv", "a,b;c\n", ("--no-header",),
         "a.csv:1: ',' and ';' may each separate the columns; say which: --delimiter"),
        ("a.csv", "a\n", ("--no-header",), "a.csv:1: there is no '2': there is '1'; name one: --output"),
        ("a.csv", 'input,output\n"two\nlines",b\n\n"three\nmore\nlines",\n', (),
         "a.csv:5: the output has nothing to be seen; write some text or take the entry out"),
        ("a.csv", "", (), "a.csv:1: there is no row; write a line that names the columns, and rows"),
        ("a.csv", 'input,output\na,"b\nc,d\n', (),
         "a.csv:2: no valid table: unexpected end of data; check the quotes from this line on"),
        ("a.csv", 'input,output\na,b\n"c"d,e\n', (),
         "a.csv:3: no valid table: ',' expected after '\"'; check the quotes from this line on"),
        ("a.json", '[{"input": "a", "output": "b"}\n {"input": "c"}]', (),
         "a.json:2:2: not JSON: Expecting ',' delimiter; correct this list"),
        ("a.json", '[\n{"input": "a", "output": "b"}]\nx', (), "a.json:3:1: not JSON: Extra data; correct this list"),
        ("a.json", '[\n\n{"input": }]', (), "a.json:3:11: not JSON: Expecting value; correct this list"),
        ("a.xlsx", "", (), "a.xlsx: no known kind of file; known are .csv, .tsv, .jsonl, .ndjson, .json"),
        ("a.jsonl", lines({"input": "a", "output": "b"}, {"input": " a", "output": "b"}), (),
         "a.jsonl:2: the input ' a' is already at a.jsonl:1; keep one of them"),
        ("a.jsonl", lines({"input": "a", "output": "b"}, {"input": "a", "output": "c"}), (),
         "a.jsonl:2: the input 'a' contradicts a.jsonl:1: 'b' and 'c'; keep the one right answer"),
    ],
)  # fmt: skip
def test_an_unfit_file_is_refused(name: str, text: str, arguments: tuple[str, ...], problem: str | None) -> None:
    fields = "fields, and the table has 2 columns; quote a text that holds ',', or add what is missing"
    expected = [problem] if problem else [f"a.csv:2: 1 {fields}", f"a.csv:4: 3 {fields}"]
    refused(bring(write(name, text), *arguments), *expected)


def test_a_tsv_has_no_quotes_unless_asked_for() -> None:
    """A lone quotation mark would swallow the rows up to the next one."""
    marks = write("a.tsv", 'input\toutput\ninch\t"\nfoot\t\'\nstring\t"\n')
    assert bring(marks).exit_code == 0 and [pair[:2] for pair in pairs()] == [
        ("inch", '"'), ("foot", "'"), ("string", '"')]  # fmt: skip
    whole = write("b.tsv", 'input\toutput\necho\t"hello"\n')
    said = "b.tsv:2: a field in quotes, which TSV has none of; say --quotes or --no-quotes"
    refused(bring(whole, out="b.yaml"), said, out="b.yaml")
    for option, answer in (("--quotes", "hello"), ("--no-quotes", '"hello"')):
        assert bring(whole, option, out=f"{option[2:]}.yaml").exit_code == 0
        assert pairs(f"{option[2:]}.yaml")[0][1] == answer
    assert bring(write("c.csv", 'input,output\ninch,"\n'), "--no-quotes", out="c.yaml").exit_code == 0


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\x85", "\x9b", "\r"])
def test_a_control_character_is_refused_from_every_form(character: str) -> None:
    said = f"U+{ord(character):04X}; take it out; in YAML's double quotes double each backslash, or use single quotes"
    record = {"input": "a", "output": f"b{character}c"}
    refused(bring(write("a.jsonl", lines(record))), f"a.jsonl:1: the output holds the control character {said}")
    write("a.yaml", f"[{json.dumps(record)}]")
    problem = refusal(load_patterns, find_files("a.yaml")).problems[0]
    assert problem == f"a.yaml:1:17 $.examples[0].output: the output holds the control character {said}"
    table = bring(write("a.csv", f'input,output\na,"b{character}c"\n'), out="b.yaml")
    assert table.exit_code == 2 and not Path("b.yaml").exists()


def test_bytes_that_are_not_utf8_are_named() -> None:
    Path("a.csv").write_bytes(b"input,output\na\xff,b\n")
    refused(bring("a.csv"), "a.csv:2: not UTF-8: byte 0xff; save the file as UTF-8")


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("faq.yaml", "faq.yaml: this file exists already and is left unchanged\n  fix: name another: --out"),
        ("link.yaml", "link.yaml: this file exists already and is left unchanged\n  fix: name another: --out"),
        ("faq.txt", "faq.txt: a pattern file's name ends in .yaml\n  fix: give such a name: --out"),
        ("x" * 61 + ".yaml", "the name is 61 characters long, at most 60 fit\n  fix: give another name: --out"),
        ("faq.yaml/x.yaml", "faq.yaml/x.yaml: cannot write this file: "),
    ],
)
def test_nothing_is_overwritten(out: str, said: str) -> None:
    write("faq.yaml", "mine")
    Path("link.yaml").symlink_to("nowhere")
    before = there()
    result = bring(write("a.csv", "input,output\na,b\n"), out=out)
    assert (result.exit_code, result.stdout) == (2, "") and said in result.stderr
    assert Path("faq.yaml").read_text() == "mine" and there() == sorted([*before, "a.csv"])


def test_a_text_that_reads_back_differently_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "pattern_file", lambda *_: "name: faq\nexamples: [{input: a, output: c}]\n")
    result = bring(write("a.csv", "input,output\na,b\n"))
    assert isinstance(result.exception, RuntimeError) and there() == ["a.csv"]


def test_rows_that_are_too_many_for_a_pattern_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_source, "MAX_BYTES", 1 << 20)
    result = bring(write("b.csv", "input,output\n" + "".join(f"a{i},b\n" for i in range(40_000))))
    said = "b.csv: as one pattern file, the file has more than 1 MiB\n  fix: import them in parts\n"
    assert (result.exit_code, result.stderr) == (2, f"engram: {said}") and not Path("faq.yaml").exists()


@pytest.mark.parametrize("given", ["", "ab", '"', "\n"])
def test_a_delimiter_is_one_character(given: str) -> None:
    result = bring(write("a.csv", "a,b\n"), "--no-header", "--delimiter", given)
    assert result.exit_code == 2 and "one character, or tab." in result.stderr
