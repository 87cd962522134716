"""The results as one page that needs nothing else: no network, and no script but its own can run in it."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.show.report import answers, charts, gather, player, sections
from engram.support import console, locks
from engram.support.files import PACKAGE, write_text
from engram.support.text import visible

if TYPE_CHECKING:
    from jinja2 import Environment

ASSETS = PACKAGE / "show" / "report" / "assets"
TEMPLATE = "report.html.j2"
# what could end the element or begin a comment, and the two line ends that are none in JSON
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def make(folder: Path, out: Path, first: str | None = None) -> gather.Found:
    """Write the page of a results folder to `out`; what it shows and what it lacks.

    The same documents give the same bytes. Raises EngramError where there is no run that can be shown.
    """
    with locks.held(out, "engram report"):
        found = gather.gather(folder, first)
        write_text(out, render(found))
    return found


def render(found: gather.Found) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    film = player.film(found.cast) if found.cast else None
    style = "\n" + charts.style() + _asset("report.css") + (film.css() if film else "")
    script = "\n" + _asset("report.js")
    view = _view(found) | {
        "film": film,
        "film_data": Markup(data_block(film.data())) if film else "",
        "style": Markup(style),
        "script": Markup(script),
        "policy": policy(style, script),
    }
    return environment().get_template(TEMPLATE).render(view) + "\n"


def environment() -> Environment:
    """Jinja that escapes every value, after making visible what could steer a screen."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, finalize=shown, undefined=StrictUndefined)
    made.globals |= {
        **{name: getattr(console, name) for name in ("p_value", "number", "bounds", "percent", "interval")},
        **{name: getattr(sections, name) for name in ("points", "signed", "millions", "level", "facts")},
        **{name: getattr(sections, name) for name in ("pair_table", "pair_lines", "seed_table")},
        **{name: getattr(charts, name) for name in ("strip", "scale", "levels")},
        "changed": answers.changed,
    }
    return made


def shown(value: Any) -> Any:
    """A value of the template as it may stand on the page: plain text with its control characters visible."""
    return visible(value) if type(value) is str else value


def data_block(value: Any) -> str:
    """JSON for a `<script type="application/json">`: nothing in it can end the element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(ESCAPES)


def policy(style: str, script: str) -> str:
    """The content security policy: this style and this script by their hashes, and nothing else at all."""
    hashes = {"script-src": script, "style-src": style}
    parts = [f"{name} 'sha256-{_digest(text)}'" for name, text in hashes.items()]
    return "; ".join(["default-src 'none'", *parts, "img-src data:", "base-uri 'none'", "form-action 'none'"])


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _asset(name: str) -> str:
    return (ASSETS / name).read_text("utf-8")


def _view(found: gather.Found) -> dict[str, Any]:
    """What the template shows."""
    listed = answers.rows(found.runs)
    curves = charts.curves(found.runs)
    first = found.first.comparison
    view = {
        "first": first,
        "recall": first["improvement"]["recall"],
        "runs": found.runs,
        "about": sections.ABOUT,
        "answers": listed,
        "states": answers.STATES,
        "marks": answers.MARKS,
        "counts": answers.counts(listed),
        "category_names": sorted({row.category for row in listed}),
        "loss": charts.losses(curves) if curves else None,
        "loss_curves": curves,
        "speed": sections.speed(found.runs),
        "pairs": [pair for pair in found.pairs if not pair["refused"]],
        "parity": sections.parity_section(found.parity) if found.parity else None,
        "seeds": found.seeds,
        "cast_title": found.cast.title if found.cast else "",
        "cast_of": found.cast_of,
        "record": f"{gather.RECORD} BACKEND={first['backend']}",
        "serious": [note for note in found.notes if note.serious],
        "notes": [note for note in found.notes if not note.serious],
    }
    return view | {"sections": _contents(view)}


def _contents(view: dict[str, Any]) -> list[tuple[str, str]]:
    """The sections of the navigation: those that may be missing only where they are there."""
    names = {
        "headline": "Before and after", "recording": "Recording", "answers": "Answers", "categories": "Categories",
        "training": "Training", "retention": "Retention", "speed": "Speed and memory", "pairs": "Backends",
        "parity": "Parity", "seeds": "Seeds", "provenance": "Provenance",
    }  # fmt: skip
    return [(name, title) for name, title in names.items() if name not in ("pairs", "parity", "seeds") or view[name]]
