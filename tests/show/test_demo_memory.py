"""What was read of a memory is marked where it is shown, and a fact erased and put back is shown as it was measured."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from documents import edit
from screens import moments
from small_run import CONFIG, Quiet, Run
from test_demo_screens import ends, film, fits

from engram.backends import Loaded
from engram.cli import main
from engram.dataset.rows import ASKED, Example
from engram.evaluation import attribution, compare, erase, evaluate, verify
from engram.memory import table
from engram.memory.facts import Fact
from engram.models.tokenizer import load_encoder
from engram.plan import documents
from engram.show.demo import acts, answers, demo, material
from engram.show.demo import stage as sections
from engram.show.demo.answers import Shown
from engram.show.demo.material import Material
from engram.support.errors import EngramError
from engram.support.files import sha256
from engram.training import teach_memory

REMEMBER = dataclasses.replace(CONFIG, method="memory")


@pytest.fixture(scope="module")
def taught(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with a memory on the small run's data: data, adapters and results."""
    root = tmp_path_factory.mktemp("taught")
    shutil.copytree(run.root / "data", root / "data")
    shutil.copy(run.root / "pack.yaml", root)
    folder, out = root / "adapters" / "mlx-memory", root / "results" / "mlx-memory"
    teach_memory.train("mlx", run.model, REMEMBER, root / "data", folder, out / "training.json", Quiet())
    for stage, adapter in (("baseline", None), ("tuned", folder)):
        evaluate.evaluate("mlx", run.model, adapter, REMEMBER, root / "data", out / f"{stage}.json", lambda _: None)
    compare.compare(out)
    yield root


