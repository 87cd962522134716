"""The checklist's instruments: what is searched for and what not, what a terminal answers, what changed since."""

from __future__ import annotations

import os

import pytest

from engram import __version__
from engram.show.prep import checklist, personal, stages
from engram.show.prep.personal import search
from engram.show.video.cast import Cast, Event
from engram.support import machine

OWNER = {
    "git's e-mail address": "jane@doe.name", "the home folder": "/home/jdoe", "the git user name": "Jane Doe",
    "the host name": "jdoes-laptop.lan", "the host's short name": "jdoes-laptop", "the user name": "jdoe",
}  # fmt: skip


def kinds(text: str, of: dict[str, str] = OWNER, public: tuple[str, ...] = (), **environment: str) -> list[str]:
    return [kind for kind, *_ in search(of, environment, public).hits(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("by JDoe.", ["the user name"]),
        ("jdoe2 and xjdoe", []),
        ("Jane  doe", ["the git user name"]),
        ("plain jane", []),
        ("cd /home/jdoe/engram", ["the home folder"]),
        ("cd /Users/sue/x", ["a home folder"]),
        ("/home/runner/work", []),
        ("jdoes-laptop.lan$", ["the host name"]),
        ("jane@doe.name", ["git's e-mail address"]),
        ("sue.b+c@corp.co.uk,", ["an e-mail address"]),
        ("a@example.com b@x.test git@github.com:a/b", []),
        ("@property x @ y", []),
        ("token=ghp_" + "a1" * 10, ["a GitHub token"]),
        ("AKIA" + "A1" * 8, ["an AWS access key"]),
        ("task-sk-" + "a" * 20, ["an API key"]),
        ("risk-" + "a" * 20, []),
        ("the value hunter22hunter", ["the value of DB_PASSWORD"]),
        ("MONKEY=bananabanana", []),
    ],
)
def test_what_is_found(text: str, expected: list[str]) -> None:
    assert kinds(text, DB_PASSWORD="hunter22hunter", MONKEY="bananabanana", A_KEY="x") == expected


def test_names_that_say_nothing_are_not_searched_for() -> None:
    of = {"the user name": "root", "the host name": "vm", "the home folder": "/root", "the git user name": ""}
    assert kinds("root of vm: cd /root", of) == []


def test_what_is_public_may_be_seen() -> None:
    assert kinds("sue@corp.com by jdoe", public=("Sue@corp.com", "jdoe")) == []
    assert kinds("sue@corp.com by jdoe", public=("jdoe",)) == ["an e-mail address"]


def test_what_is_found_can_be_concealed() -> None:
    text = "jdoe: sue@corp.com, jdoe"
    assert search(OWNER, {}).conceal(text) == "[the user name]: [an e-mail address], [the user name]"


def test_a_recording_is_read_off_its_screen_section_by_section() -> None:
    typed = [(1 + i / 10, "o", f"\x1b[2;3H\x1b[1m{'jane@doe'[: i + 1]}\x1b[0m") for i in range(8)]
    events = [(0, "o", "a"), (1, "m", "two"), (1, "o", "\x1b[H\x1b[2J╭─╮\r\n│ x"), *typed, (3, "o", "\x1b[3;1Hb │ c")]
    recording = Cast(20, 5, 4, "", tuple(Event(*event) for event in events))
    found = list(personal.lines(recording))
    assert found[0] == ("start", 1, "a")
    assert ("two", 2, "jane@doe") in found and ("two", 3, "b   c") in found
    assert found[-1] == ("two", 0, "jane@doe b c")
    assert personal.titles(recording) == ["two"]


@pytest.mark.parametrize(
    ("size", "state"),
    [((100, 30), "pass"), ((99, 30), "warn"), ((100, 29), "warn"), ((80, 24), "warn"), ((79, 50), "fail"),
     ((200, 23), "fail")],
)  # fmt: skip
def test_the_size(size: tuple[int, int], state: str) -> None:
    assert [one.state for one in checklist.terminal(os.terminal_size(size))] == [state, "ask"]


def test_without_a_terminal_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: False)
    assert checklist.measure() is None
    assert [one.state for one in checklist.terminal(None)] == ["warn", "warn"]


def test_other_packages_and_another_engram_are_changes() -> None:
    known = {"packages": machine.packages(), "engram": __version__}
    assert stages.since(known) == []
    changed = stages.since({"packages": known["packages"] | {"numpy": "0.1"}, "engram": "0.0.1"})
    assert changed == [
        f"engram 0.0.1 then, {__version__} now", f"numpy 0.1 then, {machine.packages()['numpy']} now"
    ]  # fmt: skip
