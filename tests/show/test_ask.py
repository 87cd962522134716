"""Questions of one's own: asked once, line by line and in a conversation, as boxes that grow and as text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from screens import typed
from small_run import Run

from engram import backends
from engram.cli import main
from engram.models.tokenizer import load_encoder
from engram.show import ask
from engram.show.demo.answers import Speaker
from engram.support import console as show
from engram.support.errors import EngramError


def places(run: Run) -> list[str]:
    return ["--model", "tiny", "--backend", "mlx", "--adapter", str(run.root / "adapter")]


def called(run: Run, *arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["ask", *places(run), *arguments], input=stdin)


def said(out: str, name: str) -> list[str]:
    return [line[ask.HEAD :] for line in out.splitlines() if line.startswith(f"{name:<{ask.HEAD}}")]


def taught(run: Run) -> list[dict[str, Any]]:
    return [a for a in run.tuned["answers"] if a["exact"] and a["split_kind"] == "recall"]


class Echo:
    """Stands in for a model: a token is a character, the answer is given, and every prompt is kept."""

    def __init__(self, answer: str) -> None:
        self.says, self.prompts = answer, list[list[dict[str, str]]]()

    def chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        self.prompts.append(list(messages))
        return [0] * sum(len(message["content"]) for message in messages)

    def text(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    stop_ids: frozenset[int] = frozenset()

    def stream(self, _s: Any, _p: Any, _stop: Any, limit: int, _t: float, _seed: int) -> Iterator[int]:
        yield from list(map(ord, self.says))[:limit]


def pair(one: str, other: str, limit: int = 20, context: int = 100) -> list[ask.Side]:
    settings = ask.Settings(limit, context)
    speakers = [Speaker(echo, echo, None) for echo in (Echo(one), Echo(other))]  # type: ignore[arg-type]
    return [ask.Side(name, one, settings) for name, one in zip(("baseline", "tuned"), speakers, strict=True)]


def on(console: Console, sides: list[ask.Side], question: str = "?") -> str:
    with show.printing_on(console):
        ask.once(sides, question)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def text_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=100)


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=30, color_system=None)


def test_both_models_answer_as_they_were_evaluated(run: Run) -> None:
    row = taught(run)[0]
    before = next(a for a in run.baseline["answers"] if a["id"] == row["id"])
    done = called(run, row["prompt"], "--max-new-tokens", "32")
    assert done.exit_code == 0, done.output
    assert said(done.stdout, "tuned") == [row["answer"]] == [row["expected"]]
    assert said(done.stdout, "baseline")[0].removesuffix(" …") == before["answer"].split("\n")[0]


def test_each_line_of_a_pipe_is_a_question_of_its_own(run: Run) -> None:
    rows = taught(run)[:2]
    lines = "\n\n".join(row["prompt"] for row in rows).encode() + b"\n\xff\xfe odd bytes\n"
    done = called(run, "--only", "tuned", stdin=lines)
    assert done.exit_code == 0, done.output
    assert said(done.stdout, "tuned")[:2] == [row["expected"] for row in rows]
    assert said(done.stdout, "question") == [*(row["prompt"] for row in rows), "\ufffd\ufffd odd bytes"]
    assert not said(done.stdout, "baseline") and "\x1b" not in done.stdout


def test_one_model_alone_needs_no_adapter(run: Run) -> None:
    done = CliRunner().invoke(
        main, ["ask", "Who are you?", "--only", "baseline", *places(run)[:4], "--adapters", "none"]
    )
    assert done.exit_code == 0 and len(said(done.stdout, "baseline")[0].split()) > 5
    assert not said(done.stdout, "tuned") and "adapter" not in done.stdout


def test_drawn_answers_differ_by_seed_and_are_the_same_again(run: Run) -> None:
    drawn = [
        called(run, "Tell me about rain", "--only", "baseline", "--temperature", "1.5", "--seed", seed).stdout
        for seed in ("1", "1", "2")
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(("arguments", "stdin"), [(["  "], None), ([], b""), ([], b"\n \n")])
def test_nothing_asked_is_refused(run: Run, arguments: list[str], stdin: bytes | None) -> None:
    done = called(run, *arguments, "--only", "baseline", stdin=stdin)
    assert isinstance(done.exception, SystemExit) and done.exit_code == 2
    assert "nothing was asked" in done.stderr


def test_streams_read_in_turn_are_the_same_as_alone(run: Run) -> None:
    backend, encoder = backends.get("mlx"), load_encoder(run.model)
    ids = encoder.prompt("Tell me about the weather")
    sessions = [backend.load(run.model), backend.load(run.model, run.root / "adapter")]
    alone = [list(backend.stream(session, ids, encoder.stop_ids, 12)) for session in sessions]
    streams = [backend.stream(session, ids, encoder.stop_ids, 12) for session in sessions]
    together: list[list[int]] = [[], []]
    for _ in range(13):
        for tokens, stream in zip(together, streams, strict=True):
            tokens += [token for token in (next(stream, None),) if token is not None]
    assert together == alone and alone[0] != alone[1]


def test_each_model_keeps_its_own_answers() -> None:
    sides = pair("one", "other")
    on(text_console(), sides, "first")
    on(text_console(), sides, "second")
    for side, answer in zip(sides, ("one", "other"), strict=True):
        last = side.speaker.encoder.prompts[-1]  # type: ignore[attr-defined]
        assert [m["content"] for m in last] == ["first", answer, "second"]
        assert [m["role"] for m in last] == ["user", "assistant", "user"]
    ask.start_over(sides)
    on(text_console(), sides, "third")
    assert len(sides[0].speaker.encoder.prompts[-1]) == 1  # type: ignore[attr-defined]


def asked(side: ask.Side) -> list[str]:
    return [message["content"][0] for message in side.messages if message["role"] == "user"]


def test_the_oldest_turns_are_forgotten_on_both_sides_and_it_is_said() -> None:
    sides = pair("a", "b" * 10, limit=20, context=70)
    for question in ("q" * 10, "r" * 10, "s" * 10):
        out = on(text_console(), sides, question)
    # the longer side: 20 + 20 + 10 are asked, 20 are left for the answer
    assert asked(sides[0]) == ["q", "r", "s"] and "forgotten" not in out
    out = on(text_console(), sides, "t" * 10)
    assert "the oldest turn is forgotten: it does not fit into the model's context of 70 tokens" in out
    assert [asked(side) for side in sides] == [["r", "s", "t"]] * 2
    assert on(text_console(), sides, "u" * 50).count("forgotten") == 3
    with pytest.raises(EngramError, match="the question is 1 tokens too long for the model's context of 70"):
        on(text_console(), sides, "v" * 51)


@pytest.mark.parametrize("text", ["\x1b[2J\x1b]0;owned\x07", "\x9b31m", "a\rb", "\u202egnirts", "[bold red]markup[/]"])
@pytest.mark.parametrize("console", [text_console, terminal])
def test_no_answer_drives_the_terminal(console: Any, text: str) -> None:
    out = on(console(), pair(text, text, limit=40))
    out = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out) if console is terminal else out  # rich's own
    for character in "\x07\x9b\u202e" + ("\x1b" if console is text_console else ""):
        assert character not in out
    assert "\x1b[2J" not in out and "a\rb" not in out
    if text.startswith("[bold"):
        assert text in out


def test_no_line_of_a_text_looks_like_a_name() -> None:
    out = on(text_console(), pair("one\ntuned     fake", ""))
    assert out == "baseline  one\n          tuned     fake\ntuned     (nothing)\n"


def test_half_a_character_waits_and_a_cut_answer_says_so() -> None:
    sides = pair("ab\ufffd", "long" * 9, limit=3)
    states = [sides[0].text for _ in sides[0].answer("?")]
    assert states == ["a", "ab", "ab"] and sides[0].text == "ab\ufffd"
    assert "tuned     lon …\n" in on(text_console(), sides)


def test_boxes_stand_side_by_side_where_there_is_room() -> None:
    wide, narrow = on(terminal(100), pair("left", "right")), on(terminal(70), pair("left", "right"))
    assert any("left" in line and "right" in line for line in wide.splitlines())
    assert not any("left" in line and "right" in line for line in narrow.splitlines())
    for out in (wide, narrow):
        assert "╭─ baseline ─" in out and "╭─ tuned ─" in out and "forgotten" not in out
    assert "╭" not in on(terminal(50), pair("left", "right"))


def test_an_interrupt_stops_the_answer_and_keeps_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for console in (text_console(), terminal()):
        sides = pair("never to its end", "never begun")
        real = sides[0].speaker.encoder.text

        def text(tokens: Sequence[int], real: Any = real) -> str:
            if len(tokens) > 5:
                raise KeyboardInterrupt
            return str(real(tokens))

        monkeypatch.setattr(sides[0].speaker.encoder, "text", text)
        with pytest.raises(KeyboardInterrupt):
            on(console, sides)
        assert isinstance(console.file, io.StringIO)
        assert "never [stopped]" in console.file.getvalue().replace("never  [", "never [")
        assert sides[0].messages[1]["content"] == "never" and len(sides[1].messages) == 2


ASK = ["ask", "--model", "tiny", "--backend", "mlx", "--max-new-tokens", "60"]


def test_a_conversation_on_a_terminal(run: Run) -> None:
    row = taught(run)[0]
    keys = [
        ("> ", row["prompt"].encode() + b"\n"),
        ("╰─", b"/new\n"),
        ("a new conversation", b"\x1b[A\x1b[A\n"),  # the line before the last one again
        ("╰─", b"\x03"),
        ("once more", b"\x03"),
    ]
    out, _ = typed([*ASK, "--adapter", str(run.root / "adapter")], 100, 30, keys, 130)
    assert out.count(" tuned ") >= 2 and out.count(row["expected"]) >= 2
    assert "Traceback" not in out


def test_ctrl_c_stops_a_long_answer_and_ctrl_d_leaves() -> None:
    keys = [("> ", b"Tell me a long story about rain\n"), ("baseline", b"\x03"), ("once more", b"\x04")]
    out, _ = typed(
        ["ask", *ASK[1:5], "--only", "baseline", "--max-new-tokens", "400", "--temperature", "3"], 100, 30, keys, 0
    )
    assert "[stopped]" in out and "Traceback" not in out


def test_no_colour_and_a_dumb_terminal_get_text() -> None:
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        out, _ = typed([*ASK, "--only", "baseline", "Who are you?"], 100, 30, [], 0, **environment)
        assert "\x1b" not in out and "╭" not in out and "baseline  " in out


def test_lines_typed_are_kept_nowhere(tmp_path: Path) -> None:
    secret = b"a secret of ours"
    keys = [("> ", secret + b"\n"), ("╰─", b"/quit\n")]
    typed([*ASK, "--only", "baseline"], 100, 30, keys, 0, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path
