"""Recordings on disk: what is written is read again, and everything else is refused with its line."""

from __future__ import annotations

import getpass
import json
import platform
import socket
from pathlib import Path

import pytest

from engram.show.demo.stage import Clock, Marker, VirtualClock
from engram.show.video import cast
from engram.support.errors import EngramError

HEADER = {"version": 2, "width": 80, "height": 24}
CAST = cast.Cast(80, 24, 3.5, "title", (cast.Event(0.0, "m", "one"), cast.Event(0.25, "o", "\x1b[1;32m✓\x1b[0m\r\n")))


def text(*events: object, **header: object) -> str:
    return "\n".join(json.dumps(line) for line in ({**HEADER, **header}, *events)) + "\n"


def problems(content: str) -> list[str]:
    with pytest.raises(EngramError) as caught:
        cast.loads(content, "x.cast")
    assert caught.value.where == "x.cast"
    return list(caught.value.problems)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    cast.write(tmp_path / "a.cast", CAST)
    assert cast.read(tmp_path / "a.cast") == CAST
    assert CAST.markers == [Marker(0.0, "one")]
    cast.write(tmp_path / "b.cast", cast.read(tmp_path / "a.cast"))
    assert (tmp_path / "a.cast").read_bytes() == (tmp_path / "b.cast").read_bytes()


def test_the_header_says_nothing_of_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHELL", "USER", "LOGNAME", "HOME", "HOSTNAME", "PWD"):
        monkeypatch.setenv(name, "/home/somebody")
    for module, name in ((getpass, "getuser"), (socket, "gethostname"), (platform, "node")):
        monkeypatch.setattr(module, name, lambda: "somebody")
    written = cast.dumps(CAST)
    header = json.loads(written.split("\n")[0])
    assert set(header) == {"version", "width", "height", "duration", "title", "env", "theme"}
    assert header["env"] == {"TERM": "xterm-256color"}
    assert "somebody" not in written


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "line 1: no asciicast header, which is a JSON object"),
        (text([0, "o", "x"], version=3), "line 1: version 3, not 2; asciinema convert -f asciicast-v2 OLD NEW"),
        (text([0, "o", "x"], width=100000), "line 1: width 100000, not 10 to 300"),
        (text([0, "o", "x"], height="24"), "line 1: height '24', not 3 to 120"),
        (text([0, "o", "x"], title="a\x1bb"), "line 1: title is no text of at most 200 visible characters"),
        (text([2, "o", "x"], duration=1), "line 1: duration 1, not 2.000 (the last event) to 1800 s"),
        (text([2, "o", "x"], duration=float("nan")), "line 1: duration nan, not 2.000 (the last event) to 1800 s"),
        (text(), "line 1: nothing is shown: the recording has no output"),
        (text([0, "o", "x"]) + "[0.5, \"o\"\n", "line 3: not an event [seconds, code, text] in JSON"),
        (text([0, "o", "x"], [1, "o"]), "line 3: not an event [seconds, code, text] in JSON"),
        (text([0, "o", 5]), "line 2: not an event [seconds, code, text] in JSON"),
        (text([1, "o", "x"], [0.5, "o", "y"]), "line 3: time goes back from 1.000 to 0.500 s"),
        (text([float("inf"), "o", "x"]), "line 2: time inf, not 0 to 1800 s"),
        (text([True, "o", "x"]), "line 2: time True, not 0 to 1800 s"),
        (text([0, "i", "x"]), "line 2: event 'i'; known are 'o' and 'm'"),
        (text([0, "m", "x\ny"]), "line 2: a marker's title is no text of at most 200 visible characters"),
    ],
)  # fmt: skip
def test_what_is_broken_is_refused_with_its_line(content: str, expected: str) -> None:
    assert problems(content) == [expected]


def test_all_problems_are_named_at_once() -> None:
    found = problems(text([0, "z", "x"], [1, "o", "\x07"], [0, "o", "y"], width=1))
    assert [line.split(":")[0] for line in found] == ["line 1", "line 2", "line 3"]
    many = problems(text(*([0, "z", ""] for _ in range(50))))
    assert len(many) == 21 and many[-1] == "… and 30 more"


@pytest.mark.parametrize(
    "sequence",
    ["\x1b]52;c;aGk=\x07", "\x1bPq#0\x1b\\", "\x1b[6n", "\x1b[?1049h", "\x1b[>4;2m", "\x1b[2 q", "\x1b[4:3m",
     "\x1bc", "\x07", "\x7f", "\x9b31m", "\ud800", "\x1b[3", "\x1b", "\x1b[" + "1" * 80 + "m",
     "\x1b[38m", "\x1b[1;48m", "\x1b[038m", "\x1b[38;5m", "\x1b[38;5;256m", "\x1b[48;2;1;2m", "\x1b[6m", "\x1b[4J",
     "\x1b[3K"],
)  # fmt: skip
def test_only_text_colours_cursor_moves_and_erasing_are_allowed(sequence: str) -> None:
    (problem,) = problems(text([0, "o", "a" + sequence]))
    assert problem.startswith("line 2: '\\") and problem.endswith(" is not allowed in a recording")


def test_the_sequences_of_our_shows_are_allowed() -> None:
    styles = "\x1b[m\x1b[0;1;2;3;4;9;31;97;104m\x1b[38;5;200;48;2;1;2;3mx\x1b[01;34m\x1b[;7;39m"
    shown = styles + "a\tb\b\r\n\x1b[2J\x1b[K\x1b[3;4H\x1b[5A\x1b[?25l\x1b7\x1b8漢"
    assert cast.loads(text([0, "o", shown]), "x").events[0].data == shown


def test_missing_large_and_undecodable_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngramError, match="cannot read this file: No such file"):
        cast.read(tmp_path / "none.cast")
    (tmp_path / "bytes.cast").write_bytes(b'{"version": 2}\n\xff')
    with pytest.raises(EngramError, match="not UTF-8 at byte 15"):
        cast.read(tmp_path / "bytes.cast")
    cast.write(tmp_path / "a.cast", CAST)
    monkeypatch.setattr(cast, "MAX_BYTES", 10)
    with pytest.raises(EngramError, match="larger than"):
        cast.read(tmp_path / "a.cast")


def test_clocks() -> None:
    virtual = VirtualClock()
    virtual.mark("a")
    virtual.sleep(3600)
    virtual.mark("b")
    assert virtual.now() == 3600 and virtual.markers == [Marker(0, "a"), Marker(3600, "b")]
    real = Clock()
    real.sleep(0.02)
    assert real.now() >= 0.02
