"""Pattern files: what is refused, each problem with its place and its fix, and what loads."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
import yaml
from packs import refusal

from engram.patterns import loading, yaml_source
from engram.patterns.loading import find_files, load_patterns, pattern_id
from engram.support.files import bundled


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str | bytes, name: str = "t.yaml") -> list[loading.Pattern]:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_patterns([Path(name)])


def problems(text: str | bytes) -> list[str]:
    return list(refusal(load, text).problems)


def example(line: str) -> str:
    """A file whose second example's output is `line` (line 6)."""
    return f"name: n\nexamples:\n  - input: a\n    output: b\n  - input: c\n    output: {line}\n"


def table(*lines: str) -> str:
    """A file with one table of the columns x and y (its rows begin in line 7)."""
    head = 'name: n\ntables:\n  - input: "What is {x}?"\n    output: "{y}"\n    columns: [x, y]\n    rows:\n'
    return head + "".join(f"      - {line}\n" for line in lines)


OUT = "t.yaml:6:5 $.examples[1].output:"
EMPTY = "is empty; write some text or take the entry out"
UNKNOWN_TOP = "known are name, description, version, categories, examples, tables; rename it or take it out"
CATALOGUE: dict[str, tuple[str | bytes, list[str]]] = {
    # words, numbers and days that YAML 1.1 takes for something else
    "no": (example("no"), [f'{OUT} is a yes/no value for YAML, not text; write it in quotes: "no"']),
    "a number's zero": (example("1.50"), [f'{OUT} is a number for YAML, not text; write it in quotes: "1.50"']),
    "a day": (example("2024-03-15"), [f'{OUT} is a date for YAML, not text; write it in quotes: "2024-03-15"']),
    "nothing, written": (example("~"), [f'{OUT} is empty for YAML, not text; write it in quotes: "~"']),
    "nothing": (example(""), [f"{OUT} is empty, not text; write some text"]),
    # wrong types
    "a list": (example("[a]"), [f"{OUT} is a list, not text; write text here, in quotes if it begins with [ or {{"]),
    "braces": (example("{x}"), [f"{OUT} is a mapping, not text; write text here, in quotes if it begins with [ or {{"]),
    "text for the examples": ("name: n\nexamples: a\n",
        ["t.yaml:2:1 $.examples: is text, not a list; write a list here"]),
    "text for the file": ("hello\n", ["t.yaml:1:1 $: is text, not a mapping; write a mapping here"]),
    "version": ("name: n\nversion: true\nexamples: [{input: a, output: b}]\n",
        ['t.yaml:2:1 $.version: is a yes/no value for YAML, not text or a number; write it in quotes: "true"']),
    # what is missing or empty
    "empty file": ("", ["t.yaml:1:1 $: the file is empty; add `name:` and `examples:`"]),
    "only a name": ("name: n\n", ["t.yaml:1:1 $: 'examples' or 'tables' is missing; add `examples:`"]),
    "no name": ("examples: [{input: a, output: b}]\n", ["t.yaml:1:1 $: 'name' is missing; add `name:`"]),
    "no examples": ("name: n\nexamples: []\n",
        ["t.yaml:2:1 $.examples: is an empty list; add an entry or take it out"]),
    "no input, no output": ("name: n\nexamples:\n  - category: c\n",
        ["t.yaml:3:5 $.examples[0]: 'input' is missing; add `input:`",
         "t.yaml:3:5 $.examples[0]: 'output' is missing; add `output:`"]),
    "empty strings": ('name: " "\nexamples:\n  - input: ""\n    output: "\\t"\n    category: ""\n',
        [f"t.yaml:1:1 $.name: {EMPTY}", f"t.yaml:3:5 $.examples[0].input: {EMPTY}",
         f"t.yaml:4:5 $.examples[0].output: {EMPTY}", f"t.yaml:5:5 $.examples[0].category: {EMPTY}"]),
    "nothing to be seen": (example('"\\u200b\\u202e\\x07"'),
        [f"{OUT} the output has nothing to be seen; "
         "write some text or take the entry out"]),
    # what is too long
    "long strings": (
        f"name: {'n' * 61}\nexamples:\n  - input: {'a' * 1001}\n    output: {'b' * 401}\n    category: {'c' * 61}\n",
        ["t.yaml:1:1 $.name: is 61 characters long, at most 60 fit; shorten it",
         "t.yaml:3:5 $.examples[0].input: is 1001 characters long, at most 1000 fit; shorten it",
         "t.yaml:4:5 $.examples[0].output: is 401 characters long, at most 400 fit; shorten it",
         "t.yaml:5:5 $.examples[0].category: is 61 characters long, at most 60 fit; shorten it"]),
    "long once filled": (table(f"[{'a' * 999}, b]", f"[c, {'d' * 401}]"),
        ["t.yaml:7:9 $.tables[0].rows[0]: the input is 1008 characters long, at most 1000 fit; shorten it",
         "t.yaml:8:9 $.tables[0].rows[1]: the output is 401 characters long, at most 400 fit; shorten it"]),
    # keys
    "unknown keys": ("name: n\nmade by: me\nexampels: 1\nexamples:\n  - input: a\n    output: b\n    ouput: c\n",
        [f"t.yaml:2:1 $['made by']: unknown key 'made by'; {UNKNOWN_TOP}",
         "t.yaml:3:1 $.exampels: unknown key 'exampels', did you mean 'examples'?; rename it or take it out",
         "t.yaml:7:5 $.examples[0].ouput: unknown key 'ouput', did you mean 'output'?; rename it or take it out"]),
    # rules and rewordings
    "a rule in two ways": (
        "name: n\ncategories: {c: {kind: rule, taught: 3}}\n" + table("[a, b]").partition("\n")[2].replace(
            "  - input", "  - category: c\n    kind: fact\n    input"),
        ["t.yaml:5:5 $.tables[0].kind: the category 'c' is declared in another way before; "
         "declare it once, or name another category"]),
    "as many facts as that": (table("[a, b]").replace("    output", "    taught: 3\n    output"),
        ["t.yaml:4:5 $.tables[0].taught: facts are all taught; say `kind: rule`, or take `taught` out"]),
    "categories that are none": ("name: n\ncategories: [c]\nexamples: [{input: a, output: b}]\n",
        ["t.yaml:2:1 $.categories: is a list, not a mapping; write a mapping here"]),
    "no kind of that name": ("name: n\ncategories: {c: {kind: law}}\nexamples: [{input: a, output: b}]\n",
        ["t.yaml:2:18 $.categories.c.kind: 'law' is not one of ['fact', 'rule', 'control']; "
         "write fact, rule, or control: a rule that cannot be learned"]),
    "none taught": ("name: n\ncategories: {c: {kind: rule, taught: 0}}\nexamples: [{input: a, output: b}]\n",
        ["t.yaml:2:30 $.categories.c.taught: 0 is less than the minimum of 1; "
         "write how many members of the rule are taught, 1 or more"]),
    "a rewording without its column, with another's, and one brace": (
        table("[a, b]").replace("    output", '    also: ["Say what", "{y}, from what?", "{x"]\n    output'),
        ["t.yaml:4:12 $.tables[0].also[0]: a rewording asks with other columns than the input; use just these: x",
         "t.yaml:4:24 $.tables[0].also[1]: a rewording asks with other columns than the input; use just these: x",
         "t.yaml:4:43 $.tables[0].also[2]: a single '{' in a template; double it to mean the character itself",
         "t.yaml:4:43 $.tables[0].also[2]: a rewording asks with other columns than the input; use just these: x"]),
    "an empty rewording": (example("x").replace("output: b", 'output: b\n    also: ["d", "e", ""]'),
        [f"t.yaml:5:22 $.examples[0].also[2]: {EMPTY}"]),
    "a rewording that is another's input": (example("other").replace("output: b", 'output: b\n    also: ["c", "d"]'),
        ["t.yaml:6:5 $.examples[1].input: the input 'c' contradicts t.yaml:3:5 $.examples[0].input: 'b' and 'other'; "
         "keep the one right answer"]),
    # duplicates and contradictions
    "contradiction": (example("no way").replace("input: c", "input: a"),
        ["t.yaml:5:5 $.examples[1].input: the input 'a' contradicts t.yaml:3:5 $.examples[0].input: 'b' and 'no way'; "
         "keep the one right answer"]),
    "the same character in two writings": (
        'name: n\nexamples:\n  - {input: "caf\\u00e9", output: x}\n  - {input: "cafe\\u0301", output: x}\n',
        ["t.yaml:4:6 $.examples[1].input: the input 'cafe\u0301' is already at t.yaml:3:6 $.examples[0].input; "
         "keep one of them"]),
    "rows that are one another's double": (table("[a, b]", "[a, c]"),
        ["t.yaml:8:9 $.tables[0].rows[1]: the input 'What is a?' contradicts t.yaml:7:9 $.tables[0].rows[0]: "
         "'b' and 'c'; "
         "keep the one right answer"]),
    # tables
    "a row that misses a value": (table("[a, b]", "[c]", "[]"),
        ["t.yaml:8:9 $.tables[0].rows[1]: the row misses a value for y; give 2 values",
         "t.yaml:9:9 $.tables[0].rows[2]: the row misses a value for x, y; give 2 values"]),
    "a row with too many values": (
        table("[a, b, c]"),
        ["t.yaml:7:9 $.tables[0].rows[0]: the row has 3 values for 2 columns; take the others out"]),
    "an empty value": (
        table('[a, " "]'), ["t.yaml:7:13 $.tables[0].rows[0][1]: the value for 'y' is empty; write some text"]),
    "a column that no template knows": (table("[a, b]").replace("{y}", "{z}"),
        ["t.yaml:4:5 $.tables[0].output: no column 'z'; columns are x, y; name a column, or double the braces",
         "t.yaml:5:5 $.tables[0].columns: the column 'y' is used in neither template; use it or take it out"]),
    "a column named wrongly": (table("[a, b]").replace("[x, y]", "[x, yes_no]").replace("{y}", "{yesno}"),
        ["t.yaml:4:5 $.tables[0].output: no column 'yesno', "
         "did you mean 'yes_no'?; name a column, or double the braces",
         "t.yaml:5:5 $.tables[0].columns: the column 'yes_no' is used in neither template; use it or take it out"]),
    "a column twice": (table("[a, b, c]").replace("[x, y]", "[x, y, x]"),
        ["t.yaml:5:5 $.tables[0].columns: the column 'x' is named twice; rename one of them"]),
    "a column that is no name": (table("[a, b]").replace("[x, y]", "[x, 1-y]").replace("{y}", "{1-y}"),
        ["t.yaml:5:18 $.tables[0].columns[1]: '1-y' does not match '^[A-Za-z_][A-Za-z0-9_]*$'; "
         "write letters, digits and _, no digit first"]),
    "a single brace": (table("[a, b]").replace('"{y}"', '"{ {y} }"'),
        ["t.yaml:4:5 $.tables[0].output: a single '{' in a template; double it to mean the character itself",
         "t.yaml:4:5 $.tables[0].output: a single '}' in a template; double it to mean the character itself"]),
    # names that would drive a terminal
    "a name with an escape": ('name: "\\e[2Jn"\nexamples: [{input: a, output: b, category: "c\\u202e"}]\n',
        ["t.yaml:1:1 $.name: the name holds the control character U+001B; take it out; in YAML's double quotes double "
         "each backslash, or use single quotes",
         "t.yaml:2:34 $.examples[0].category: the category holds a control or invisible character; "
         "write plain text in one line"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_problem_has_its_message_its_place_and_its_fix(name: str) -> None:
    text, expected = CATALOGUE[name]
    assert problems(text) == expected


def test_the_text_of_a_whole_refusal() -> None:
    assert str(refusal(load, example("404"))) == (
        "1 problem in 1 pattern file\n"
        '  t.yaml:6:5 $.examples[1].output: is a number for YAML, not text; write it in quotes: "404"\n'
        "  fix: correct these lines, then run `engram validate` again"
    )


def test_problems_of_every_kind_come_together_in_the_order_of_the_file() -> None:
    text = (
        "name: n\nmade by: me\nexamples:\n  - {input: a, output: b}\n"
        "  - {input: c, output: 1}\n  - {input: a, output: b}\n"
        'tables:\n  - input: "{x}"\n    output: "{z}"\n    columns: [x]\n    rows: [[1]]\n'
        '  - input: "is {x}"\n    output: "{x}"\n    columns: [x]\n    rows: [[a], [b, c], [no], [a]]\n'
    )
    places = [problem.split(": ")[0] for problem in problems(text)]
    assert places == [
        "t.yaml:2:1 $['made by']", "t.yaml:5:16 $.examples[1].output", "t.yaml:9:5 $.tables[0].output",
        "t.yaml:11:13 $.tables[0].rows[0][0]", "t.yaml:15:17 $.tables[1].rows[1]",
        "t.yaml:15:26 $.tables[1].rows[2][0]", "t.yaml:6:6 $.examples[2].input", "t.yaml:15:31 $.tables[1].rows[3]",
    ]  # fmt: skip


def test_all_files_are_judged_at_once_and_against_each_other() -> None:
    Path("a.yaml").write_text(example("404"))
    Path("b.yaml").write_text("name: m\nexamples:\n  - {input: a, output: other}\n")
    Path("c.yaml").write_bytes(b"\xff")
    error = refusal(load_patterns, [Path("a.yaml"), Path("b.yaml"), Path("c.yaml")])
    assert error.what == "3 problems in 3 pattern files"
    assert [problem.split(" ")[0] for problem in error.problems] == ["a.yaml:6:5", "c.yaml:1:1", "b.yaml:3:6"]
    assert "contradicts a.yaml:3:5 $.examples[0].input: 'b' and 'other'" in error.problems[2]


@pytest.mark.parametrize(
    "text",
    [
        'name: n\nexamples:\n  - {input: "\\e[31m", output: "\\x9b1m"}\n  - {input: "\\e[31m", output: "\\u202eb"}\n',
        'name: n\n"\\e[2J": x\nexamples:\n  - {input: a, output: b, "k\\u202e": c}\n',
        'name: n\nexamples:\n  - {input: a, output: !!int "\\e[2J"}\n',
        'name: n\ntables:\n  - {input: "{\\e[2J}", output: "{x}", columns: ["\\u009b"], rows: [[a]]}\n',
        "name: n\nexamples: \x1b[2J\n",
        "name: n\nexamples:\n  - input: *\u202e\n",
    ],
)
def test_messages_never_carry_what_drives_a_terminal(text: str) -> None:
    message = str(refusal(load, text)).replace("\n", "")
    assert [character for character in message if unicodedata.category(character) in ("Cc", "Cf", "Cs")] == []


def test_half_a_character_is_refused_whichever_parser_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_source, "_LOADER", yaml.SafeLoader)  # libyaml refuses the escape itself
    found = problems(example('"\\ud800"') + '"\\ud801": x\n')
    assert f"{OUT} the output holds half a character (U+D800); write the whole character" in found
    assert len("".join(found).encode()) > 0


def test_the_plans_bare_list_loads_under_the_files_name() -> None:
    text = '- input: "for i in range("\n  output: "len(items)):"\n- input: a\n  output: b\n  category: c\n'
    found = load(text, "idioms.yml")
    assert [(p.input, p.output, p.kind, p.category) for p in found] == [
        ("for i in range(", "len(items)):", "idioms", "idioms"),
        ("a", "b", "idioms", "c"),
    ]
    assert found[1].place == "idioms.yml:3:3 $.examples[1].input"


def test_a_table_fills_its_templates_and_doubled_braces_mean_braces() -> None:
    text = table('["{0}", "b{y}"]', '[c, "}}"]').replace('"{y}"', '"{{{y}}} of {x}"')
    found = load(text)
    assert [(p.input, p.output) for p in found] == [("What is {0}?", "{b{y}} of {0}"), ("What is c?", "{}}} of c")]
    assert [p.place for p in found] == ["t.yaml:7:9 $.tables[0].rows[0]", "t.yaml:8:9 $.tables[0].rows[1]"]


def test_an_id_depends_on_the_normalised_input_alone() -> None:
    first, second = load(example("d"))
    assert first.id == pattern_id("  a\n") == load("- {input: a, output: else}\n")[0].id != second.id
    assert first.id == "ca978112ca1b"  # of SHA-256("a"): the splits of every pack hang on it


def test_files_are_found_in_a_folder_by_name_and_by_commas() -> None:
    for name in ("b.yaml", "a.yml", "C.YAML", ".hidden.yaml", "._facts.yaml", "notes.txt"):
        Path("pack").mkdir(exist_ok=True)
        Path("pack", name).write_text("x")
    Path("pack/d.yaml").mkdir()
    Path("one,two.yaml").write_text("x")
    names = ["C.YAML", "a.yml", "b.yaml"]
    assert [path.name for path in find_files("pack")] == names
    assert [path.name for path in find_files("pack/b.yaml, pack,pack/b.yaml")] == ["b.yaml", "C.YAML", "a.yml"]
    assert find_files("one,two.yaml") == [Path("one,two.yaml")]


def test_without_a_folder_of_ones_own_the_bundled_files_are_found() -> None:
    assert find_files() == find_files("patterns") == sorted(bundled("patterns").glob("*.yaml"))
    Path("patterns").mkdir()
    Path("patterns/own.yaml").write_text("x")
    assert find_files("patterns") == [Path("patterns/own.yaml")]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no/where", f"no/where: no such pattern file or folder\n  fix: {loading.FIX}"),
        ("empty", "empty: no .yaml file in this folder\n  fix: put a pattern file there, see patterns/facts.yaml"),
        (" , ", f" , : no pattern file is named\n  fix: {loading.FIX}"),
    ],
)
def test_a_place_without_patterns_is_refused(spec: str, message: str) -> None:
    Path("empty").mkdir()
    assert str(refusal(find_files, spec)) == message


