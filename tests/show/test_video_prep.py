"""The checklist before a video: each line passes and fails for its own reason, and nothing personal is printed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from documents import edit
from small_run import Run

from engram import __version__
from engram.cli import main, show
from engram.dataset.build import write_data
from engram.evaluation import compare
from engram.patterns.loading import find_files, load_patterns
from engram.show.prep import checklist, personal, stages
from engram.show.prep.personal import search
from engram.show.prep.stages import Finding, Situation
from engram.show.video import cast
from engram.show.video.cast import Cast, Event
from engram.support import machine, schema

OWNER = {
    "git's e-mail address": "jane@doe.name", "the home folder": "/home/jdoe", "the git user name": "Jane Doe",
    "the host name": "jdoes-laptop.lan", "the host's short name": "jdoes-laptop", "the user name": "jdoe",
}  # fmt: skip


@pytest.fixture
def house(run: Run, tmp_path: Path) -> Situation:
    """Everything in order: the small run, its recordings and a script."""
    root = tmp_path / "house"
    shutil.copytree(run.root, root)
    (root / "adapters").mkdir()
    shutil.move(root / "adapter", root / "adapters" / "mlx")
    patterns = str(root / "pack.yaml")
    place, script = root / "results" / "mlx", root / "script.md"
    at = Situation("mlx", "tiny", patterns, root / "data", root / "adapters", place, script)
    remade(at)
    return at


def remade(at: Situation) -> None:
    """The recordings of the results as they are."""
    made = cast.of_demo(at.place, at.data, at.patterns)
    cast.write(at.place / "demo.cast", made)
    (at.place / "demo.mp4").touch()
    (at.place / "demo.gif").touch()
    at.script.write_text("".join(f"## {marker.title}\n\n- said\n\n" for marker in made.markers))


@pytest.fixture(autouse=True)
def known_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personal, "owner", lambda folder: OWNER)


Spoil = Callable[[Situation], object]
NUMPY, SIMILARITY = ("provenance", "packages", "numpy"), ("splits", "recall", "similarity")


def look(at: Situation, **environment: str) -> dict[str, Finding]:
    return {one.name: one for one in checklist.examine(at, environment)}


def failing(found: dict[str, Finding]) -> list[str]:
    return [name for name, one in found.items() if one.state == "fail"]


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_where_all_is_well_only_a_person_is_asked_and_nothing_is_written(
    house: Situation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checklist, "measure", lambda: None)
    before = contents(house.data.parent)
    found = look(house)
    looked_at = {"clean environment", "models local", "data", "adapter", "pipeline", "nothing personal"}
    assert {n for n, one in found.items() if one.state == "pass"} == looked_at | {"backup recordings", "talking points"}
    assert {n for n, one in found.items() if one.state == "warn"} == {"terminal size", "font size"}
    assert [n for n, one in found.items() if one.state == "ask"] == list(checklist.QUESTIONS)
    assert not checklist.ready([*found.values()])
    assert checklist.ready(checklist.answered([*found.values()], lambda _: True))
    assert contents(house.data.parent) == before


def mail(at: Situation) -> None:
    path = Path(at.patterns)
    path.write_text(path.read_text().replace('"white"', '"white@snow.net"'))


def edited_data(at: Situation) -> None:
    path = at.data / "train.jsonl"
    path.write_text(path.read_text("utf-8").replace("green", "purple"), "utf-8")


def other_data(at: Situation) -> None:
    files = find_files(at.patterns)
    write_data(load_patterns(files), files, at.data, seed=1)


def other_adapter(at: Situation) -> None:
    path = at.adapters / "mlx" / "adapters.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def other_cast(at: Situation) -> None:
    path = at.place / "demo.cast"
    path.write_text(path.read_text("utf-8").replace("retention", "attention"), "utf-8")


def without_a_section(at: Situation) -> None:
    at.script.write_text(at.script.read_text().replace("## The figures", "## The Figure"))


def changed(file: str, *place: str, to: object) -> Spoil:
    return lambda at: edit(at.place / f"{file}.json", *place, to=to)


def gone(name: str) -> Spoil:
    return lambda at: (at.place / name).unlink()


ANOTHER = changed("tuned", "adapter", "sha256", to="f" * 64)
SPOILED: dict[str, tuple[Spoil, list[str], str]] = {
    "mail": (mail, ["data", "nothing personal", "backup recordings"], "pack.yaml changed"),
    "edited data": (edited_data, ["data"], "train.jsonl"),
    "no data": (lambda at: shutil.rmtree(at.data), ["data"], "the data manifest is missing"),
    "other data": (other_data, ["adapter"], "data.seed: 0, recomputed 1"),
    "other adapter": (other_adapter, ["adapter"], "adapter.sha256"),
    "no adapter": (lambda at: shutil.rmtree(at.adapters), ["adapter"], "not in "),
    "no log": (gone("training.json"), ["adapter", "pipeline"], "no adapter was trained"),
    "other figure": (changed("tuned", *SIMILARITY, to=0.5), ["pipeline"], "recall.similarity: 0.5"),
    "answers of another adapter": (ANOTHER, ["pipeline"], "the answers of another adapter"),
    "no comparison": (gone("comparison.json"), ["pipeline"], "no such result"),
    "other packages": (changed("training", *NUMPY, to="0.1"), ["pipeline"], "numpy 0.1 then"),
    "no film": (gone("demo.mp4"), ["backup recordings"], "demo.mp4"),
    "other cast": (other_cast, ["backup recordings"], "looks different"),
    "broken cast": (lambda at: (at.place / "demo.cast").write_text("{}\n"), ["backup recordings"], "version None"),
    "no script": (lambda at: at.script.unlink(), ["talking points"], "no "),
    "a section left out": (without_a_section, ["talking points"], "## The figures"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_each_spoiled_thing_fails_its_own_line(name: str, house: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, expected, said = SPOILED[name]
    monkeypatch.setattr(checklist, "measure", lambda: None)
    spoil(house)
    found = look(house)
    assert failing(found) == expected
    first = found[expected[0]]
    assert said in "\n".join((first.text, *first.details))
    assert all(found[line].fix for line in expected)


def test_a_model_that_would_be_downloaded_fails(house: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engram.models.hub.cached", lambda hub_id: None)

    def models(name: str) -> Finding:
        return stages.examine(replace(house, model=name))[0]

    found = models("smollm-360m")
    assert (found.state, found.fix) == ("fail", "make verify-model MODEL=smollm-360m")
    edit(house.place / "comparison.json", "model", "weights_sha256", to="0" * 64)
    assert "has other weights" in models("tiny").text
    assert models("auto").state == "fail"  # what the results are of, not what auto finds
    assert models("nowhere/at/all").state == "fail"


def test_a_talking_point_is_a_heading_with_text_under_it(house: Situation) -> None:
    shown = ["What is taught", "The figures", "Training"]
    house.script.write_text("## what is  TAUGHT\nx\n## The figures\n\n## Training\n\n### more\n")
    assert checklist.talking_points(house, shown).details == ("## The figures",)
    assert checklist.talking_points(house, shown[:1]).state == "pass"


def command(at: Situation) -> list[str]:
    places = {"patterns": at.patterns, "data": at.data, "adapters": at.adapters, "results": at.place.parent}
    places |= {"script": at.script, "model": "tiny", "backend": "mlx"}
    return ["video-prep", *(f"--{name}={value}" for name, value in places.items())]


def test_a_spoiled_situation_fails_with_exactly_its_lines(house: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checklist, "measure", lambda: os.terminal_size((60, 20)))
    mail(house)
    for kind in checklist.KINDS:
        (house.place / f"demo.{kind}").unlink()
    done = CliRunner().invoke(main, [*command(house), "--yes", "--json"])
    assert done.exit_code == 2, done.stderr
    document = json.loads(done.stdout)
    schema.check(document, "video-prep", "test")
    lines = {one["name"]: one for one in document["findings"] if one["state"] == "fail"}
    assert list(lines) == ["data", "terminal size", "nothing personal", "backup recordings"]
    assert lines["data"]["text"].endswith("pack.yaml changed")
    assert lines["terminal size"]["text"] == "60 × 20, less than 80 × 24"
    place = f"{house.data.parent.name}/pack.yaml, line 6"
    assert lines["nothing personal"]["details"] == [f"{place}: an e-mail address (w…@…)"]
    assert lines["backup recordings"]["text"].endswith("demo.cast, demo.mp4, demo.gif")
    assert "white@snow" not in done.stdout
    states = {one["name"]: one["state"] for one in document["findings"]}
    assert states["font size"] == "pass"  # by --yes


def test_the_commands_exit_codes_and_its_questions(house: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checklist, "measure", lambda: None)
    runner = CliRunner(env=dict.fromkeys(personal.secrets(os.environ), None))
    open_questions = runner.invoke(main, command(house))
    assert open_questions.exit_code == 2 and "8 pass, 2 warn, 0 fail, 5 ask: not ready" in open_questions.output
    yes = runner.invoke(main, [*command(house), "--yes"])
    assert yes.exit_code == 0 and "13 pass, 2 warn, 0 fail, 0 ask: ready to record" in yes.output, yes.output
    monkeypatch.setattr(show, "interactive", lambda: True)
    asked = runner.invoke(main, command(house), input="y\ny\nn\ny\ny\n")
    assert asked.exit_code == 2 and "✗ fail  microphone" in asked.output and "12 pass" in asked.output
    assert [asked.output.count(f"{question} [y/N]") for question, _ in checklist.QUESTIONS.values()] == [1] * 5
    document = json.loads(runner.invoke(main, [*command(house), "--json"]).output)
    schema.check(document, "video-prep", "test")
    assert document["counts"]["ask"] == 5 and not document["ready"]


def test_what_the_demo_shows_is_searched_and_the_place_named(house: Situation, run: Run) -> None:
    for number in range(len(run.tuned["answers"])):
        answer = f"ask sue{'x' * 80}@corp.com or Jane Doe"
        edit(house.place / "tuned.json", "answers", number, "answer", to=answer)
    compare.compare(house.place)
    found = look(house)["nothing personal"]
    shown = [detail for detail in found.details if detail.startswith("demo, section 'Before and after: taught', ")]
    assert [detail.rpartition(": ")[2] for detail in shown] == ["an e-mail address (x…@…)", "the git user name"]
    assert "corp" not in str(found) and "Jane" not in str(found)


def test_nothing_secret_is_printed(house: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    token, key, secret = "hf_" + "a1B2" * 8, "sk-" + "x9Y8" * 8, "correct-horse-battery"
    path = Path(house.patterns)
    path.write_text(
        path.read_text().replace('"white"', f'"{token} {secret}"').replace('"black"', '"Jane Doe at /home/jdoe"')
        .replace('"red"', f'"jane@doe.name, jdoes-laptop, {key}"').replace('"blue"', '"JDOE"')
    )  # fmt: skip
    named = path.rename(path.parent / "jdoe's patterns.yaml")
    runner = CliRunner(env={"MY_API_KEY": secret})
    for more in ([], ["--json"]):
        done = runner.invoke(main, [*command(replace(house, patterns=str(named))), "--yes", *more])
        assert done.exit_code == 2
        for word in (token, key, secret, "Jane Doe", "jdoe", "JDOE", "doe.name", "jdoes-laptop"):
            assert word not in done.output, word
    found = json.loads(done.output)["findings"]
    details = next(one["details"] for one in found if one["name"] == "nothing personal")
    kinds = [detail.partition(": ")[2] for detail in details]
    assert {"the value of MY_API_KEY", "a Hugging Face token", "an API key", "git's e-mail address"} <= {*kinds}
    assert {"the git user name", "the home folder", "the host's short name", "the user name"} <= {*kinds}
    environment = next(one for one in found if one["name"] == "clean environment")
    assert environment["state"] == "warn" and "MY_API_KEY" in environment["text"]


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
