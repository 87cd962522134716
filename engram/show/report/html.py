"""The results as one page that needs nothing else: no network, and no script but its own can run in it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from engram.evaluation import gate, tables
from engram.evaluation.compare import Pairs, paired
from engram.evaluation.compare_runs import Run
from engram.evaluation.scoring import SPLITS
from engram.show.report import charts, gather
from engram.show.video import theme
from engram.show.video.cast import Cast
from engram.support import console, locks
from engram.support.files import sha256_text, write_text
from engram.support.text import visible

if TYPE_CHECKING:
    from engram.show.video.screen import Cell, Row

# what could end the element or begin a comment, and the two line ends that are none in JSON
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
OUTCOMES = {(False, True): "fixed", (True, False): "broken", (True, True): "right", (False, False): "wrong"}
MOST_ANSWERS = 250  # of each run on the page, unless another number is asked for
FPS = 20  # how often the recording is looked at, as the film does
Span = tuple[int, str]  # the number of a style, and text


@dataclass
class Film:
    """A recording's screens: styles (cells without text) and rows are kept once, a frame names its changes.

    `frames` holds (seconds, [(line, number of the row), …]); line and row count from 0. `last` is the last screen,
    which is shown before anything plays.
    """

    width: int
    height: int
    seconds: float
    styles: list[Cell] = field(default_factory=list)
    rows: list[list[Span]] = field(default_factory=list)
    frames: list[tuple[float, list[tuple[int, int]]]] = field(default_factory=list)
    chapters: list[tuple[float, str]] = field(default_factory=list)
    last: list[list[Span]] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """The data that the script reads."""
        return {"seconds": self.seconds, "height": self.height, "rows": self.rows, "frames": self.frames}

    def css(self) -> str:
        """The rules of the styles, `.t0`, `.t1`, …, and letters so large that the lines fill the page's width."""
        # a letter is 0.602 of its size wide, and 2.6 are the margins; smaller than 8.5 pixels is too small to read
        size = f".screen{{font-size:clamp(8.5px,calc(100cqi / {0.602 * self.width + 2.8:.4g}),17px)}}\n"
        rules = []
        for number, style in enumerate(self.styles):
            seen = style.background != theme.BACKGROUND
            background = f";background:#{bytes(style.background).hex()}" if seen else ""
            weight = ";font-weight:700" if style.bold else ""
            rules.append(f".t{number}{{color:#{bytes(style.colour).hex()}{background}{weight}}}\n")
        return size + "".join(rules)


def make(folder: Path, out: Path, first: str | None = None, most: int | None = MOST_ANSWERS) -> gather.Found:
    """Write the page of a results folder to `out`, return its contents; raises EngramError if no run can be shown."""
    with locks.held(out, "engram report"):
        found = gather.gather(folder, first)
        write_text(out, render(found, most))
    return found


def render(found: gather.Found, most: int | None = MOST_ANSWERS) -> str:
    """The page as HTML, with at most so many answers of each run; the same documents give the same bytes."""
    recording = film(found.cast) if found.cast else None
    style = "\n" + charts.asset("chart.css") + charts.asset("report.css") + (recording.css() if recording else "")
    script = "\n" + charts.asset("report.js")
    first = found.first.comparison
    limits = gate.splits(_pairs(found.first, "answers"), gate.LIMITS) + gate.retained(first["retention"], gate.LIMITS)
    view = {
        **vars(found),
        **{name: getattr(console, name) for name in ("p_value", "number", "bounds", "percent", "interval")},
        **{name: getattr(tables, name) for name in ("points", "pair_table", "pair_lines", "seed_table")},
        **{name: getattr(charts, name) for name in ("axes", "level", "levels")},
        "general": general,
        "listed": listed,
        "ABOUT": SPLITS,
        "LIMITS": gate.LIMITS,
        "first": first,
        "said": gate.sentence(gate.document(limits, {})),
        "answers": answers(found.runs, most),
        "asked": sum(len(run.stages["tuned"]["answers"]) for run in found.runs),
        "curves": charts.curves(found.runs),
        "speed": speed(found.runs),
        "film": recording,
        "film_data": Markup(data_block(recording.data())) if recording else "",
        "style": Markup(style),
        "script": Markup(script),
        "policy": policy(style, script),
    }
    return charts.environment().get_template("report.html.j2").render(view) + "\n"


