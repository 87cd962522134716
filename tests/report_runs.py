"""Results folders for the tests of the page: two runs with logs and a recording, plain or full of hostile texts."""

from __future__ import annotations

import json
from pathlib import Path

from documents import FEW, HASH, MANY, training, write_run

from engram.evaluation.compare import compare
from engram.plan import documents
from engram.show.video import cast
from engram.show.video.cast import MARKER, OUTPUT, Cast, Event

LOSSES = tuple(4.0 / step for step in range(1, 13))
HOSTILE = (
    "<script>window.hacked = 1; alert(1)</script>",
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "</title></style></textarea><svg onload='window.hacked = 1'>",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "left \u202eright\u202c \u2066 isolate",
    "{{ 7 * 7 }} {% raw %} &lt; &amp; \u2028 --> ]]>",
    "https://example.org/ javascript:alert(1)",
)


def two_runs(folder: Path) -> Path:
    """`cpu` and `mlx`, comparable; the second has one answer less right, and a recording."""
    for backend, after in (("cpu", MANY), ("mlx", [False, *MANY[1:]])):
        place = folder / backend
        write_run(place, backend, FEW, after)
        documents.write(place / "training.json", training(HASH["b"], backend, LOSSES), "training")
        compare(place)
    cast.write(folder / "mlx" / "demo.cast", recording("engram · mlx"))
    return folder


def hostile_run(folder: Path) -> Path:
    """`mlx` alone, with a hostile text wherever a pattern or a model can put one."""
    place = folder / "mlx"
    write_run(place, "mlx")
    for stage in ("baseline", "tuned"):
        path = place / f"{stage}.json"
        document = json.loads(path.read_text("utf-8"))
        for row, text in zip(document["answers"], HOSTILE * 3):
            row |= {"category": text, "prompt": text, "expected": text, "answer": f"{stage} {text}"}
        for row, text in zip(document["general"], HOSTILE):
            row |= {"prompt": text, "answer": f"{stage} {text}"} if row["kind"] == "chat" else {}
        document["device"] = HOSTILE[0]
        document["model"]["name"] = HOSTILE[2]
        documents.write(path, document, "result")
    compare(place)
    cast.write(place / "demo.cast", recording("</script><img src=x onerror=alert(1)>"))
    return folder


def recording(text: str) -> Cast:
    """Twelve seconds on three lines: a text, then more in colour, then all erased but the end."""
    events = (
        Event(0.0, MARKER, "start <b>"),
        Event(0.0, OUTPUT, f"\x1b[?25l{text}\r\n"),
        Event(4.0, MARKER, "middle"),
        Event(4.0, OUTPUT, "\x1b[1;32mgreen & bold\x1b[0m plain\r\n"),
        Event(9.0, MARKER, "end"),
        Event(9.0, OUTPUT, "\x1b[2J\x1b[Hthe end"),
    )
    return Cast(60, 4, 12.0, text, events)
