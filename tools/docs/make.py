"""The parts of the documentation that are made, not written: the README's numbers and the command reference."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from engram.evaluation import tables
from engram.evaluation.scoring import SPLITS
from engram.plan import documents
from engram.show.demo import answers, material, panels
from engram.show.demo.figures import findings
from engram.show.video import cast
from engram.support import console as show
from engram.support.files import PACKAGE, write_text
from tools.docs import exports, memory_page, parity_page, performance_page, picture, results_page, script, torture_page
from tools.reference import REFERENCE, RUNS

KEPT = ("perplexity, text", "perplexity, chat", "KL, text", "KL, chat")
ROOT = PACKAGE.parent
CHECKS = ROOT / "results" / "reference"


def main() -> None:
    """Write every made part."""
    for path, text in rendered().items():
        changed = not path.is_file() or path.read_text("utf-8") != text
        write_text(path, text)
        if path.suffix == ".cast" and (changed or not path.with_suffix(".gif").is_file()):
            picture.paint(path)


def rendered() -> dict[Path, str]:
    """Each file that holds made parts, as it should read."""
    readme = ROOT / "README.md"
    parts = {"results": results_table(), "demo": demo_output(), "runtime": runtime_line()}
    gpu = ROOT / "docs" / "gpu.md"
    measuring = ROOT / "docs" / "measuring.md"
    spoken = ROOT / "docs" / "video_script.md"
    measured = {"gpu-check": gpu_check_table(), "container": container_figures()}
    page = ROOT / "docs" / "parity.md"
    reliability = ROOT / "docs" / "reliability.md"
    taken = ROOT / "docs" / "export.md"
    speed = ROOT / "docs" / "performance.md"
    memory = ROOT / "docs" / "memory.md"
    return {
        readme: fill(readme.read_text("utf-8"), parts),
        gpu: fill(gpu.read_text("utf-8"), measured),
        measuring: fill(measuring.read_text("utf-8"), {"replay": replay_table(), "platforms": platforms_table()}),
        taken: fill(taken.read_text("utf-8"), {"export": exports.table()}),
        page: fill(page.read_text("utf-8"), parity_page.parts(CHECKS / "parity.json")),
        reliability: fill(reliability.read_text("utf-8"), torture_page.parts(torture_page.TORTURE)),
        speed: fill(speed.read_text("utf-8"), performance_page.parts(performance_page.BENCH)),
        ROOT / "docs" / "results.md": fill(
            (ROOT / "docs" / "results.md").read_text("utf-8"), results_page.parts(REFERENCE)
        ),
        **results_page.pictures(REFERENCE, ROOT / "docs" / "img"),
        memory: fill(memory.read_text("utf-8"), memory_page.parts(memory_page.METHODS)),
        **memory_page.pictures(memory_page.METHODS, ROOT / "docs" / "img"),
        spoken: fill(spoken.read_text("utf-8"), script_parts()),
        ROOT / "docs" / "img" / "demo.cast": cast.dumps(picture.recorded()),
        ROOT / "docs" / "cli.md": cli_reference(),
    }


def fill(text: str, parts: dict[str, str]) -> str:
    """The text with everything between `<!-- name -->` and `<!-- /name -->` replaced."""
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        if not pattern.search(text):
            raise ValueError(f"no <!-- {name} --> … <!-- /{name} --> in the text")
        text = pattern.sub(lambda m, part=part: m.group(1) + part + m.group(2), text)  # type: ignore[misc]
    return text


def results_table() -> str:
    """What each reference run taught and kept, with n, interval and the test."""
    lines = ["| run | " + " | ".join([*SPLITS, *KEPT]) + " |", "|---" * (1 + len(SPLITS) + len(KEPT)) + "|"]
    for name, wanted in RUNS.items():
        found = _reference(name, "comparison")
        splits = [_split_cell(found, split) for split in SPLITS]
        lines.append("| " + " | ".join([wanted.label, *splits, *_retention_cells(found)]) + " |")
    return "\n".join(lines) + "\n"


def _split_cell(found: dict[str, Any], split: str) -> str:
    before, after, change = found["baseline"][split], found["tuned"][split], found["improvement"][split]
    shares = f"{show.percent(before['exact'])} → **{show.percent(after['exact'])}** {show.interval(after['ci95'])}"
    return f"{shares}, n = {change['n']}, p {show.p_value(change['p_value'])}: {change['verdict']}"


def _retention_cells(found: dict[str, Any]) -> list[str]:
    kept = found["retention"]
    shown = [f"{show.number(kept[k]['before'])} → {show.number(kept[k]['after'])}" for k in ("text", "chat")]
    return [*shown, *(f"{one['nats']:.3f} {show.bounds(one['ci95'])}" for one in kept["kl"].values())]


def replay_table() -> str:
    """Effect of the replay rows: the default recipe with and without them, same seed."""
    lines = ["| recipe | recall | " + " | ".join(KEPT) + " | training | from |", "|---" * (4 + len(KEPT)) + "|"]
    for name in ("no-replay-0", "default-0"):
        found = _reference(name, "comparison")
        recall, trained = found["tuned"]["recall"], found["training"]
        share = f"{show.percent(recall['exact'])} {show.interval(recall['ci95'])}"
        took = f"{trained['tokens']:,} tokens, {trained['train_seconds']:.0f} s"
        cells = [f"replay = {found['recipe']['replay']:g}", share, *_retention_cells(found), took]
        lines.append("| " + " | ".join([*cells, f"`results/reference/tiny/{name}/`"]) + " |")
    return "\n".join(lines) + "\n"


def platforms_table() -> str:
    """The two backends on one machine, as `make compare` prints them."""
    document = documents.read(REFERENCE / "platforms.json", "comparisons", "make reference")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        tables.across(document)
    lines = [line.rstrip() for line in out.getvalue().strip("\n").splitlines()]
    return "From `results/reference/tiny/platforms.json`:\n\n```text\n" + "\n".join(lines) + "\n```\n"


def runtime_line() -> str:
    """What the first reference run took, and on what."""
    document = _reference("default-0", "comparison")
    training, hardware = document["training"], document["provenance"]["hardware"]
    speed = f"{training['steps']} steps, {training['tokens_per_second']:,.0f} tokens/s"
    machine = f"{hardware['cores']} cores of {hardware['processor']}, no GPU"
    source = "`results/reference/tiny/default-0/training.json`"
    return f"Training took {training['train_seconds']:.0f} s ({speed}) on {machine} ({source}).\n"


def demo_output() -> str:
    """The before/after pairs of the first reference run as the demo prints them through a pipe."""
    stored = {stage: _reference("default-0", stage) for stage in ("baseline", "tuned")}
    comparison = _reference("default-0", "comparison")
    rows = material.choose_rows(material.asked(stored["baseline"]), comparison["recipe"]["seed"])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        console = show.make_console()
        for row, (before, after) in zip(rows, answers.replayed(rows, stored), strict=True):
            console.print(panels.written(panels.pair(row, before, after), console.width))
        console.print()
        tables.comparison(comparison)
        for finding in findings(comparison):
            console.print(f"{finding.head}: {finding.text}")
    lines = [line.rstrip() for line in out.getvalue().strip("\n").splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```\n"


def script_parts() -> dict[str, str]:
    """What to say in each section of the show, with the first reference run's numbers."""
    stages = {stage: _reference("default-0", stage) for stage in ("baseline", "tuned")}
    return script.parts(_reference("default-0", "comparison"), stages, _reference("default-0", "training"))


