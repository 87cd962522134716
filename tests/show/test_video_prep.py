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

from engram.cli import main
from engram.dataset.build import write_data
from engram.evaluation import compare
from engram.patterns.loading import find_files, load_patterns
from engram.show.prep import checklist, finding, personal, stages
from engram.show.prep.finding import Finding, Situation
from engram.show.video import cast
from engram.show.video.cast import caption, record, replay
from engram.support import schema

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
    at = Situation("mlx", "tiny", patterns, root / "data", root / "adapters", root / "results", root / "script.md")
    remade(at)
    return at


def remade(at: Situation) -> None:
    """The recordings of the results as they are."""
    made = record(replay("mlx", at.data, at.results, at.patterns), title=caption("mlx", at.results))
    cast.write(at.place / "demo.cast", made)
    (at.place / "demo.mp4").touch()
    (at.place / "demo.gif").touch()
    at.script.write_text("".join(f"## {marker.title}\n\n- said\n\n" for marker in made.markers))


@pytest.fixture(autouse=True)
def known_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personal, "owner", lambda folder: OWNER)


Spoil = Callable[[Situation], object]
NUMPY = ("provenance", "packages", "numpy")


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
    "other figure": (
        changed("tuned", "splits", "recall", "similarity", to=0.5),
        ["pipeline"],
        "recall.similarity: 0.5",
    ),
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
    found = stages.models(replace(house, model="smollm-360m"))
    assert (found.state, found.fix) == ("fail", "make verify-model MODEL=smollm-360m")
    edit(house.place / "comparison.json", "model", "weights_sha256", to="0" * 64)
    assert "has other weights" in stages.models(house).text
    assert stages.models(replace(house, model="auto")).state == "fail"  # what the results are of, not what auto finds
    assert stages.models(replace(house, model="nowhere/at/all")).state == "fail"


def test_a_talking_point_is_a_heading_with_text_under_it() -> None:
    shown = ["What is taught", "The figures", "Training"]
    script = "## what is  TAUGHT\nx\n## The figures\n\n## Training\n\n### more\n"
    assert checklist.lacking(shown, script) == ["The figures"]
    assert checklist.lacking([], "") == []


def command(at: Situation) -> list[str]:
    places = {"patterns": at.patterns, "data": at.data, "adapters": at.adapters, "results": at.results}
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
    monkeypatch.setattr(finding, "interactive", lambda: True)
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
