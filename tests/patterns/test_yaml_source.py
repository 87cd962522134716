"""YAML read safely: each refusal with its place, its message and its fix."""

from __future__ import annotations

import random
import time

import pytest
import yaml

from engram.patterns import yaml_source
from engram.patterns.yaml_source import MAX_DEPTH, Place, parse


def faults(text: str | bytes) -> list[str]:
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return [f"{f.place.line}:{f.place.column} {f.path} {f.message}; {f.fix}" for f in parse(content).faults]


@pytest.fixture(params=["C", "Python"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both of PyYAML's parsers: which one a machine has depends on how PyYAML was built."""
    if request.param == "C" and not yaml.__with_libyaml__:
        pytest.skip("this PyYAML has no C parser")
    monkeypatch.setattr(yaml_source, "_LOADER", yaml.CSafeLoader if request.param == "C" else yaml.SafeLoader)
    return str(request.param)


TAG = "tag:yaml.org,2002"
FORM = "is not what its tag or form says; write it in quotes"
SECOND = "a second document starts here (`---`); keep one document a file"
TWO_COLONS = "not valid YAML: a second `: ` in one line; put the text that holds it in quotes"
NOT_ALLOWED = "is not allowed; take the tag out"
WHOLE = "repeats a whole list or mapping; aliases may repeat text only; write it out"
AS_KEY = (
    "a list, mapping or alias is used as a key; use text as the key; "
    "text that holds { } : or starts with * & needs quotes"
)
CONTROL = "is not allowed; take it out"
REFUSED: dict[str, tuple[str | bytes, list[str]]] = {
    "python object": ("a:\n  - !!python/object/apply:os.system [x]\n",
        [f"2:5 ('a', 0) the tag '{TAG}:python/object/apply:os.system' {NOT_ALLOWED}"]),
    "python on a key": ("!!python/name:os.x a: b\n", [f"1:1 () the tag '{TAG}:python/name:os.x' {NOT_ALLOWED}"]),
    "private tag": ("a: !secret b\n", [f"1:4 ('a',) the tag '!secret' {NOT_ALLOWED}"]),
    "tag by another handle": ("%TAG ! tag:yaml.org,2002:python/\n---\na: !str b\n",
        [f"3:4 ('a',) the tag '{TAG}:python/str' {NOT_ALLOWED}"]),
    "no such day": ("a: 2024-13-45\n", [f"1:4 ('a',) '2024-13-45' {FORM}"]),
    "merge key": ("a: &a {x: y}\nb:\n  <<: *a\n  z: w\n", [f"3:7 ('b', '<<') the alias *a {WHOLE}"]),
    "duplicate key": ("a: 1\nb:\n  c: 1\n  c: 2\n", ["4:3 ('b', 'c') the key 'c' is used twice; keep one of them"]),
    "duplicate key in other writing": ('a: 1\n"a": 2\n', ["2:1 ('a',) the key 'a' is used twice; keep one of them"]),
    "mapping as a key": ("a:\n  - {b: c}: d\n", [f"2:5 ('a', 0) {AS_KEY}"]),
    "list by alias as a key": ("a: &x [b]\n*x : c\n", [f"2:1 () {AS_KEY}"]),
    "second document": ("a: b\n---\nc: d\n", [f"2:1 () {SECOND}"]),
    "laughs": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        [f"2:8 ('b', 0) the alias *a {WHOLE}", f"2:12 ('b', 1) the alias *a {WHOLE}",
         f"3:5 ('c', 0) the alias *b {WHOLE}", f"3:9 ('c', 1) the alias *b {WHOLE}"]),
    "itself": ("a: &a\n  - *a\n", ["2:5 ('a', 0) the alias *a has no anchor before it; put the text in quotes"]),
    "alias of nothing": ("a: *b\n", ["1:4 ('a',) the alias *b has no anchor before it; put the text in quotes"]),
    "an invisible line break": ("a: x\u2028y\nb: z\x85", [
        '1:5 () the invisible line break U+2028 is not allowed; take it out, or write "\\u2028" in double quotes',
        "2:5 () the invisible line break U+0085 is not allowed; take it out"]),
    "a comment that ends a text": (
        "examples:\n- input: a # b\n  output: 'c' # d\n  category: e # f\n- {input: g, output: See #1\n  }\n"
        "tables: [{rows: [[h #i\n, j], [k# l, m]]}] # n\n",
        [f"{place} a comment ends this text: {text}; put the text in quotes, or the comment on its own line"
         for place, text in (("2:10 ('examples', 0, 'input')", "# b"), ("5:22 ('examples', 1, 'output')", "#1"),
                             ("7:19 ('tables', 0, 'rows', 0, 0)", "#i"))]),
    "NUL": ('a: "é\0b"\n', [f"1:6 () the control character U+0000 {CONTROL}"]),
    "several control characters": ("\ufeffa: \x1b[2J\nb: 日本\x07\nc: 🙂\x9b\n",
        [f"1:4 () the control character U+001B {CONTROL}", f"2:6 () the control character U+0007 {CONTROL}",
         f"3:5 () the control character U+009B {CONTROL}"]),
    "Latin-1": ("a: b\nç: caf".encode() + b"\xe9\n", ["2:7 () not UTF-8: byte 0xe9; save the file as UTF-8"]),
    "a surrogate in UTF-8": ("a: \ud800\n", ["1:4 () not UTF-8: byte 0xed; save the file as UTF-8"]),
    "tab before a key": ("a:\n\tb: c\n", ["2:1 () a tab is used where YAML needs spaces; replace the tab by spaces"]),
    "unquoted percent": ("a: %d\n", ["1:4 () unquoted text cannot begin with %; put the text in quotes"]),
    "two colons": ("a: HTTP: 404\n", [f"1:8 () {TWO_COLONS}"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_every_fault_has_its_message_and_its_place(name: str, loader: str) -> None:
    text, expected = REFUSED[name]
    assert faults(text) == expected


SYNTAX = ('a: "b', "a: 'b", "a: [b", "a: {b: c", "- a\nb: c", "a: b\n c: d", "%YAML 9.1\n---\na", 'a: "\\d"')


@pytest.mark.parametrize("text", SYNTAX)
def test_a_syntax_error_is_one_fault_with_a_place_and_a_fix(text: str, loader: str) -> None:
    (fault,) = parse(f"{text}\n".encode()).faults
    assert fault.message.startswith("not valid YAML: ") and fault.fix
    assert 1 <= fault.place.line <= text.count("\n") + 2 and fault.place.column >= 1


def test_half_a_character_in_an_escape_is_refused() -> None:
    if not yaml.__with_libyaml__:
        pytest.skip("the Python parser lets it through; patterns.py refuses it")
    what = "not valid YAML: an escape of half a character; write the character itself, or \\U and 8 digits"
    assert faults('a: "\\ud83d\\ude00"\n') == [f"1:7 () {what}"]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_stops_at_the_limit(opening: str, loader: str) -> None:
    started = time.perf_counter()
    (fault,) = parse((opening * 20_000).encode()).faults
    assert (fault.message, fault.fix) == (f"nested deeper than {MAX_DEPTH} levels", "flatten it")
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ("", None),
        ("# nothing but a comment\n", None),
        ("a: b\n...\n", {"a": "b"}),
        ("\ufeffa: b\r\nc: d\r\n", {"a": "b", "c": "d"}),
        ('a: "b\\tc\\n\\x07"\n', {"a": "b\tc\n\x07"}),
        ("a: &x b\nc: *x\n", {"a": "b", "c": "b"}),
        ("a: =\nb: <<\n<<: d\n", {"a": "=", "b": "<<", "<<": "d"}),
        ("1: b\nyes: c\n", {"1": "b", "yes": "c"}),
        ("a: !!str 404\nb: !!seq [c]\n", {"a": "404", "b": ["c"]}),
        ("a: |\n  b\n  c\n", {"a": "b\nc\n"}),
        ("a: 1.5\nb: 0x10\nc: no\nd: ~\ne:\n", {"a": 1.5, "b": 16, "c": False, "d": None, "e": None}),
        ('a: "\\u2028"\n', {"a": "\u2028"}),
        ("a: 🙂 日本\n", {"a": "🙂 日本"}),
    ],
)
def test_sound_yaml_is_read_as_meant(text: str, document: object, loader: str) -> None:
    source = parse(text.encode())
    assert (source.document, source.faults) == (document, [])


def test_values_that_yaml_takes_for_something_else_keep_their_text() -> None:
    texts = parse(b"a: no\nb: 1.50\nc: 0x1F\nd: ~\ne: text\nf:\n").texts
    assert texts == {("a",): "no", ("b",): "1.50", ("c",): "0x1F", ("d",): "~", ("f",): ""}


def test_a_place_is_an_entrys_key_an_items_start_or_else_the_value_around_it() -> None:
    source = parse("é: x\nlist:\n  - a\n  -  b: 🙂\n     c: [d,  e]\n".encode())
    expected = {
        (): (1, 1), ("é",): (1, 1), ("list",): (2, 1), ("list", 0): (3, 5), ("list", 1): (4, 6),
        ("list", 1, "b"): (4, 6), ("list", 1, "c"): (5, 6), ("list", 1, "c", 1): (5, 14),
        ("list", 1, "nowhere"): (4, 6), ("nowhere",): (1, 1),
    }  # fmt: skip
    assert {path: tuple(source.place(path)) for path in expected} == expected


def test_nothing_makes_the_reader_raise(loader: str) -> None:
    draw = random.Random(7)
    pieces = [*"a\n\t[]{}!|>\"'\\%#é\u2028\ufeff\x00=~,", ": ", "- ", "  ", "&a ", "*a", "!!int ", "---", "...", "<<"]
    pieces += ["? ", "0x", "2024-01-99", ".inf"]
    for _ in range(1500):
        text = "".join(draw.choice(pieces) for _ in range(draw.randint(1, 14)))
        for fault in parse(text.encode()).faults:
            assert fault.message and fault.fix and fault.place >= Place(1, 1)
        assert isinstance(parse(draw.randbytes(draw.randint(1, 40))).faults, list)


def test_what_would_take_too_much_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    (long,) = faults("a: " + "9" * 100_000)
    assert len(long) < 400
    monkeypatch.setattr(yaml_source, "MAX_BYTES", 1 << 20)
    assert faults(b"a" * 1572864) == ["1:1 () the file has more than 1 MiB; split it into several files"]
    monkeypatch.setattr(yaml_source, "MAX_VALUES", 10)
    assert not faults("- a\n" * 9)
    assert faults("- a\n" * 10) == ["10:3 () more than 10 values in one file; split it into several files"]