def data_block(value: Any) -> str:
    """JSON for a `<script type="application/json">`: nothing in it can end the element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(ESCAPES)


def policy(style: str, script: str) -> str:
    """The content security policy: this style and this script by their hashes, and nothing else at all."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode() for text in (script, style)]
    allowed = [f"{name}-src 'sha256-{digest}'" for name, digest in zip(("script", "style"), hashes)]
    return "; ".join(["default-src 'none'", *allowed, "img-src data:", "base-uri 'none'", "form-action 'none'"])


def speed(runs: Sequence[Run]) -> tables.Table:
    """Time and memory of training and answering, a column for each run."""
    names = [name for name in tables.ACROSS if not name.startswith((*SPLITS, "general", "perplexity", "KL"))]
    rows = [[name, *(tables.ACROSS[name](run.comparison) for run in runs)] for name in names]
    return tables.Table(["", *(run.name for run in runs)], rows)


def answers(runs: Sequence[Run], most: int | None = None) -> list[dict[str, Any]]:
    """Answers to the test sets, before and after, in order: of each run at most `most`, by a hash of the question."""
    found = []
    for run in runs:
        pairs = _pairs(run, "answers")
        by_hash = sorted((before["id"] for before, _ in pairs), key=lambda name: sha256_text(f"report:{name}"))
        chosen = set(by_hash[:most])
        for before, after in (pair for pair in pairs if pair[0]["id"] in chosen):
            state, category = OUTCOMES[before["exact"], after["exact"]], f"{before['kind']}/{before['category']}"
            found.append({"run": run.name, "before": before, "after": after, "state": state, "category": category})
    return found


def general(run: Run) -> Pairs:
    """The general questions with their answers, as they are in both documents."""
    return [(b, a) for b, a in _pairs(run, "general") if "answer" in b]


def _pairs(run: Run, part: str) -> Pairs:
    return paired(run.stages["baseline"][part], run.stages["tuned"][part])


def listed(value: Any) -> str:
    """Settings as text: `name value, name value`."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {listed(one)}" for key, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def film(cast: Cast) -> Film:
    """The screens of a recording, each where it first differs from the one before."""
    from engram.show.video import screen

    made = Film(cast.width, cast.height, cast.duration)
    made.chapters = [(marker.time, visible(marker.title)) for marker in cast.markers]
    styles = {screen.Cell(""): 0}
    rows: dict[Row, int] = {}
    shown: tuple[Row, ...] = ()
    at = 0
    for picture, count in screen.play(cast, FPS):
        changes = []
        for y, row in enumerate(picture.rows):
            if not shown or row != shown[y]:
                if row not in rows:
                    rows[row] = len(rows)
                    made.rows.append(_spans(row, styles))
                changes.append((y, rows[row]))
        if changes:
            made.frames.append((round(at / FPS, 3), changes))
        shown, at = picture.rows, at + count
    made.styles, made.last = list(styles), [made.rows[rows[row]] for row in shown]
    return made


def _spans(row: Row, styles: dict[Cell, int]) -> list[Span]:
    """Neighbours of one style together; blanks at the end of the line are left out."""
    spans = []
    for style, cells in groupby(row, key=lambda cell: cell._replace(text="")):
        spans.append((styles.setdefault(style, len(styles)), visible("".join(cell.text for cell in cells))))
    if style.background == theme.BACKGROUND:
        number, text = spans.pop()
        spans += [(number, text.rstrip(" "))] if text.strip(" ") else []
    return spans
