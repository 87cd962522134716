"""The sections of the show of one run, drawn on a stage."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engram.dataset.phrasing import TRAIN
from engram.show.demo import figures, panels
from engram.show.demo import stage as sections
from engram.show.demo.answers import STAGES, Shown
from engram.show.demo.material import Lesson, Material
from engram.show.demo.stage import BLANK, QUIET, Stage, entries, styled
from engram.support.text import visible

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

BANNER = (
    "▄▀▀▀▄  █▀▀▀▄  ▄▀▀▀█  █▄▀▀▀   ▀▀▀▄  █▀▄▀▄",
    "█▀▀▀▀  █   █   ▀▀▀█  █      ▄▀▀▀█  █ █ █",
    " ▀▀▀▀  ▀   ▀  ▀▀▀▀   ▀       ▀▀▀▀  ▀ ▀ ▀",
)
SUBTITLE = "A small language model is taught patterns that never change, and asked before and after."
BACKENDS = {"mlx": "MLX", "cuda": "Unsloth, CUDA", "cpu": "Unsloth, CPU"}
FACTS, HEADS = 11, 16  # columns before a fact, and before a finding
HOLDS = {"title": 5.0, "taught": 7.0, "training": 3.0, "pair": 1.4, "answers": 2.6, "end": 8.0}


def platform(document: dict[str, Any]) -> str:
    """Backend and device of a document, in words."""
    return visible(f"{BACKENDS[document['backend']]} · {document['device']}")


def report(stage: Stage, done: int, of: int) -> None:
    """The progress of live answers, at the foot."""
    stage.foot(f"both models answer now: {done} of {of}")


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
    parts: list[RenderableType] = [styled((line, "bold cyan")) for line in BANNER] if stage.drawn else []
    grid = entries(FACTS, *((name, QUIET, visible(text)) for name, text in facts.items()))
    parts += [BLANK, styled((SUBTITLE, "")), BLANK, grid]
    stage.section(sections.TITLE)
    above = [BLANK] * ((stage.room - stage.rows(parts)) // 2) if stage.drawn else []
    stage.show([*above, *parts])
    stage.hold(HOLDS["title"])


def taught(stage: Stage, material: Material) -> None:
    """Three patterns, as written in their files."""
    stage.section(sections.TAUGHT)
    missing = [styled((material.missing, "yellow"))] if material.missing else []
    counts = material.counts
    summary = f"{counts['taught']} patterns taught in {len(TRAIN)} wordings each, {counts['held_out']} held out"
    lessons = [_lesson(lesson, cut=stage.drawn) for lesson in material.lessons]
    parts = [*missing, *itertools.chain(*lessons), styled((f"{summary} and never taught.", ""))]
    if stage.rows(parts) + len(lessons) <= stage.room:
        parts = [*missing, *itertools.chain(*([*lesson, styled()] for lesson in lessons)), parts[-1]]
    stage.show(parts)
    stage.hold(HOLDS["taught"])


def training(stage: Stage, material: Material) -> None:
    """The loss curve, drawn from the training log."""
    stage.section(sections.TRAINING)
    log = material.log
    if log is None:
        missing = f"No training log of this adapter in {visible(material.where)}: make train writes one."
        stage.show([styled((missing, "yellow"))])
    else:
        figures.curve(stage, log)
    stage.hold(HOLDS["training"])


def pairs(stage: Stage, material: Material, given: Sequence[tuple[Shown, Shown]], live: bool) -> None:
    """Each question with both answers: taught patterns, then members of rules that were held out."""
    medians, note = [None, None], "Answered now, one prompt at a time; typed at reading speed."
    if not live:
        stored = [material.comparison[name]["latency"] for name in STAGES]
        medians = stored if stage.drawn else medians
        note = f"Stored answers, typed at reading speed. Times: the run's medians, n = {stored[1]['prompts']}."
    blocks = [panels.pair(e, *both, medians) for e, both in zip(material.rows, given, strict=True)]
    for name, splits in sections.ASKED.items():
        answer(stage, name, [block for block in blocks if block.example.split_kind in splits], note)


def answer(stage: Stage, name: str, blocks: Sequence[panels.Block], note: str) -> None:
    """One section of questions, on as many screens as they need, `note` at the foot of each."""
    stage.section(name)
    if not blocks:
        stage.show([styled(("No pattern of this kind is in the test set.", "yellow"))])
        stage.hold(HOLDS["answers"])
    for at, page in enumerate(panels.pages(stage, blocks)):
        if at:
            stage.screen(name)
        stage.foot(note)
        parts: list[RenderableType] = []
        for place, block in enumerate(page):
            if place:
                stage.clock.sleep(HOLDS["pair"])
                parts += [BLANK]
            panels.perform(stage, parts, block)
            parts += panels.finished(stage, block)
            stage.show(parts)
        stage.hold(HOLDS["answers"])


def not_shown(stage: Stage, material: Material) -> None:
    """The run's losses, effects that were not shown, and everything not measured."""
    where, method = visible(material.where), material.method.name
    flag, variable = ("", "") if method == "lora" else (f" --method {method}", f" METHOD={method}")
    ways = {
        "every answer": f"{where}/tuned.json, checked by make verify",
        "these figures": f"engram compare --categories{flag}",
        "your own": f"make demo{variable} PATTERNS=my-patterns",
    }
    parts: list[RenderableType] = []
    for finding in figures.findings(material.comparison):
        style = figures.STYLES.get(finding.head, "bold")
        parts += [entries(HEADS, (finding.head, style, finding.text)), *stage.air]
    stage.section(sections.NOT_SHOWN)
    stage.show([*parts, BLANK, entries(HEADS, *((name, QUIET, text) for name, text in ways.items()))])
    stage.hold(HOLDS["end"])


def _lesson(lesson: Lesson, cut: bool) -> list[Text]:
    """One pattern: its place, its lines in colour, and a question with its answer; each in a line if `cut`."""
    asked = (visible(lesson.question), ""), ("  →  ", "bold cyan"), (visible(lesson.answer), "green")
    lines = [styled((visible(lesson.place), "bold magenta"))]
    for line in [*map(_coloured, lesson.lines), styled(("asked   ", QUIET), *asked)]:
        lines.append(styled(("  ", "")) + line)
    for line in lines:
        line.no_wrap, line.overflow = cut, "ellipsis"
    return lines


def _coloured(line: str) -> Text:
    """A line of YAML: its keys, texts and marks in their own colours, nothing in it obeyed."""
    from rich.text import Text

    text = Text(visible(line))
    text.highlight_regex(r"^\s*(- )?[A-Za-z_]+(?=:)", "blue")
    text.highlight_regex(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'", "green")
    text.highlight_regex(r"\{[A-Za-z_]+\}", "bold yellow")
    text.highlight_regex(r"^\s*-(?= )", "bright_black")
    return text
