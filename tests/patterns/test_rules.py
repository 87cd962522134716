"""The bundled rules: every answer follows from its input by a few lines of code, and the control's from nothing."""

from __future__ import annotations

import ast
import calendar
import datetime
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from statistics import correlation
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[2] / "patterns" / "formats.yaml"
LISTED: list[dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["tables"]
TABLES = {table["category"]: table for table in LISTED}
FAMILIES = [name for name, table in TABLES.items() if table["kind"] == "rule"]
CONTROLS = [name for name, table in TABLES.items() if table["kind"] == "control"]


def members(category: str) -> list[tuple[str, str]]:
    """What the input template is filled with and the answer, of each row."""
    table = TABLES[category]
    given, answer = table["columns"]
    assert f"{{{given}}}" in table["input"] and table["output"] == f"{{{answer}}}"
    return [(text, right) for text, right in table["rows"]]


def long_date(text: str) -> str:
    day = datetime.date.fromisoformat(text)
    return f"{calendar.month_name[day.month]} {day.day}, {day.year}"


def hundredfold(text: str) -> str:
    return f"{(Decimal(text) * 100).normalize():f}"


def plural(text: str) -> str:
    if re.search("[^aeiou]y$", text):
        return f"{text[:-1]}ies"
    return f"{text}es" if re.search("(s|x|ch|sh)$", text) else f"{text}s"


def roman(text: str) -> str:
    tens, ones = divmod(int(text), 10)
    of_tens = ["", "X", "XX", "XXX", "XL", "L", "LX", "LXX", "LXXX", "XC", "C"]
    return of_tens[tens] + ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"][ones]


def ordinal(text: str) -> str:
    teen = re.search("1[123]$", text)
    return text + ("th" if teen else {"1": "st", "2": "nd", "3": "rd"}.get(text[-1], "th"))


def f_string(text: str) -> str:
    def pieces(node: ast.expr) -> str:
        if isinstance(node, ast.BinOp):
            return pieces(node.left) + pieces(node.right)
        return str(node.value) if isinstance(node, ast.Constant) else f"{{{ast.unparse(node)}}}"

    return f"f'{pieces(ast.parse(text, mode='eval').body)}'"


def dict_get(text: str) -> str:
    node = ast.parse(text, mode="eval").body
    assert isinstance(node, ast.Subscript)
    return f"{ast.unparse(node.value)}.get({ast.unparse(node.slice)})"


RULES: dict[str, Callable[[str], str]] = {
    "us_date": lambda text: datetime.date.fromisoformat(text).strftime("%m/%d/%Y"),
    "european_date": lambda text: datetime.date.fromisoformat(text).strftime("%d.%m.%Y"),
    "time_12h": lambda text: datetime.datetime.strptime(text, "%H:%M").strftime("%I:%M %p").removeprefix("0"),
    "snake_case": lambda text: re.sub("(?=[A-Z])", "_", text).lower(),
    "constant_case": lambda text: text.upper().replace(" ", "_"),
    "thousands": lambda text: f"{int(text):,}",
    "percent": lambda text: f"{hundredfold(text)}%",
    "initials": lambda text: "".join(re.findall(r"\b[A-Z]", text)),
    **{"long_date": long_date, "plural": plural, "roman": roman, "ordinal": ordinal, "centimetres": hundredfold},
    **{"f_string": f_string, "dict_get": dict_get},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_follows_from_its_input(family: str) -> None:
    found = members(family)
    wrong = [f"{text}: {answer}, not {right}" for text, answer in found if answer != (right := RULES[family](text))]
    assert found and not wrong, "\n".join(wrong)


def test_every_family_has_a_function_here_and_members_enough() -> None:
    assert [family for family in FAMILIES if family not in RULES] == []
    assert len(FAMILIES) >= 15 and len(FAMILIES) + len(CONTROLS) == len(LISTED)
    for name, table in TABLES.items():
        assert len(table["rows"]) >= 40 and 1 <= table["taught"] <= 12, name


def test_no_input_is_its_own_answer() -> None:
    assert [given for table in TABLES.values() for given, answer in table["rows"] if given == answer] == []


def test_an_f_string_says_what_the_sum_of_its_parts_says() -> None:
    for text, answer in members("f_string"):
        values = {node.id: f"<{node.id}>" for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        assert values and eval(answer, values) == eval(text, values)


def test_get_finds_what_the_brackets_find_and_nothing_where_those_fail() -> None:
    for text, answer in members("dict_get"):
        owner, key = text[: text.index("[")], text[text.index("[") + 1 : -1]
        values: dict[str, Any] = {"box": {key.strip("'"): "found"}, key: key}
        brackets, get = (code.replace(owner, "box", 1) for code in (text, answer))
        assert eval(brackets, values) == eval(get, values) == "found"
        values["box"] = {}
        assert eval(get, values) is None
        with pytest.raises(KeyError):
            eval(brackets, values)


def ranks(values: list[Any]) -> list[float]:
    """The place of each value in their order, and where several are equal the middle of theirs."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def test_there_is_one_control_of_distinct_codes() -> None:
    assert len(CONTROLS) == 1
    codes = [code for _, code in members(*CONTROLS)]
    assert len({*codes}) == len(codes) and all(re.fullmatch("[0-9]{4}", code) for code in codes)
    assert not {name for name, _ in members(*CONTROLS)} & {name for name, _ in members("initials")}


@pytest.mark.parametrize("key", [str.casefold, lambda name: name.split()[::-1], len], ids=["name", "surname", "length"])
def test_the_codes_follow_neither_the_alphabet_nor_the_length(key: Callable[[str], Any]) -> None:
    names, codes = zip(*members(*CONTROLS))
    assert abs(correlation(ranks([*map(key, names)]), ranks([*map(int, codes)]))) < 0.35
