"""The checklist's instruments: what is searched for and what not, what a terminal answers, what changed since."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from engram import __version__
from engram.show.prep import finding, personal, stages
from engram.show.prep.personal import Owner, search
from engram.show.video.cast import Cast, Event
from engram.support import machine

OWNER = Owner("jdoe", "jdoes-laptop.lan", "/home/jdoe", "Jane Doe", "jane@doe.name")


def kinds(text: str, of: Owner = OWNER, public: tuple[str, ...] = (), **environment: str) -> list[str]:
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


def test_names_that_say_nothing_are_left_out_and_named() -> None:
    of = Owner("root", "vm", "/root", "Mark", "")
    made = search(of, {})
    assert made.left_out == (
        "git user name (an everyday word)",
        "host name (shorter than 4 letters)",
        "user name (stands for no person)",
    )
    assert not list(made.hits("root of vm: cd /root; mark it"))
    assert not list(search(Owner(), {}).hits("any text, of a machine that names nobody"))


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


def measured(columns: int, lines: int) -> finding.Terminal | None:
    """A terminal of this size, measured."""
    import fcntl
    import termios

    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    found = finding.measure((follower,))
    os.close(follower)
    os.close(leader)
    return found


def states(found: finding.Terminal | None) -> list[str]:
    return [one.state for one in finding.checks(found)]


@pytest.mark.parametrize(
    ("size", "state"),
    [
        ((100, 30), "pass"),
        ((99, 30), "warn"),
        ((100, 29), "warn"),
        ((80, 24), "warn"),
        ((79, 50), "fail"),
        ((200, 23), "fail"),
    ],
)
def test_the_size(size: tuple[int, int], state: str) -> None:
    assert states(finding.Terminal(*size, "truecolor"))[0] == state


@pytest.mark.parametrize(
    ("variables", "state"),
    [
        ({"TERM": "xterm-256color"}, "pass"),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, "pass"),
        ({"TERM": "xterm"}, "warn"),
        ({"TERM": "dumb"}, "fail"),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, "fail"),
    ],
)
def test_the_colours(variables: dict[str, str], state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = measured(100, 30)
    assert found and (found.columns, found.lines) == (100, 30)
    assert states(found)[1:] == [state, "ask"]


def test_without_a_terminal_nothing_is_measured() -> None:
    read, write = os.pipe()
    assert finding.measure((read, write)) is None and states(None) == ["warn"] * 3
    os.close(read)
    os.close(write)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small repository with a stage and a show."""
    for name in ("training", "show"):
        (tmp_path / "engram" / name).mkdir(parents=True)
        (tmp_path / "engram" / name / "train.py").write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "x")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True).stdout


def since(checkout: Path, commit: str | None = "", **packages: str) -> list[str]:
    known = {"packages": packages, "engram": "0.0.1"}
    return stages.since({**known, "git_commit": machine.git_commit(checkout) if commit == "" else commit}, checkout)


def test_a_changed_stage_is_a_change_and_a_changed_show_is_none(checkout: Path) -> None:
    commit = machine.git_commit(checkout)
    (checkout / "engram" / "show" / "train.py").write_text("a = 2\n")
    (checkout / "README.md").write_text("x")
    assert since(checkout, commit) == []
    (checkout / "engram" / "training" / "train.py").write_text("a = 2\n")
    (checkout / "engram" / "new.py").write_text("a = 2\n")
    assert since(checkout, commit) == ["engram/training/train.py: changed since", "engram/new.py: changed since"]
    (checkout / "engram" / "training" / "train.py").write_text("a = 1\n")
    (checkout / "engram" / "new.py").unlink()
    assert since(checkout, commit) == []


def test_what_was_uncommitted_is_compared_with_the_commit_and_an_unknown_one_by_version(checkout: Path) -> None:
    (checkout / "engram" / "training" / "train.py").write_text("a = 2\n")
    assert since(checkout, machine.git_commit(checkout)) == ["engram/training/train.py: changed since"]
    assert since(checkout, "123456789abc+") == since(checkout, None) == [f"engram 0.0.1 then, {__version__} now"]


def test_other_packages_and_outside_a_checkout_another_version_are_changes(tmp_path: Path) -> None:
    (numpy,) = since(tmp_path, None, numpy="0.1")[:1]
    assert numpy.startswith("numpy 0.1 then, ")
    assert since(tmp_path, None) == [f"engram 0.0.1 then, {__version__} now"]
