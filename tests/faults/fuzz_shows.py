"""Valid documents with the oddest values: what is printed, drawn and written of them must be readable, or refused."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nasty
from documents import HASH, training, write_run
from hunt import Case, LossError, read, refuse_raw_output
from hypothesis import strategies as st

from engram.dataset.rows import ASKED
from engram.evaluation import compare, compare_runs, pipeline, tables
from engram.plan import documents
from engram.show.demo import demo, material
from engram.show.report import gather, html
from engram.show.video import record
from engram.support import console as show

KINDS = ("baseline", "tuned", "training", "comparison", "seeds")
_BROKEN = re.compile(r"\b(nan|NaN|inf|Infinity|None)\b")  # a figure that is none; no text of the documents has them
_DRAWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@functools.cache
def runs(folder: Path) -> Path:
    """Two comparable runs with logs, and a summary of seeds."""
    made = folder / "sound"
    for backend in ("cpu", "mlx"):
        place = made / backend
        write_run(place, backend, [False, True, False, True, False, True], [True] * 5 + [False])
        documents.write(place / "training.json", training(HASH["b"], backend, (3.0, 2.0, 1.0)), "training")
        compare.compare(place)
    documents.write(made / "seeds" / "mlx.json", pipeline.summarise([made / "mlx"]), "seeds")
    return made


def cases(folder: Path) -> st.SearchStrategy[Case]:
    """A document of a run with other values of the same types."""
    made = runs(folder)
    known = {name: json.loads(_file(made, name).read_bytes()) for name in KINDS}
    return st.sampled_from(KINDS).flatmap(lambda kind: st.builds(Case, st.just(kind), nasty.grown(known[kind])))


def _file(folder: Path, kind: str) -> Path:
    return folder / "seeds" / "mlx.json" if kind == "seeds" else folder / "mlx" / f"{kind}.json"


def check(case: Case, folder: Path) -> Any:
    """Compare anew where raw answers changed, then show everything there is to show."""
    place = folder / "runs"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(runs(folder), place)
    _file(place, case.kind).write_text(json.dumps(case.content))
    if case.kind in compare_runs.STAGES:
        _same_questions(case.content, _file(place, "tuned" if case.kind == "baseline" else "baseline"))
    raw = case.kind not in ("comparison", "seeds")
    if raw and read(lambda: compare.compare(place / "mlx"), "mlx", place=False) is None:
        return None
    return [read(lambda part=part: part(place), place.name, "mlx", place=False) for part in (_terminal, _show, _page)]


def _same_questions(document: dict[str, Any], other: Path) -> None:
    """Let the other stage's document speak of the same model, data and questions."""
    found = json.loads(other.read_bytes())
    found |= {name: document[name] for name in compare.SAME}
    for part, fields in (("answers", (*ASKED, "expected")), ("general", ("id", "kind", "tokens", "prompt"))):
        for row, wanted in zip(found[part], document[part]):
            row |= {name: wanted[name] for name in fields if name in wanted}
    other.write_text(json.dumps(found))


def _terminal(place: Path) -> str:
    """The tables, as through a pipe."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        comparison = compare.stored(place / "mlx")
        tables.comparison(comparison)
        tables.categories(comparison)
        for stage in compare_runs.STAGES:
            tables.result(documents.read(place / "mlx" / f"{stage}.json", "result", ""))
        tables.across(compare_runs.collect(place))
        tables.seeds(documents.read(place / "seeds" / "mlx.json", "seeds", ""))
        demo.perform_platforms(["cpu", "mlx"], place, demo.Manner(0))
    refuse_raw_output(printed.getvalue())
    refuse_broken_figures(printed.getvalue())
    return printed.getvalue()


def _show(place: Path) -> Any:
    """The demo, as a recording; what a recording may not hold is refused by the recorder itself."""
    run = material.read_run(place / "mlx")
    rows = material.choose_rows(material.asked(run.stages["baseline"]), 0)
    counts = {"taught": 6, "held_out": 4}
    shown = material.Material(place / "mlx", run.comparison, run.stages, run.log, counts, rows, [])
    with contextlib.redirect_stdout(io.StringIO()) as printed, show.printing_on(show.make_plain_console(100)):
        demo.plain.introduce(show.make_console(), shown)
    refuse_raw_output(printed.getvalue())
    refuse_broken_figures(printed.getvalue())
    made = record.record(lambda console, clock: demo.play(console, clock, shown))
    for event in made.events:
        refuse_broken_figures(event.data)
    return made


def _page(place: Path) -> str:
    """The page of the results: nothing out of a document is an element or an attribute in it."""
    page = html.render(gather.gather(place))
    if found := _DRAWN.search(page):
        raise LossError(f"U+{ord(found.group()):04X} stands in the page: {page[max(found.start() - 40, 0) :][:80]!r}")
    parser = _Parser()
    parser.feed(page)
    if wrong := [tag for tag in parser.tags if tag.startswith("zz")]:
        raise LossError(f"a text of a document became an element: {wrong[0]}")
    refuse_broken_figures(" ".join(parser.texts))
    return page


class _Parser(HTMLParser):
    """The names of the elements, and the texts outside of style and script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag not in ("style", "script"):
            self.texts += [value or "" for name, value in attrs if name in ("d", "points", "x", "y", "width", "height")]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] not in ("style", "script"):
            self.texts.append(data)


def refuse_broken_figures(text: str) -> None:
    """Raise LossError where something is shown that is no figure."""
    if found := _BROKEN.search(text):
        raise LossError(f"{found.group()!r} is shown: {text[max(found.start() - 60, 0) : found.end() + 20]!r}")
