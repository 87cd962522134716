"""The page of the results without a browser: its structure, its figures, and nothing in it that could run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from documents import FEW, HASH, edit, write_run
from packs import refusal
from report_runs import HOSTILE, LOSSES, hostile_run, recording, two_runs

from engram.cli import main
from engram.evaluation import compare, gate
from engram.plan import documents
from engram.show.report import charts, gather, html
from engram.show.video import cast
from engram.support.text import visible

VOID = {"meta", "link", "input", "br", "img"}


class Page(HTMLParser):
    """A page's elements: their attributes, and the text of each element by name."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    def text(self) -> str:
        return " ".join(" ".join(data for tag, data in self.texts if tag not in ("script", "style")).split())


def page_of(folder: Path, first: str | None = None) -> tuple[str, Page]:
    html.make(folder, folder / "report.html", first)
    text = (folder / "report.html").read_text("utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_runs(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_run(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("which", ["two", "hostile"])
def test_the_page_is_whole_and_needs_nothing_from_elsewhere(which: str, request: pytest.FixtureRequest) -> None:
    text, page = page_of(request.getfixturevalue(which))
    assert page.open == page.unbalanced == []
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on") and name != "style", (tag, name)
            if name in ("src", "href", "action", "srcset", "xlink:href"):
                assert re.fullmatch(r"#[a-z]+|data:,", value or ""), (tag, name, value)
    assert len(page.all("script")) == 2 and len(page.all("style")) == 1 and not page.all("img")
    assert not re.search(r"@import|url\(", text[text.index("<style>") : text.index("</style>")])
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert max(ids.values()) == 1, ids.most_common(3)
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert set((attributes.get(name) or "").split()) <= set(ids)
        if (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in ids


@pytest.mark.parametrize("which", ["two", "hostile"])
def test_the_policy_allows_this_script_and_style_alone(which: str, request: pytest.FixtureRequest) -> None:
    text, page = page_of(request.getfixturevalue(which))
    (policy,) = (m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
    for directive, opening, closing in (("script", "<script>", "</script>"), ("style", "<style>", "</style>")):
        inner = text.split(opening)[1].split(closing)[0]
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{directive}-src 'sha256-{digest}'" in policy
    head = text[: text.index("<style>")]
    assert head.index("Content-Security-Policy") < head.index("viewport")


def test_hostile_texts_are_shown_and_stand_in_no_markup(hostile: Path) -> None:
    text, page = page_of(hostile)
    assert "hacked" not in text.split("<script>")[-1]
    for bad in HOSTILE:
        assert visible(bad) in "".join(data for tag, data in page.texts if tag in ("bdi", "code"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", text)
    assert "\\x1b[31mred" in text and "\\u202eright" in text
    assert "49" not in "".join(data for tag, data in page.texts if tag == "bdi")
    (block,) = re.findall(r'<script type="application/json" id="film">(.*?)</script>', text)
    assert "</script><img src=x onerror=alert(1)>" in str(json.loads(block)) and "<" not in block


def test_figures_are_those_of_the_documents(two: Path) -> None:
    _, page = page_of(two, "mlx")
    text, document = page.text(), json.loads((two / "mlx" / "comparison.json").read_text("utf-8"))
    assert (
        "20 taught patterns, asked in a phrasing never trained on: 10.0 % right before, 85.0 % after" in text
        and document["tuned"]["recall"]["exact"] == 0.85
    )
    for score in (document["baseline"]["recall"], document["tuned"]["recall"], document["tuned"]["generalization"]):
        low, high = (f"{100 * bound:.1f}" for bound in score["ci95"])
        assert f"{100 * score['exact']:.1f} % [{low}, {high}]" in text
    assert f"Perplexity, text {document['retention']['text']['before']:.3g} →" in text
    for digest in (document["model"]["weights_sha256"], *document["sources"].values()):
        assert digest in text
    assert "Speed and memory" in text and "training, peak memory, MiB 0 0" in text
    assert "cpu against mlx" in text and "recall 20 0 1 +5.0" in text


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (("met", "met"), "Learned: the taught patterns are answered, and nothing got worse beyond its limit."),
        (("not shown", "met"), "Not shown: the evidence doesn't reach the limit for recall."),
        (("not shown", "broken"), "Broke something: retention of text."),
        (("broken", "not shown"), "Broke something: recall."),
    ],
)
def test_a_verdict_is_one_sentence(states: tuple[str, str], said: str) -> None:
    limits = [
        gate.Limit("recall", 10, 0.95, [0.8, 1.0], 0.9, states[0], "worse than before"),
        gate.Limit("retention: text", 10, 0.2, [0.15, 0.3], 0.1, states[1], "nats per token lost"),
    ]
    assert gate.sentence(gate.document(limits, {})) == said


def test_the_verdict_comes_before_any_figure(two: Path) -> None:
    text = page_of(two, "mlx")[1].text()
    said = gate.sentence(gate.of_run(two / "mlx", gate.LIMITS))
    assert said.startswith("Broke something: retention of text") and text.index(said) < text.index("85.0 %")


def test_sections_go_from_facts_to_rules_to_what_was_not_taught(two: Path) -> None:
    _, page = page_of(two)
    assert [one["id"] for one in page.all("section")][:4] == ["headline", "facts", "rules", "retention"]
    assert page.text().count("Hello 3 Hello! ok") == 2  # a general question and both answers, for each run


def test_answers_on_the_page_are_chosen_by_hash_unless_all_are_asked_for(two: Path) -> None:
    found = gather.gather(two)
    chosen = [[row["before"]["id"] for row in html.answers([run], 5)] for run in found.runs]
    assert chosen[0] == chosen[1] and len(chosen[0]) == 5
    text = Page(html.render(found, 5)).text()
    assert "10 of 48 answers, chosen by a hash of the question. make report ARGS=--all shows every one." in text
    assert "Every answer" in Page(html.render(found, None)).text()


def test_every_answer_is_there_with_its_outcome(two: Path) -> None:
    _, page = page_of(two)
    found = Counter(
        (row["data-run"], row["data-split"], row["data-state"]) for row in page.all("tr") if "data-run" in row
    )
    assert found == {
        ("cpu", "recall", "fixed"): 16, ("cpu", "recall", "right"): 2, ("cpu", "recall", "wrong"): 2,
        ("mlx", "recall", "fixed"): 15, ("mlx", "recall", "right"): 2, ("mlx", "recall", "wrong"): 3,
        ("cpu", "generalization", "right"): 1, ("cpu", "generalization", "wrong"): 3,
        ("mlx", "generalization", "right"): 1, ("mlx", "generalization", "wrong"): 3,
    }  # fmt: skip
    assert html.OUTCOMES[True, False] == "broken"


def test_same_results_same_bytes(two: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(two, tmp_path / "copy")
    time.sleep(0.01)
    assert page_of(two)[0] == page_of(copy)[0]


def test_without_results_nothing_is_written_and_the_command_is_named(tmp_path: Path) -> None:
    said = CliRunner().invoke(main, ["report", "--results", str(tmp_path)])
    assert said.exit_code == 2 and "no results to report" in said.output and "make eval compare" in said.output
    assert list(tmp_path.iterdir()) == []


def test_a_leading_run_that_is_not_there_is_named(two: Path) -> None:
    error = refusal(gather.gather, two, "cuda")
    assert (error.what, error.fix) == ("no results of cuda to report", "make eval compare BACKEND=cuda")
    assert gather.gather(two, "mlx").first.name == "mlx"


def test_a_run_of_another_model_is_left_out_and_said(two: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two, tmp_path / "results")
    other = {"name": "big", "revision": None, "weights_sha256": HASH["d"], "parameters": 9}
    for stage in ("baseline", "tuned"):
        edit(folder / "cpu" / f"{stage}.json", "model", to=other)
    compare.compare(folder / "cpu")
    said = CliRunner().invoke(main, ["report", "--results", str(folder), "--first", "mlx"])
    assert said.exit_code == 0, said.output
    text = Page((folder / "report.html").read_text("utf-8")).text()
    assert "Left out run cpu (big), which is not comparable with mlx (tiny)" in text
    assert f"model.weights_sha256: '{HASH['a']}' and '{HASH['d']}'" in text
    assert "make eval compare BACKEND=cpu MODEL=tiny SEED=0" in text
    assert "cpu against" not in text and 'data-run="cpu"' not in text
    assert "not comparable" in " ".join(said.output.split())


def test_a_broken_recording_is_named_with_what_makes_it_anew(two: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two, tmp_path / "results")
    (folder / "mlx" / "demo.cast").write_text("no cast")
    page = page_of(folder)[1]
    assert "recording of mlx not a recording that can be shown line 1: no asciicast header" in page.text()
    assert "make record BACKEND=mlx" in page.text()
    assert not any(one.get("id") == "film" for one in page.all("script"))


def test_what_was_not_made_yet_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "mlx")
    compare.compare(tmp_path / "mlx")
    notes = {note.what: (note.command, note.serious) for note in gather.gather(tmp_path).notes}
    assert notes == {
        "loss curve of mlx": ("make train compare BACKEND=mlx", False),
        "several seeds": ("make seeds", False),
        "recording of the demo": ("make record BACKEND=mlx", False),
    }
    assert "make record BACKEND=mlx" in page_of(tmp_path)[1].text()


def test_a_stale_run_is_left_out(two: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two, tmp_path / "results")
    write_run(folder / "cpu", "cpu", after=FEW)
    text = page_of(folder)[1].text()
    assert "changed since comparison.json was made" in text and "make eval compare BACKEND=cpu" in text


def test_the_film_holds_every_screen_of_the_recording() -> None:
    film = html.film(recording("first"))
    shown: dict[int, str] = {}
    at: list[tuple[float, list[str]]] = []
    for seconds, changes in film.frames:
        shown |= {y: "".join(text for _, text in film.rows[row]) for y, row in changes}
        at.append((seconds, [shown[y] for y in range(film.height)]))
    assert [seconds for seconds, _ in at] == [0.0, 4.0, 9.0]
    assert [line.rstrip() for line in at[1][1]] == ["first", "green & bold plain", "", ""]
    assert [line.rstrip() for line in at[2][1]] == ["the end", "", "", ""]
    assert ["".join(text for _, text in row).rstrip() for row in film.last] == ["the end", "", "", ""]
    assert film.chapters == [(0.0, "start <b>"), (4.0, "middle"), (9.0, "end")]
    styles = {text: film.styles[style] for row in film.rows for style, text in row}
    assert styles["green & bold"].bold and styles["green & bold"].colour != styles["first"].colour


def test_a_long_lively_recording_makes_no_large_page(two: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two, tmp_path / "results")
    header = {"version": 2, "width": 100, "height": 30, "duration": 75.0}
    lines = [json.dumps(header)]
    lines += [json.dumps([round(i / 20, 3), "o", f"\x1b[3{i % 7}m{i * 7919 % 99991:08d}"]) for i in range(1500)]
    (folder / "mlx" / "demo.cast").write_text("\n".join(lines) + "\n")
    assert cast.read(folder / "mlx" / "demo.cast").duration == 75.0
    assert len(page_of(folder)[0].encode()) < 2_000_000


def test_json_in_the_page_cannot_end_its_element() -> None:
    value = {"a": "</script><!--<script>&\u2028\u2029"}
    block = html.data_block(value)
    assert not re.search("[<>&\u2028\u2029]", block) and json.loads(block) == value


def test_charts_say_what_they_show(two: Path) -> None:
    found = gather.gather(two)
    level = charts.level("recall", found.first.comparison)
    assert charts.say(level) == "recall, n = 20: before 10.0 % [2.8, 30.1], after 90.0 % [69.9, 97.2]"
    drawing = ElementTree.fromstring(str(charts.draw("strip", level)))
    assert [dot.get("cx") for dot in drawing.iter("circle")] == ["10%", "90%"]
    curves = charts.curves(found.runs)
    assert curves[0].training == [(i + 1, pytest.approx(loss, rel=1e-5)) for i, loss in enumerate(LOSSES)]
    assert charts.describe(curves[:1]) == "cpu: 4 to 0.333 nats per answer token in 12 steps."
    on = charts.axes(curves)
    assert (on.steps, on.low, on.high) == (12, -1, 1)
    assert (on.y(10), on.y(1), on.y(0.1)) == (0, 0.5, 1)


def test_a_curve_of_zeros_and_one_step_can_be_drawn() -> None:
    curves = [charts.Curve("x", [(1, 0.0)], [])]
    drawn = charts.draw("plot", curves, charts.axes(curves))
    assert "nan" not in drawn and "<polyline" in drawn


def test_charts_are_files_too(two: Path) -> None:
    found = gather.gather(two)
    categories = found.first.comparison["categories"]["recall"]
    for text in (
        charts.levels_file("Recall <&>", charts.levels(categories)),
        charts.losses_file("Loss", charts.curves(found.runs)),
    ):
        root = ElementTree.fromstring(text)
        names = {element.tag.split("}")[1] for element in root}
        assert root.tag.endswith("svg") and {"title", "desc", "style"} <= names and "prefers-color-scheme" in text


def test_seeds_of_this_model_are_shown(two: Path, tmp_path: Path) -> None:
    from engram.evaluation import seeds

    folder = shutil.copytree(two, tmp_path / "results")
    document: dict[str, Any] = seeds.summarise([folder / "mlx"])
    (folder / "seeds").mkdir()
    documents.write(folder / "seeds" / "mlx.json", document, "seeds")
    text = page_of(folder)[1].text()
    assert "mlx, seeds 0" in text and "+75.0 [+55.0, +90.0] over 20 patterns" in text
    edit(folder / "seeds" / "mlx.json", "model", "weights_sha256", to=HASH["d"])
    assert "seeds of mlx of another model" in page_of(folder)[1].text()