def test_a_file_with_more_problems_than_are_listed_is_refused() -> None:
    Path("t.yaml").write_text("name: x\nexamples:\n" + "- {inptu: a}\n" * 5000)
    error = refusal(load_patterns, [Path("t.yaml")])
    assert len(error.problems) == 101 and error.problems[-1].startswith("… and ")


def test_a_file_name_is_shown_without_control_characters() -> None:
    Path("\x1b[2J.yaml").write_text("")
    assert str(refusal(load_patterns, [Path("\x1b[2J.yaml")])).count("\x1b") == 0


def test_the_bare_lists_problems_have_their_places_too() -> None:
    assert problems("- input: a\n  output: no\n- input: c\n- output: !x d\n") == [
        't.yaml:2:3 $.examples[0].output: is a yes/no value for YAML, not text; write it in quotes: "no"',
        "t.yaml:3:3 $.examples[1]: 'output' is missing; add `output:`",
        "t.yaml:4:3 $.examples[2]: 'input' is missing; add `input:`",
        "t.yaml:4:11 $.examples[2].output: the tag '!x' is not allowed; take the tag out",
    ]


@pytest.mark.parametrize("version", ["1.0", '"1.0"', "2"])
def test_files_of_the_older_format_load_unchanged(version: str) -> None:
    found = load(
        f"name: code_idioms\ndescription: Short idioms\nversion: {version}\nexamples:\n"
        '  - input: "def main():\\n    "\n    output: "    pass"\n    category: definition\n'
        '  - input: "import"\n    output: " os"\n'
        "  - input: |\n      a\n      b\n    output: c\n"
    )
    assert [(p.input, p.output, p.kind, p.category) for p in found] == [
        ("def main():\n    ", "    pass", "code_idioms", "definition"),
        ("import", " os", "code_idioms", "code_idioms"),
        ("a\nb\n", "c", "code_idioms", "code_idioms"),
    ]