def gpu_check_table() -> str:
    """Every machine's `make gpu-check`: Unsloth beside plain TRL + PEFT."""
    lines = [
        "| machine | model | training, tokens/s: plain, Unsloth | peak memory, MiB: plain, Unsloth | losses differ by "
        "at most, nats | same greedy answers | from |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted([*CHECKS.glob("cuda-*.json"), *CHECKS.glob("cpu-*.json")]):
        document = documents.read(path, "gpu-check", "make gpu-check")
        name = document["gpu"]["name"] if document["gpu"] else document["provenance"]["hardware"]["processor"]
        for part in document["parts"]:
            runs, compared = [part["runs"][run] for run in ("plain", "unsloth")], part["comparison"]
            if compared is None:
                continue
            speed = ", ".join(f"{run['tokens_per_second']:,.0f}" for run in runs)
            memory = ", ".join(f"{run['peak_memory_bytes'] / 2**20:,.0f}" for run in runs)
            equal = f"{show.percent(compared['equal_answers'])} of {compared['prompts']}"
            difference = f"{compared['largest_loss_difference']:.1g}"
            source = f"`results/reference/{path.name}`"
            cells = [f"{name} ({document['backend']})", part["model"], speed, memory, difference, equal, source]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def container_figures() -> str:
    """What `make docker-test` measured: image, build, stages, and on what."""
    found = documents.read(REFERENCE.parent / "docker.json", "container", "make docker-test")
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in found["stage_seconds"].items())
    rows = {
        "image of `engram-cpu`": f"{found['image_gb']:.2f} GB",
        "its build, wheels at hand": f"{found['build_seconds']:.0f} s",
        "rebuild after a change of the code": f"{found['rebuild_seconds']:.0f} s",
        "the stages with `tiny`, start of the container included": stages,
        "recall of what it trained": show.percent(found["recall"]),
        "measured on": f"{found['cores']} cores, Docker {found['engine']}, {found['compose']}, base {found['base']}",
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def cli_reference() -> str:
    """`docs/cli.md`: the help of every command, and of every command of a command."""
    from engram.cli import main as group

    settings = {**group.context_settings, "terminal_width": 100}
    context = click.Context(group, info_name="engram", **settings)
    parts = ["# Commands\n\nMade from `engram --help` by `make docs`.\n", _help(context)]
    parts += [_section(group.commands[name], name, context, settings) for name in sorted(group.commands)]
    return "".join(parts)


def _section(command: click.Command, name: str, parent: click.Context, settings: Mapping[str, Any]) -> str:
    context = click.Context(command, info_name=name, parent=parent, **settings)
    inner: Mapping[str, click.Command] = getattr(command, "commands", {})
    rest = "".join(_section(inner[name], name, context, settings) for name in sorted(inner))
    return f"\n## {context.command_path}\n{_help(context)}{rest}"


def _help(context: click.Context) -> str:
    return f"\n```text\n{context.get_help()}\n```\n"


def _reference(name: str, document: str) -> dict[str, Any]:
    schema = "result" if document in ("baseline", "tuned") else document
    return documents.read(REFERENCE / name / f"{document}.json", schema, "make reference")


if __name__ == "__main__":
    main()
