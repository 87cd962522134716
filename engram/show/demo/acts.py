"""The sections of the show of one run, drawn on a stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engram.dataset.phrasing import TRAIN
from engram.show.demo import figures, panels
from engram.show.demo import stage as sections
from engram.show.demo.answers import STAGES, Shown
from engram.show.demo.figures import findings
from engram.show.demo.material import Lesson, Material
from engram.show.demo.stage import MARGIN, QUIET, ROOMY, Stage, styled
from engram.support import console
from engram.support.text import visible
from engram.training import methods

if TYPE_CHECKING:
    from rich.text import Text

BANNER = (
    "▄▀▀▀▄  █▀▀▀▄  ▄▀▀▀█  █▄▀▀▀   ▀▀▀▄  █▀▄▀▄",
    "█▀▀▀▀  █   █   ▀▀▀█  █      ▄▀▀▀█  █ █ █",
    " ▀▀▀▀  ▀   ▀  ▀▀▀▀   ▀       ▀▀▀▀  ▀ ▀ ▀",
)
SUBTITLE = "A small language model is taught patterns that never change, and asked before and after."
BACKENDS = {"mlx": "MLX", "cuda": "Unsloth, CUDA", "cpu": "Unsloth, CPU"}
FACTS, HEADS = 10, 15  # columns before a fact, and before a finding
HOLDS = {"title": 5.0, "taught": 7.0, "training": 3.0, "pair": 1.4, "answers": 2.6, "end": 8.0}


def platform(document: dict[str, Any]) -> str:
    """Backend and device of a document, in words."""
    return visible(f"{BACKENDS[document['backend']]} · {document['device']}")


def report(stage: Stage, done: int, of: int) -> None:
    """The progress of live answers, in the last row."""
    stage.put(stage.last, MARGIN, styled((f"both models answer now: {done} of {of}", QUIET)))


def title(stage: Stage, material: Material, live: bool) -> None:
    """The run in five lines: model, platform, machine, patterns, answers."""
    comparison, counts = material.comparison, material.counts
    model, hardware = comparison["model"], comparison["provenance"]["hardware"]
    replay = f"replayed from {material.where}, {comparison['provenance']['created'][:10]}"
    facts = {
        "model": f"{model['name']}, {model['parameters'] / 1e6:,.1f} M parameters",
        "platform": platform(comparison),
        "machine": f"{hardware['system']}, {hardware['processor']}, {hardware['cores']} cores",
        "patterns": f"{counts['taught']} taught with {material.method.words}, "
        f"{counts['held_out']} held out and never taught",
        "answers": "made now, one prompt at a time" if live else replay,
    }
    row = stage.section(sections.TITLE)
    row += max((stage.last - row - len(BANNER) - len(facts) - 4) // 2, 0)
    for at, line in enumerate(BANNER):
        stage.put(row + at, MARGIN, styled((line, "bold cyan")))
    row = stage.lines(row + len(BANNER) + 1, [styled((SUBTITLE, ""))]) + 1
    for name, text in facts.items():
        row = stage.entry(row, name, visible(text), QUIET, FACTS)
    stage.hold(HOLDS["title"])


def taught(stage: Stage, material: Material) -> None:
    """Three patterns, as written in their files."""
    row = stage.section(sections.TAUGHT)
    if material.missing:
        row = stage.lines(row, [styled((material.missing, "yellow"))])
    needed = sum(len(lesson.lines) + 3 for lesson in material.lessons) + 2
    gap = 1 if row + needed <= stage.last else 0
    for lesson in material.lessons:
        row = _lesson(stage, lesson, row) + gap
    counts = material.counts
    taught_line = f"{counts['taught']} patterns taught in {len(TRAIN)} wordings each"
    stage.lines(row + 1 - gap, [styled((f"{taught_line}, {counts['held_out']} held out and never taught.", ""))])
    stage.hold(HOLDS["taught"])


def training(stage: Stage, material: Material) -> None:
    """The loss curve, drawn from the training log."""
    row = stage.section(sections.TRAINING)
    log = material.log
    if log is None:
        missing = f"No training log of this adapter in {visible(material.where)}: make train writes one."
        stage.lines(row, [styled((missing, "yellow"))])
        stage.hold(HOLDS["training"])
        return
    row = stage.lines(row, [styled((methods.of(log["recipe"]).describe(log), ""))])
    if not stage.drawn:
        console.training(log)
        return
    s = log["summary"]
    stage.put(row, MARGIN, styled(("loss, nats per answer token", QUIET)))
    row = figures.draw(stage, log, row + 1, 16 if stage.height >= ROOMY else 12)
    speed = (
        f"{s['steps']} steps, {s['rows']:,} rows in {s['train_seconds']:.0f} s: {s['tokens_per_second']:,.0f} tokens/s"
    )
    memory = f"peak memory {s['peak_memory_bytes'] / 2**20:,.0f} MiB"
    stage.lines(row + 1, [styled((speed, "bold"), (f"  ·  {memory}", QUIET))])
    stage.hold(HOLDS["training"])


def pairs(stage: Stage, material: Material, given: Sequence[tuple[Shown, Shown]], live: bool) -> None:
    """Each question with both answers: taught patterns, then held-out ones."""
    medians, note = [None, None], "Answered now, one prompt at a time; typed at reading speed."
    if not live:
        stored = [material.comparison[name]["latency"] for name in STAGES]
        medians = stored if stage.drawn else medians
        note = f"Stored answers, typed at reading speed. Times: the run's medians, n = {stored[1]['prompts']}."
    blocks = [panels.pair(e, *both, medians) for e, both in zip(material.rows, given, strict=True)]
    for split, name in (("recall", sections.RECALL), ("generalization", sections.GENERALIZATION)):
        answer(stage, name, [block for block in blocks if block.example.split_kind == split], note)


def answer(stage: Stage, name: str, blocks: Sequence[panels.Block], note: str) -> None:
    """One section of questions, on as many screens as they need, `note` at the foot of each."""
    row = stage.section(name)
    if not blocks:
        stage.lines(row, [styled(("No pattern of this kind is in the test set.", "yellow"))])
        stage.hold(HOLDS["answers"])
    for at, page in enumerate(panels.pages(stage, blocks, stage.last - row - 1)):
        row = stage.screen(name) if at else row
        stage.put(stage.last, MARGIN, styled((note, QUIET)))
        for place, block in enumerate(page):
            if place:
                stage.clock.sleep(HOLDS["pair"])
            row = panels.perform(stage, block, row) + 1
        stage.hold(HOLDS["answers"])


def not_shown(stage: Stage, material: Material) -> None:
    """The run's losses, effects that were not shown, and everything not measured."""
    row = stage.section(sections.NOT_SHOWN)
    gap = 1 if stage.height >= ROOMY else 0
    for finding in findings(material.comparison):
        row = stage.entry(row, finding.head, finding.text, finding.style, HEADS) + gap
    where, method = visible(material.where), material.method.name
    flag, variable = ("", "") if method == "lora" else (f" --method {method}", f" METHOD={method}")
    row += 1
    for name, text in (
        ("every answer", f"{where}/tuned.json, checked by make verify"),
        ("these figures", f"engram compare --show --categories{flag}"),
        ("your own", f"make demo{variable} PATTERNS=my-patterns"),
    ):
        row = stage.entry(row, name, text, QUIET, HEADS)
    stage.hold(HOLDS["end"])


def _lesson(stage: Stage, lesson: Lesson, row: int) -> int:
    """One pattern: its place, its lines in colour, and a question with its answer."""
    row = stage.lines(row, [styled((visible(lesson.place), "bold magenta"))])
    asked = (visible(lesson.question), ""), ("  →  ", "bold cyan"), (visible(lesson.answer), "green")
    lines = [*map(_coloured, lesson.lines), styled(("asked   ", QUIET), *asked)]
    for line in lines if stage.drawn else []:
        line.truncate(stage.inner - 2, overflow="ellipsis")
    return stage.lines(row, lines, 2)


def _coloured(line: str) -> Text:
    """A line of YAML: its keys, texts and marks in their own colours, nothing in it obeyed."""
    from rich.text import Text

    text = Text(visible(line))
    text.highlight_regex(r"^\s*(- )?[A-Za-z_]+(?=:)", "blue")
    text.highlight_regex(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'", "green")
    text.highlight_regex(r"\{[A-Za-z_]+\}", "bold yellow")
    text.highlight_regex(r"^\s*-(?= )", "bright_black")
    return text
