"""The four bundled pattern files: enough of each, no two alike, and right wherever a few lines can recompute it."""

from __future__ import annotations

import datetime
import http
import re
import signal
import socket
from collections import Counter
from collections.abc import Callable

import pytest

from engram.dataset.build import is_held_out, split
from engram.patterns.loading import Pattern, find_files, load_patterns
from engram.support.files import bundled
from engram.support.text import normalise, visible

PATTERNS = load_patterns(find_files())


def of_category(category: str) -> list[Pattern]:
    return [pattern for pattern in PATTERNS if pattern.category == category]


def rows(category: str) -> list[tuple[str, str]]:
    """What stands after the family's fixed words, and the answer; the words are what all inputs begin with."""
    found = of_category(category)
    words = found[0].input
    while not all(pattern.input.startswith(words) for pattern in found):
        words = words[:-1]
    words = words[: words.rfind(" ") + 1]
    return [(pattern.input[len(words) :], pattern.output) for pattern in found]


@pytest.mark.parametrize(("kind", "least"), [("code_idioms", 40), ("facts", 80), ("formats", 80), ("error_fixes", 40)])
def test_there_are_as_many_patterns_as_promised(kind: str, least: int) -> None:
    assert sum(pattern.kind == kind for pattern in PATTERNS) >= least


def test_formats_come_in_families_large_enough_to_hold_some_out() -> None:
    families = Counter(pattern.category for pattern in PATTERNS if pattern.kind == "formats")
    assert sum(count >= 8 for count in families.values()) >= 8


def test_no_two_inputs_differ_in_case_and_white_space_alone() -> None:
    counts = Counter(normalise(pattern.input).casefold() for pattern in PATTERNS)
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.id)
def test_inputs_and_outputs_are_one_short_plain_line(pattern: Pattern) -> None:
    assert len(pattern.output) <= 40 and len(pattern.input) <= 80
    for text in (pattern.input, pattern.output):
        assert text == normalise(text) == visible(text) and text.isascii()


def test_the_default_split_leaves_something_to_measure_in_every_file() -> None:
    test_rows = split(PATTERNS, seed=0)["test"]
    kinds = Counter(row.kind for row in test_rows if row.split_kind == "generalization")
    assert set(kinds) == {"code_idioms", "facts", "formats", "error_fixes"} and min(kinds.values()) >= 4
    assert 0.15 < sum(is_held_out(pattern, 0) for pattern in PATTERNS) / len(PATTERNS) < 0.27


def long_date(text: str) -> str:
    day = datetime.date.fromisoformat(text)
    return f"{day:%B} {day.day}, {day.year}"


def time_12h(text: str) -> str:
    hours, minutes = text.split(":")
    return f"{int(hours) % 12 or 12}:{minutes} {'AM' if int(hours) < 12 else 'PM'}"


def camel_case(text: str) -> str:
    first, *others = text.split("_")
    return first + "".join(word.capitalize() for word in others)


RULES: dict[str, Callable[[str], str]] = {
    "us_date": lambda text: datetime.date.fromisoformat(text).strftime("%m/%d/%Y"),
    "long_date": long_date,
    "time_12h": time_12h,
    "snake_case": lambda text: re.sub("([A-Z])", r"_\1", text).lower(),
    "camel_case": camel_case,
    "kebab_case": lambda text: text.lower().replace(" ", "-"),
    "constant_case": lambda text: text.upper().replace(" ", "_"),
    "thousands": lambda text: f"{int(text):,}",
    "percent": lambda text: f"{round(float(text) * 100, 6):g}%",
    "initials": lambda text: "".join(word[0] for word in text.split()),
}


@pytest.mark.parametrize("category", sorted({p.category for p in PATTERNS if p.kind == "formats"}))
def test_every_family_of_formats_follows_its_rule(category: str) -> None:
    found = rows(category)
    assert found and [(text, RULES[category](text)) for text, _ in found] == found


def test_http_reasons_are_those_of_the_standard_library() -> None:
    found = [(pattern.input.split()[2], pattern.output) for pattern in of_category("http_status")]
    assert found and found == [(code, http.HTTPStatus(int(code)).phrase) for code, _ in found]


def test_signal_numbers_are_this_machines() -> None:
    assert rows("unix_signal") == [(name, str(signal.Signals[name].value)) for name, _ in rows("unix_signal")]


@pytest.mark.parametrize("service", ["SSH", "SMTP", "DNS", "HTTP", "HTTPS"])
def test_ports_are_those_of_the_services_list(service: str) -> None:
    try:
        port = socket.getservbyname(
            {"DNS": "domain"}.get(service, service.lower()), "udp" if service == "DNS" else "tcp"
        )
    except OSError:
        pytest.skip("this machine has no list of services")
    assert dict(rows("default_port"))[service] == str(port)


def test_a_bare_python_answer_compiles() -> None:
    """Idioms and fixes are pieces of Python: a line that opens a block gets a body, an expression stands as it is."""
    fixes = ("python3_syntax", "missing_mark", "javascript_in_python", "missing_import")
    for pattern in PATTERNS:
        if (pattern.kind == "code_idioms" and pattern.input.startswith("Python")) or pattern.category in fixes:
            line = pattern.output
            body = "try:\n    pass\n" if line.startswith("except") else ""
            compile(f"{body}{line}\n    pass" if line.endswith(":") else line, pattern.place, "exec")


def test_stems_and_their_completions_are_python_together() -> None:
    stems = [
        pattern for pattern in PATTERNS if pattern.kind == "code_idioms" and not pattern.input.startswith("Python")
    ]
    for pattern in stems:
        joint = "" if pattern.input.endswith(("(", ".")) else " "
        compile(f"{pattern.input}{joint}{pattern.output}\n    pass", pattern.place, "exec")
    assert len(stems) >= 3


def test_broken_lines_are_broken_and_their_fixes_change_little() -> None:
    for text, fixed in rows("missing_mark"):
        with pytest.raises(SyntaxError):
            compile(text if not fixed.endswith(":") else f"{text}\n    pass", "broken", "exec")
        assert fixed.startswith(text) and len(fixed) - len(text) <= 1


def test_no_bundled_file_is_forgotten() -> None:
    assert sorted(path.stem for path in bundled("patterns").glob("*.y*ml")) == sorted({p.kind for p in PATTERNS})