@pytest.fixture
def spoiled(taught: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled."""
    shutil.copytree(taught, tmp_path / "run")
    return tmp_path / "run"


def load(root: Path) -> Material:
    return material.load(root / "results" / "mlx-memory", root / "data", str(root / "pack.yaml"))


def stored(root: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((root / "results" / "mlx-memory" / f"{name}.json").read_text())
    return document


def printed(root: Path, capsys: pytest.CaptureFixture[str], run: Run | None = None) -> str:
    folder, place = root / "adapters" / "mlx-memory", root / "results" / "mlx-memory"
    demo.perform(
        Loaded("mlx", run.model) if run else None, folder, root / "data", place, patterns=str(root / "pack.yaml")
    )
    return capsys.readouterr().out


def test_a_result_says_of_each_token_which_fact_it_was_read_from(run: Run, taught: Path) -> None:
    reader = attribution.reader(table.opened(taught / "adapters" / "mlx-memory", run.model))
    encoder = load_encoder(run.model)
    assert reader
    rows = stored(taught, "tuned")["answers"]
    assert {"read" in row for row in rows if row["split_kind"] == "recall"} == {True}
    for row in rows:
        found = attribution.facts_of(row)
        if row["split_kind"] == "generalization":
            assert found == []
            continue
        assert set(found) == {Fact(Example(**{n: row[n] for n in ASKED}, answer="").input, row["expected"])}
        assert row["read"]["ends"] == encoder.ends(encoder.plain(row["answer"]))
        assert len(found) == len(row["read"]["ends"]) + 1  # the end token was read too
    assert not any("read" in row for row in stored(taught, "baseline")["answers"])


def test_text_marks_what_was_read_under_its_tokens(taught: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(taught, capsys)
    assert "\x1b" not in out and "taught with a memory" in out
    lines = out.splitlines()
    shown = load(taught)
    for example in shown.rows:
        first = next(i for i, line in enumerate(lines) if example.prompt in line)
        after = next(i for i in range(first, len(lines)) if lines[i].startswith("   before "))
        if example.split_kind in ("generalization", "general"):
            assert not any(mark in "".join(lines[first : after + 4]) for mark in answers.MARKS)
            continue
        text, marks = (line[50:] for line in lines[after + 1 : after + 3])
        legend = next(line for line in lines[after:] if "read from" in line)
        start = text.index(example.answer)
        assert marks.index("◆") == start and set(marks[start:].rstrip()) <= set("◆─ ")
        assert len(marks.rstrip()) == start + len(example.answer)
        assert legend.strip() == f"◆ read from: {example.input} → {example.answer}"


def test_live_marks_and_erasing_are_the_stored_ones(run: Run, taught: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def marks(text: str) -> list[str]:
        told = ("2  erased:", "   again:", "4  put back:")
        return [line.strip() for line in text.splitlines() if line.startswith(("◆ read", *told))]

    live, replayed = printed(taught, capsys, run), printed(taught, capsys)
    assert "made now" in live and "made now" not in replayed
    assert marks(live) == marks(replayed) and len(marks(live)) >= 5


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (60, 24), (200, 60)])
def test_every_screen_fits_with_marks(taught: Path, width: int, height: int) -> None:
    made = film(load(taught), width, height)
    fits(made)
    where = sections.SECTIONS.index(sections.FIGURES)
    wanted = [*sections.SECTIONS[:where], sections.ERASED, *sections.SECTIONS[where:]]
    assert [marker.title for marker in made.markers] == wanted
    shown = {title: "\n".join(rows) for title, rows in ends(made).items()}
    assert "◆ read from:" in shown[sections.RECALL]
    assert "◆" not in shown[sections.GENERALIZATION]
    for head in ("1  asked", "2  erased", "3  asked again", "again", "4  put back"):
        assert head in shown[sections.ERASED]
    assert "facts" in shown[sections.TRAINING] and "LoRA" not in "".join(shown.values())


def test_a_mark_comes_with_its_token_and_stays(taught: Path) -> None:
    answer = stored(taught, "erased")["asked"]["expected"]
    seen = []
    for rows in moments(film(load(taught))):
        if sections.ERASED in rows[0] and rows[6].startswith("  ╭─ 1  asked"):
            seen.append(tuple(row.split("│")[1].strip() for row in rows[7:9] if "│" in row))
    seen = [pair for pair in seen if len(pair) == 2]
    assert seen[0] == ("", "") and seen[-1][0] == answer
    assert all(len(marks) == len(text) and answer.startswith(text) for text, marks in seen)


def test_a_fact_is_erased_from_a_copy_and_put_back(run: Run, taught: Path) -> None:
    folder = taught / "adapters" / "mlx-memory"
    before = {path.name: sha256(path) for path in folder.iterdir()}
    document, baseline = stored(taught, "erased"), stored(taught, "baseline")
    said, question = document["answers"], acts.asked_for(document)
    assert said["taught"] == said["restored"] and said["taught"]["answer"] == question.answer
    assert said["erased"] == said["without"] != said["taught"] and "read" not in said["erased"]
    assert said["erased"]["answer"] == next(a["answer"] for a in baseline["answers"] if a["id"] == question.id)
    assert document["logits"]["same"] and document["rows"]["same"] and document["under"] is None
    assert document["rows"]["erased"] + document["rows"]["left"] == table.settings(folder)["rows"]
    again = erase.measure(Loaded("mlx", run.model), folder, question, REMEMBER.max_new_tokens)
    assert again == {name: document[name] for name in again}
    assert before == {path.name: sha256(path) for path in folder.iterdir()}
    assert question == erase.choose(material.asked(baseline), 0)


def test_what_did_not_come_out_is_said(taught: Path) -> None:
    document = stored(taught, "erased")
    assert all(good for *_, good in acts.sentences(document))
    document["rows"]["same"] = document["logits"]["same"] = False
    document["answers"]["erased"] = document["answers"]["restored"] = {"answer": "x\x1b", "ended": True, "tokens": [7]}
    (_, kept, one), (_, again, two), (_, back, three) = acts.sentences(document)
    assert not (one or two or three)
    assert "are not the same, bit for bit" in kept
    assert "not what the base model answers: " in again and "not the same, bit for bit" in again
    assert "another answer: x\\x1b" in back


def test_under_a_memory_lies_an_adapter(run: Run, taught: Path, tmp_path: Path) -> None:
    """What is left when the fact is gone is the adapter's answer, not the base model's; `why` says so too."""
    config = dataclasses.replace(REMEMBER, method="both")
    under = run.root / "adapter"
    teach_memory.train(
        "mlx", run.model, config, run.root / "data", tmp_path / "both", tmp_path / "x.json", Quiet(), under
    )
    example = erase.choose(material.asked(run.tuned), 0)
    assert example
    found = erase.measure(Loaded("mlx", run.model), tmp_path / "both", example, config.max_new_tokens)
    tuned = next(a["answer"] for a in run.tuned["answers"] if a["id"] == example.id)
    assert found["answers"]["without"]["answer"] == found["answers"]["erased"]["answer"] == tuned
    assert found["logits"]["same"] and found["under"] == run.tuned["adapter"]["sha256"]
    assert "the model with its adapter alone" in acts.sentences(found)[1][1]
    told = attribution.explained("mlx", run.model, tmp_path / "both", example.prompt, CONFIG.max_new_tokens)
    assert told.without == tuned and all(token.fact for token in told.tokens)


def test_without_the_document_the_section_is_left_out(spoiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (spoiled / "results" / "mlx-memory" / erase.NAME).unlink()
    material = load(spoiled)
    assert material.erased is None
    assert [marker.title for marker in film(material).markers] == list(sections.SECTIONS)
    assert "put back" not in printed(spoiled, capsys)


def test_a_document_of_another_memory_or_none_is_refused(spoiled: Path) -> None:
    path = spoiled / "results" / "mlx-memory" / erase.NAME
    document = json.loads(path.read_text())
    documents.write(path, document | {"adapter": {"sha256": "0" * 64}}, "erased")
    with pytest.raises(EngramError, match="another memory") as caught:
        load(spoiled)
    assert caught.value.fix == "make eval METHOD=memory" and "adapter.sha256" in caught.value.problems[0]
    for text in ("{", "[]", path.read_text().replace('"tokens"', '"token"')):
        path.write_text(text)
        with pytest.raises(EngramError):
            load(spoiled)


READ = {"ends": [1, 3], "of": [0, None, 0], "facts": [{"input": "a", "output": "b"}]}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"of": [0, None]}, "2 tokens were read, the answer has 3"),
    ({"ends": [1, 9]}, "do not end where the answer does"),
    ({"ends": [3, 1]}, "do not end where the answer does"),
    ({"of": [0, 1, 0]}, "not each of its 1 facts"),
    ({"of": [None, None, None]}, "not each of its 1 facts"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_what_was_read_must_fit_the_answer(change: dict[str, Any], said: str) -> None:
    row = {"answer": "abc", "ended": True, "read": READ}
    assert attribution.facts_of(row) == [Fact("a", "b"), None, Fact("a", "b")]
    with pytest.raises(EngramError, match=said):
        attribution.facts_of(row | {"read": READ | change})


def test_verify_holds_the_document_against_those_beside_it(spoiled: Path) -> None:
    place = spoiled / "results" / "mlx-memory"
    places = verify.Places(spoiled / "data", spoiled / "adapters")
    for name in ("tuned", "erased"):
        found = verify.verify(place / f"{name}.json", places)
        assert len(found) >= 6 and not any(one.problems or one.skipped for one in found), name
    edit(place / "erased.json", "answers", "without", "answer", to="x")
    edit(place / "tuned.json", "answers", 0, "ended", to=False)
    lines = [line for one in verify.verify(place / "erased.json", places) for line in one.problems]
    assert any(line.startswith("answers.without.answer: 'x'") for line in lines)
    read = next(i for i, a in enumerate(stored(spoiled, "tuned")["answers"]) if "read" in a)
    edit(place / "tuned.json", "answers", read, "read", "of", to=[0])
    lines = [line for one in verify.verify(place / "tuned.json", places) for line in one.problems]
    assert any(".read: 1 tokens were read" in line for line in lines)
    (place / "baseline.json").unlink()
    assert any(one.skipped for one in verify.verify(place / "erased.json", places))


def test_what_cannot_be_erased_is_said_and_leaves_no_old_document(
    run: Run, spoiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = spoiled / "adapters" / "mlx-memory", spoiled / "results" / "mlx-memory" / erase.NAME
    tuned, heard = stored(spoiled, "tuned"), []
    question = acts.asked_for(stored(spoiled, "erased"))
    teach_memory.delete(folder, [question.input])
    erase.write(run.model, folder, tuned, REMEMBER, out, heard.append)
    assert not out.exists() and "does not have the fact" in heard[-1]
    monkeypatch.setattr(erase, "LARGEST", 1)
    erase.write(run.model, folder, tuned, REMEMBER, out, heard.append)
    assert "would be copied" in heard[-1]
    tuned["answers"] = [a for a in tuned["answers"] if a["split_kind"] == "generalization"]
    erase.write(run.model, folder, tuned, REMEMBER, out, heard.append)
    assert "nothing was taught" in heard[-1]


def test_marks_stand_under_cells() -> None:
    one, other, third = (Fact(name, "b") for name in ("one", "other", "third"))
    answer = Shown(
        "for i in 漢字 x", True, steps=(3, 5, 8, 9, 10, 11, 13), read=(one, one, None, one, other, third, one)
    )
    assert answer.under(0, answer.line) == "◆── ◆   ◆●─●─ ◆"  # two of its characters take two cells each
    assert answer.under(0, "for i in") == "◆── ◆   "
    assert answers.legend([answer]) == ["◆ read from: one → b", "● read from: other → b, and 1 more"]
    assert Shown("plain", True, steps=(5,)).under(0, "plain") == "     "
    blank = Shown("a b", True, steps=(1, 2, 3), read=(None, one, None))
    assert blank.under(0, "a b") == " ◆ "
    cut = dataclasses.replace(answer, ended=False)
    assert cut.under(0, cut.line).endswith("◆  ")  # no mark under what says that it goes on
    driving = Shown("x", True, steps=(1,), read=(Fact("a\x1b\nb", "c"),))
    assert answers.legend([driving]) == ["◆ read from: a\\x1b b → c"]


def test_half_a_character_is_no_text_yet(run: Run) -> None:
    encoder = load_encoder(run.model)
    ids = encoder.plain("ab é 漢")
    assert len(ids) > 5
    made = encoder.ends(ids)
    assert made == sorted(made) and made[-1] == len(encoder.text(ids)) and encoder.ends([]) == []
    assert "".join(attribution.pieces(encoder.text(ids), made)) == encoder.text(ids)


def test_why_names_the_fact_of_each_token(taught: Path) -> None:
    document = stored(taught, "erased")
    places = ["--memory", str(taught / "adapters" / "mlx-memory"), "--model", "tiny", "--backend", "mlx"]
    done = CliRunner().invoke(main, ["memory", "why", document["asked"]["prompt"], *places])
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    fact = document["fact"]
    assert f"{fact['input']} → {fact['output']}" in words and "(end)" in words
    count = len(document["answers"]["taught"]["tokens"]) + 1
    assert f"{count} of {count} tokens were read from the memory." in words
    done = CliRunner().invoke(main, ["memory", "why", "Who is Ada?", *places])
    assert "No row of the memory was read" in done.output and "the same" in done.output
    done = CliRunner().invoke(main, ["memory", "why", "x", "--memory", str(taught / "data"), "--model", "tiny"])
    assert done.exit_code == 2 and "no memory here" in done.output


def test_a_memory_without_that_fact_is_another(run: Run, spoiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = spoiled / "adapters" / "mlx-memory"
    known = table.intact(folder)
    left = table.deleted(table.read(folder), [stored(spoiled, "erased")["fact"]["input"]])
    table.write(folder, table.of(known), left)
    with pytest.raises(EngramError, match="the results are of another adapter"):
        printed(spoiled, capsys, run)


def test_a_recording_of_the_method_lies_with_its_results(taught: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    arguments = ["--results", str(taught / "results"), "--data", str(taught / "data"), "--backend", "mlx"]
    arguments += ["--patterns", str(taught / "pack.yaml"), "--out", str(tmp_path), "--png"]
    done = CliRunner().invoke(main, ["record", "--method", "memory", *arguments])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "demo.cast").is_file() and (tmp_path / "demo.png").is_file()
    assert any("◆" in "".join(rows) for rows in moments(film(load(taught))))


@pytest.mark.parametrize(("width", "height"), [(60, 24), (100, 30)])
def test_long_answers_go_on_on_a_screen_of_their_own(taught: Path, width: int, height: int) -> None:
    material = load(taught)
    assert material.erased
    document = json.loads(json.dumps(material.erased))
    document["answers"]["erased"]["answer"] = document["answers"]["without"]["answer"] = "word " * 80
    document["answers"]["erased"]["tokens"] = [1]
    made = film(dataclasses.replace(material, erased=document), width, height)
    fits(made)
    start = next(marker.time for marker in made.markers if marker.title == sections.ERASED)
    later = dataclasses.replace(made, events=tuple(event for event in made.events if event.time >= start))
    seen = {line for rows in moments(later) for line in rows}
    assert any("4  put back" in line for line in seen) and any("token for token" in line for line in seen)
