"""The sections of the show of one run, drawn on a stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engram.dataset.phrasing import TRAIN
from engram.show.demo import figures, panels
from engram.show.demo import stage as sections
from engram.show.demo.answers import Shown
from engram.show.demo.figures import findings
from engram.show.demo.material import Lesson, Material
from engram.show.demo.stage import MARGIN, QUIET, ROOMY, Stage, styled
from engram.support.text import visible
from engram.training import methods

if TYPE_CHECKING:
    from rich.text import Text

# the name in pixels, two in a row of characters
PIXELS = (
    " ###   ####    ####  # ###   ###   ## #  ",
    "#   #  #   #  #   #  ##         #  # # # ",
    "#####  #   #   ####  #       ####  # # # ",
    "#      #   #      #  #      #   #  # # # ",
    " ####  #   #  ####   #       ####  # # # ",
)
SUBTITLE = "A small language model is taught patterns that never change, and asked before and after."
HALVES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
BACKENDS = {"mlx": "MLX", "cuda": "Unsloth, CUDA", "cpu": "Unsloth, CPU"}
HEADS = 15  # columns before a finding
HOLDS = {"title": 5.0, "taught": 7.0, "training": 3.0, "pair": 1.4, "answers": 2.6, "end": 8.0}


def platform(document: dict[str, Any]) -> str:
    """Backend and device of a document, in words."""
    return visible(f"{BACKENDS[document['backend']]} · {document['device']}")


def report(stage: Stage, done: int, of: int) -> None:
    """The progress of live answers, in the last row."""
    stage.put(stage.last, MARGIN, styled((f"both models answer now: {done} of {of}", QUIET)))


def title(stage: Stage, material: Material, live: bool) -> None:
    """The run in five lines: model, platform, machine, patterns, answers."""
    row = stage.section(sections.TITLE)
    facts = [_fact(name, text) for name, text in _facts(material, live)]
    row += max((stage.last - row - len(_banner()) - len(facts) - 4) // 2, 0)
    row = stage.lines(row, _banner(), 2)
    row = stage.lines(row + 1, [styled((SUBTITLE, ""))], 2)
    stage.lines(row + 1, facts, 2)
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
    s = log["summary"]
    stage.put(row, MARGIN, styled((methods.of(log["recipe"]).describe(log), "")))
    stage.put(row + 1, MARGIN, styled(("loss, nats per answer token", QUIET)))
    row = figures.draw(stage, log, row + 2, 16 if stage.height >= ROOMY else 12)
    speed = (
        f"{s['steps']} steps, {s['rows']:,} rows in {s['train_seconds']:.0f} s: {s['tokens_per_second']:,.0f} tokens/s"
    )
    memory = f"peak memory {s['peak_memory_bytes'] / 2**20:,.0f} MiB"
    stage.lines(row + 1, [styled((speed, "bold"), (f"  ·  {memory}", QUIET))])
    stage.hold(HOLDS["training"])


def pairs(stage: Stage, material: Material, given: Sequence[tuple[Shown, Shown]], live: bool) -> None:
    """Each question with both answers: taught patterns, then held-out ones."""
    medians = [None, None] if live else [material.comparison[stage]["latency"] for stage in ("baseline", "tuned")]
    blocks = [panels.pair(e, *both, medians) for e, both in zip(material.rows, given, strict=True)]
    note = times(material.comparison, live)
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


def times(comparison: dict[str, Any], live: bool) -> str:
    """A note on the times under the answers; a replay has only the stored medians."""
    if live:
        return "Answered now, one prompt at a time; typed at reading speed."
    prompts = comparison["tuned"]["latency"]["prompts"]
    return f"Stored answers, typed at reading speed. Times: the run's medians, n = {prompts}."


def not_shown(stage: Stage, material: Material) -> None:
    """The run's losses, effects that were not shown, and everything not measured."""
    row = stage.section(sections.NOT_SHOWN)
    gap = 1 if stage.height >= ROOMY else 0
    for finding in findings(material.comparison):
        stage.put(row, MARGIN, styled((finding.head, finding.style)))
        row = stage.lines(row, [styled((finding.text, ""))], HEADS) + gap
    where, method = visible(material.where), material.method.name
    flag, variable = ("", "") if method == "lora" else (f" --method {method}", f" METHOD={method}")
    ways = [
        ("every answer", f"{where}/tuned.json, checked by make verify"),
        ("these figures", f"engram compare --show --categories{flag}"),
        ("your own", f"make demo{variable} PATTERNS=my-patterns"),
    ]
    stage.lines(row + 1, [_fact(name, text, HEADS) for name, text in ways])
    stage.hold(HOLDS["end"])


def _banner() -> list[Text]:
    rows = [*PIXELS, " " * len(PIXELS[0])]
    return [
        styled(("".join(HALVES[a == "#", b == "#"] for a, b in zip(rows[i], rows[i + 1])).rstrip(), "bold cyan"))
        for i in range(0, len(rows), 2)
    ]


def _facts(material: Material, live: bool) -> list[tuple[str, str]]:
    """The title's lines."""
    comparison, counts = material.comparison, material.counts
    model, hardware = comparison["model"], comparison["provenance"]["hardware"]
    size = f"{model['parameters'] / 1e6:,.1f} M parameters"
    machine = f"{hardware['system']}, {hardware['processor']}, {hardware['cores']} cores"
    made = comparison["provenance"]["created"][:10]
    how = material.method.words
    source = "made now, one prompt at a time" if live else f"replayed from {material.where}, {made}"
    return [
        ("model", f"{model['name']}, {size}"),
        ("platform", f"{BACKENDS[comparison['backend']]} · {comparison['device']}"),
        ("machine", machine),
        ("patterns", f"{counts['taught']} taught with {how}, {counts['held_out']} held out and never taught"),
        ("answers", source),
    ]


def _lesson(stage: Stage, lesson: Lesson, row: int) -> int:
    """One pattern: its place, its lines in colour, and a question with its answer."""
    stage.put(row, MARGIN, styled((visible(lesson.place), "bold magenta")))
    row += 1
    for line in lesson.lines:
        stage.put(row, MARGIN + 2, _coloured(line))
        row += 1
    asks = styled(
        ("asked   ", QUIET), (visible(lesson.question), ""), ("  →  ", "bold cyan"), (visible(lesson.answer), "green")
    )
    stage.put(row, MARGIN + 2, asks)
    return row + 1


def _coloured(line: str) -> Text:
    """A line of YAML: its keys, texts and marks in their own colours, nothing in it obeyed."""
    from rich.text import Text

    text = Text(visible(line))
    text.highlight_regex(r"^\s*(- )?[A-Za-z_]+(?=:)", "blue")
    text.highlight_regex(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'", "green")
    text.highlight_regex(r"\{[A-Za-z_]+\}", "bold yellow")
    text.highlight_regex(r"^\s*-(?= )", "bright_black")
    return text


def _fact(name: str, text: str, width: int = 10) -> Text:
    return styled((f"{name:<{width}}", QUIET), (visible(text), ""))
