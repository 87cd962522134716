"""The sections of the show of one run, drawn on a stage."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from engram.dataset.phrasing import TRAIN
from engram.dataset.rows import Example
from engram.memory.facts import Fact
from engram.show.demo import figures, panels
from engram.show.demo import stage as sections
from engram.show.demo.answers import STAGES, Shown, Splitter, is_right, one_line, stored_answer, words
from engram.show.demo.material import Lesson, Material
from engram.show.demo.stage import BLANK, QUIET, Stage, entries, styled
from engram.support.text import normalise, visible

BANNER = (
    "▄▀▀▀▄  █▀▀▀▄  ▄▀▀▀█  █▄▀▀▀   ▀▀▀▄  █▀▄▀▄",
    "█▀▀▀▀  █   █   ▀▀▀█  █      ▄▀▀▀█  █ █ █",
    " ▀▀▀▀  ▀   ▀  ▀▀▀▀   ▀       ▀▀▀▀  ▀ ▀ ▀",
)
SUBTITLE = "A small language model is taught patterns that never change, and asked before and after."
BACKENDS = {"mlx": "MLX", "cuda": "Unsloth, CUDA", "cpu": "Unsloth, CPU"}
FACTS, HEADS, STEPS = 11, 16, 14  # columns before a fact, a finding, and a step of erasing
ERASING = 2.5  # seconds
YAML = {  # its keys, texts and marks in their own colours
    r"^\s*(- )?[A-Za-z_]+(?=:)": "blue",
    r"\"(?:[^\"\\]|\\.)*\"|'[^']*'": "green",
    r"\{[A-Za-z_]+\}": "bold yellow",
    r"^\s*-(?= )": "bright_black",
}
GOOD, BAD = "bold green", "bold red"
NOTES = ("Stored answers, typed at reading speed.", "Answered now, one prompt at a time; typed at reading speed.")
HOLDS = {"title": 5.0, "taught": 7.0, "training": 3.0, "pair": 1.4, "answers": 2.6, "general": 6.0, "end": 8.0}


def platform(document: dict[str, Any]) -> str:
    """Backend and device of a document, in words."""
    return visible(f"{BACKENDS[document['backend']]} · {document['device']}")


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
    banner = [*(styled((line, "bold cyan")) for line in BANNER), styled()] if stage.drawn else []
    grid = entries(FACTS, *((name, QUIET, visible(text)) for name, text in facts.items()))
    parts: list[RenderableType] = [*banner, styled((SUBTITLE, "")), BLANK, grid]
    stage.section(sections.TITLE)
    above = [BLANK] * ((stage.room - len(stage.rows(parts))) // 2) if stage.drawn else []
    stage.show([*above, *parts])
    stage.hold(HOLDS["title"])


def taught(stage: Stage, material: Material) -> None:
    """Three patterns, as written in their files."""
    stage.section(sections.TAUGHT)
    counts = material.counts
    summary = f"{counts['taught']} patterns taught in {len(TRAIN)} wordings each, {counts['held_out']} held out"
    lessons = [_lesson(lesson, cut=stage.drawn) for lesson in material.lessons]
    parts = itertools.chain(*([*lesson, *stage.air] for lesson in lessons))
    stage.show([*parts, styled((f"{summary} and never taught.", ""))])
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
    medians = [material.comparison[name]["latency"] for name in STAGES]
    note = NOTES[live] + ("" if live else f" Times: the run's medians, n = {medians[1]['prompts']}.")
    blocks = [panels.pair(e, *both, medians) for e, both in zip(material.rows, given, strict=True)]
    for name, splits in sections.ASKED.items():
        answer(stage, name, [block for block in blocks if block.example.split_kind in splits], note)


def answer(stage: Stage, name: str, blocks: Sequence[panels.Block], note: str, hold: float = HOLDS["answers"]) -> None:
    """One section of questions, on as many screens as they need, `note` at the foot of each."""
    stage.section(name)
    if not blocks:
        stage.show([styled(("No question of this kind was asked.", "yellow"))])
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
        stage.hold(hold)


def not_shown(stage: Stage, material: Material, given: Sequence[tuple[Shown, Shown]], live: bool) -> None:
    """General questions with both answers; the run's losses, effects that were not shown, what wasn't measured."""
    general = [panels.pair(e, *both) for e, both in zip(material.rows, given, strict=True) if e.split_kind == "general"]
    answer(stage, sections.NOT_SHOWN, general, NOTES[live], HOLDS["general"])
    stage.screen(sections.NOT_SHOWN)
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
    stage.show([*parts, BLANK, entries(HEADS, *((name, QUIET, text) for name, text in ways.items()))])
    stage.hold(HOLDS["end"])


def erased(stage: Stage, document: dict[str, Any], split: Splitter = words) -> None:
    """Ask, erase a fact, ask again, put it back; sentences that this screen has no room for are on another."""
    stage.section(sections.ERASED)
    question, boxes = asked_for(document), []
    for title, name in (("1  asked", "taught"), ("3  asked again", "erased")):
        shown = stored_answer(document["answers"][name], split)
        boxes.append(panels.Box(title, (panels.Said(shown, is_right(question, shown)),)))
    block = panels.Block(question, (boxes[0], boxes[1]))
    half = panels.finished(stage, block, (panels.DONE, None))
    told = (entries(STEPS, (head, GOOD if good else BAD, text)) for head, text, good in sentences(document))
    kept, again, back = ([*stage.air, one] for one in told)
    command = f'engram memory delete "{visible(normalise(Fact(**document["fact"]).input))}"'
    kept += [entries(STEPS, ("   as by", QUIET, command))] if stage.air else []
    panels.perform(stage, [], block, [0])
    stage.show(half)
    stage.clock.sleep(panels.THINK)
    stage.show([*half, *kept])
    stage.clock.sleep(ERASING)
    panels.perform(stage, [], block, [1])
    parts = [*panels.finished(stage, block), *kept]
    for pause, said in ((panels.THINK, again), (ERASING, back)):
        stage.clock.sleep(pause)
        if len(stage.rows([*parts, *said])) > stage.room:
            stage.hold(HOLDS["end"])
            stage.screen(sections.ERASED)
            parts = []
        parts += said
        stage.show(parts)
    stage.hold(HOLDS["end"])


def asked_for(document: dict[str, Any]) -> Example:
    """The question of a document of an erased fact."""
    asked = dict(document["asked"])
    return Example(answer=asked.pop("expected"), **asked)


def sentences(document: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """The rows erased, the answer without the fact, and the one after it was put back: head, text, whether it is so."""
    rows, said, logits = (document[name] for name in ("rows", "answers", "logits"))
    base = "the model with its adapter alone" if document["under"] else "the base model"
    same, back = (
        said[one]["tokens"] == said[other]["tokens"] and said[one]["ended"] == said[other]["ended"]
        for one, other in (("erased", "without"), ("restored", "taught"))
    )
    without, restored = (one_line(said[name]["answer"]) for name in ("without", "restored"))
    others = f"the other {rows['left']:,} are {'' if rows['same'] else 'not '}the same, bit for bit"
    alike = f"token for token what {base} answers" if same else f"not what {base} answers: {without}"
    bits = f"the logits after all {logits['tokens']} tokens are {'' if logits['same'] else 'not '}the same, bit for bit"
    after = "the taught answer again, token for token" if back else f"another answer: {restored}"
    return [
        ("2  erased", f"{rows['erased']} rows, from a copy of the memory; {others}", rows["same"]),
        ("   again", f"{alike}; {bits}", same and logits["same"]),
        ("4  put back", f"the same {rows['erased']} rows: {after}", back),
    ]


def _lesson(lesson: Lesson, cut: bool) -> list[Text]:
    """One pattern: its place, its lines of YAML in colour, and a question with its answer; each in a line if `cut`."""
    lines = [styled((visible(lesson.place), "bold magenta"))]
    for line in lesson.lines:
        text = Text(visible(line))
        for expression, style in YAML.items():
            text.highlight_regex(expression, style)
        lines.append(Text("  ") + text)
    asked = (visible(lesson.question), ""), ("  →  ", "bold cyan"), (visible(lesson.answer), "green")
    lines.append(styled(("  ", ""), ("asked   ", QUIET), *asked))
    for text in lines:
        text.no_wrap, text.overflow = cut, "ellipsis"
    return lines
