"""The section in which one fact is erased and put back, and what its document says in sentences."""

from __future__ import annotations

from typing import Any, NamedTuple

from engram.dataset.rows import Example
from engram.memory.facts import Fact
from engram.show.demo import panels
from engram.show.demo import stage as sections
from engram.show.demo.answers import Splitter, is_right, one_line, stored_answer, words
from engram.show.demo.stage import QUIET, Stage, entries
from engram.support.text import normalise, visible

HEADS = 14  # columns before a sentence
ERASING, HOLD = 2.5, 8.0  # seconds
GOOD, BAD = "bold green", "bold red"


class Sentence(NamedTuple):
    """One thing that was measured, under its head, and whether it came out as it should."""

    head: str
    text: str
    good: bool


def sentences(document: dict[str, Any]) -> list[Sentence]:
    """The rows erased, the answer without the fact, and the answer after it was put back."""
    rows, said, logits = (document[name] for name in ("rows", "answers", "logits"))
    base = "the model with its adapter alone" if document["under"] else "the base model"
    others = f"the other {rows['left']:,} are {'' if rows['same'] else 'not '}the same, bit for bit"
    kept = Sentence("2  erased", f"{rows['erased']} rows, from a copy of the memory; {others}", rows["same"])
    same = _like(said["erased"], said["without"])
    without, restored = (one_line(said[name]["answer"]) for name in ("without", "restored"))
    text = f"token for token what {base} answers" if same else f"not what {base} answers: {without}"
    text += (
        f"; the logits after all {logits['tokens']} tokens are {'' if logits['same'] else 'not '}the same, bit for bit"
    )
    back = _like(said["restored"], said["taught"])
    after = "the taught answer again, token for token" if back else f"another answer: {restored}"
    return [
        kept,
        Sentence("   again", text, same and logits["same"]),
        Sentence("4  put back", f"the same {rows['erased']} rows: {after}", back),
    ]


def example(document: dict[str, Any]) -> Example:
    """The question that is asked."""
    asked = dict(document["asked"])
    return Example(answer=asked.pop("expected"), **asked)


def block(document: dict[str, Any], split: Splitter = words) -> panels.Block:
    """The question, answered with the fact and without it."""
    question = example(document)
    boxes = []
    for name, title, stored in (("asked", "1  asked", "taught"), ("again", "3  asked again", "erased")):
        shown = stored_answer(document["answers"][stored], split)
        boxes.append(panels.Box(title, (panels.Said(name, shown, is_right(question, shown)),)))
    return panels.Block(question, (boxes[0], boxes[1]))


def perform(stage: Stage, document: dict[str, Any], split: Splitter = words) -> None:
    """Ask, erase, ask again, put back; sentences that this screen has no room for are on another."""
    stage.section(sections.ERASED)
    asked, half = block(document, split), (panels.DONE, None)
    kept, again, back = (entries(HEADS, (s.head, GOOD if s.good else BAD, s.text)) for s in sentences(document))
    command = f'engram memory delete "{visible(normalise(Fact(**document["fact"]).input))}"'
    told = [*stage.air, kept, *([entries(HEADS, ("   as by", QUIET, command))] if stage.air else [])]
    panels.perform(stage, [], asked, [0])
    stage.show(panels.finished(stage, asked, half))
    stage.clock.sleep(panels.THINK)
    stage.show([*panels.finished(stage, asked, half), *told])
    stage.clock.sleep(ERASING)
    panels.perform(stage, [], asked, [1])
    parts = [*panels.finished(stage, asked), *told]
    for pause, said in ((panels.THINK, again), (ERASING, back)):
        stage.clock.sleep(pause)
        if stage.rows([*parts, *stage.air, said]) > stage.room:
            stage.hold(HOLD)
            stage.screen(sections.ERASED)
            parts = []
        parts += [*stage.air, said]
        stage.show(parts)
    stage.hold(HOLD)


def _like(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["tokens"] == other["tokens"] and one["ended"] == other["ended"])
