"""Write the generated parts of the documentation, those between `<!-- name -->` markers, and its pictures."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from engram.evaluation import gate, tables
from engram.evaluation.scoring import GENERAL, SPLITS
from engram.plan import documents
from engram.show.demo import answers, material
from engram.show.report import gather, html
from engram.show.video import cast
from engram.support import console as show
from engram.support.files import PACKAGE, write_text
from tools import ablation
from tools.docs import exports, memory_page, parity_page, performance_page, picture, results_page, script, torture_page
from tools.reference import ALL, BITS, IDIOMS, PACKS, REFERENCE, RUNS, SEEDS, SMOLLM2, TEAM, TINY
from tools.reference import ROOT as RUNS_OF

LEAD = results_page.LEAD
RESULTS = {SMOLLM2: [*RUNS[SMOLLM2]], TINY: [LEAD, "seed-0", "cpu-0"]}  # runs that the table shows
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
    """Each file that holds made parts, as it should read.

    Without this user's cache: a model there would have its tokenizer decide how answers are typed.
    """
    with tempfile.TemporaryDirectory() as empty, mock.patch.dict(os.environ, XDG_CACHE_HOME=empty):
        return _rendered()


def _rendered() -> dict[Path, str]:
    readme = ROOT / "README.md"
    parts = {"answers": answers_table(), "figures": figures_table(), "verdict": verdict(), "runtime": runtime_line()}
    gpu = ROOT / "docs" / "gpu.md"
    measuring = ROOT / "docs" / "measuring.md"
    spoken = ROOT / "docs" / "video_script.md"
    container = ROOT / "docs" / "container.md"
    page = ROOT / "docs" / "parity.md"
    reliability = ROOT / "docs" / "reliability.md"
    taken = ROOT / "docs" / "export.md"
    speed = ROOT / "docs" / "performance.md"
    memory = ROOT / "docs" / "memory.md"
    results = ROOT / "docs" / "results.md"
    return {
        readme: fill(readme.read_text("utf-8"), parts),
        gpu: fill(gpu.read_text("utf-8"), {"gpu-check": gpu_check_table()}),
        container: fill(container.read_text("utf-8"), {"container": container_figures()}),
        measuring: fill(measuring.read_text("utf-8"), {"replay": replay_table(), "platforms": platforms_table()}),
        taken: fill(taken.read_text("utf-8"), {"export": exports.table()}),
        page: fill(page.read_text("utf-8"), parity_page.parts(CHECKS / "parity.json") | {"real-model": real_model()}),
        reliability: fill(reliability.read_text("utf-8"), torture_page.parts(torture_page.TORTURE)),
        speed: fill(speed.read_text("utf-8"), performance_page.parts(performance_page.BENCH)),
        results: fill(
            results.read_text("utf-8"),
            {
                **{"results": results_table(), "team": team_table(), "packs": packs_table()},
                **{"ablation": results_page.ablation_table(ablation.PATH)},
                **{"bits": results_page.bits_table(BITS, RUNS_OF / IDIOMS)},
                **results_page.parts(REFERENCE, [*SEEDS]),
            },
        ),
        **results_page.pictures(REFERENCE, ROOT / "docs" / "img"),
        memory: fill(memory.read_text("utf-8"), memory_page.parts(memory_page.METHODS)),
        **memory_page.pictures(memory_page.METHODS, ROOT / "docs" / "img"),
        spoken: fill(spoken.read_text("utf-8"), script_parts()),
        ROOT / "docs" / "img" / "demo.cast": cast.dumps(picture.recorded()),
        ROOT / "docs" / "report.html": sample_report(),
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
    """Each reference run after its untaught model: exact answers by split, a shown gain in bold, and retention."""
    rows, asked = [], [set[int]() for _ in SPLITS]
    for of, names in RESULTS.items():
        for name in names:
            wanted, found = ALL[of][name], _reference(name, "comparison", RUNS_OF / of)
            if name == LEAD:
                before = [show.number(found["retention"][kind]["before"]) for kind in GENERAL]
                shares = [_share(found["baseline"][split]) for split in SPLITS]
                rows.append([f"`{of}`, untaught", *shares, *before, "", ""])
            for counts, split in zip(asked, SPLITS, strict=True):
                counts.add(found["improvement"][split]["n"])
            shares = [_share(found["tuned"][s], found["improvement"][s]["verdict"] == "gain") for s in SPLITS]
            kept = [cell.rpartition(" → ")[2] for cell in _retention_cells(found)]
            rows.append([f"`{of}`, {wanted.label}", *shares, *kept])
    heads = [f"{split}, n = {'/'.join(map(str, sorted(n)))}" for split, n in zip(SPLITS, asked, strict=True)]
    return performance_page.table_of(["run", *heads, *KEPT], rows)


def _share(side: dict[str, Any], bold: bool = False) -> str:
    shown = f"**{show.percent(side['exact'])}**" if bold else show.percent(side["exact"])
    return f"{shown} {show.interval(side['ci95'])}"


def team_table() -> str:
    """The pack of a team under two recipes: right answers, tested in pairs, and how far each model is from before."""
    document = documents.read(RUNS_OF / TEAM / "recipes.json", "comparisons", "make reference")
    (pair,) = document["pairs"]
    sides, rows = [document["runs"][name] for name in pair["runs"]], []
    for split, change in pair["splits"].items():
        if change["n"]:
            shares = [_share(side["tuned"][split]) for side in sides]
            rows.append(
                [split, str(change["n"]), *shares, tables.points(change["exact"]), show.p_value(change["p_value"])]
            )
    for kind in GENERAL:
        rows.append([f"KL, {kind}", "", *(f"{side['retention']['kl'][kind]['nats']:.3f}" for side in sides), "", ""])
    return performance_page.table_of(["", "n", *pair["runs"], "points", "p"], rows)


def packs_table() -> str:
    """The default recipe on packs of several sizes: what was learned, after how many steps, and what ended them."""
    places = [RUNS_OF / of / size for of, runs in PACKS.items() for size in runs]
    rows = []
    for place in (*places, RUNS_OF / TEAM / "default", REFERENCE / LEAD):
        found, log = (_reference("", document, place) for document in ("comparison", "training"))
        taught = found["tuned"]["recall"]["n"]
        shares = [show.percent(found["tuned"][split]["exact"]) for split in ("recall", "rewording")]
        steps = f"{log['summary']['steps']} of {log['kept']['of']}"
        right = show.percent(log["validation"][-1]["recall"])
        cost = f"{log['summary']['train_seconds'] / 60:.1f}"
        rows.append([f"`{log['model']['name']}`", f"{taught:,}", *shares, steps, right, cost])
    heads = ["model", "taught", "recall", "rewording", "steps", "validation rows right", "minutes"]
    return performance_page.table_of(heads, rows)


def _retention_cells(found: dict[str, Any]) -> list[str]:
    kept = found["retention"]
    shown = [f"{show.number(kept[k]['before'])} → {show.number(kept[k]['after'])}" for k in ("text", "chat")]
    return [*shown, *(f"{one['nats']:.3f} {show.bounds(one['ci95'])}" for one in kept["kl"].values())]


def replay_table() -> str:
    """Effect of the replay rows: the default recipe with and without them, same seed."""
    lines = ["| recipe | recall | " + " | ".join(KEPT) + " | training | from |", "|---" * (4 + len(KEPT)) + "|"]
    for name in ("no-replay-0", "default-0"):
        found = _reference(name, "comparison", RUNS_OF / TINY)
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
    return f"From `results/reference/{SMOLLM2}/platforms.json`:\n\n```text\n" + "\n".join(lines) + "\n```\n"


def real_model() -> str:
    """How far the two backends are apart on the real model."""
    source = RUNS_OF / IDIOMS / "platforms.json"
    (pair,) = documents.read(source, "comparisons", "make reference")["pairs"]
    apart, before, after = pair["losses"], pair["same_answers"]["baseline_test"], pair["same_answers"]["tuned_test"]
    return (
        f"Over {apart['steps']} steps the losses differ by {apart['max']:.2g} nats at most, {apart['mean']:.2g} on "
        f"average. Before teaching {show.percent(before['share'])} of {before['n']} answers are the same, afterwards "
        f"{show.percent(after['share'])} {show.interval(after['ci95'])} (`{source.relative_to(ROOT)}`).\n"
    ) + parity_page.real(REFERENCE / "parity.json")


def runtime_line() -> str:
    """What the first reference run took, and on what; and how alike the other backend's model answers."""
    document = _reference(LEAD, "comparison")
    training, hardware = document["training"], document["provenance"]["hardware"]
    speed = f"{training['steps']} steps, {training['tokens_per_second']:,.0f} tokens/s"
    machine = f"{hardware['cores']} cores of {hardware['processor']}, no GPU"
    source = f"`results/reference/{REFERENCE.name}/default-0/training.json`"
    (pair,) = documents.read(REFERENCE / "platforms.json", "comparisons", "make reference")["pairs"]
    same = pair["same_answers"]["tuned_test"]
    return (
        f"Training took {training['train_seconds']:.0f} s ({speed}) on {machine} ({source}). Taught by Unsloth instead "
        f"(`BACKEND=cpu`), the model answers {show.percent(same['share'])} of {same['n']} questions alike.\n"
    )


def answers_table() -> str:
    """Some questions and what the model answered before and after: chosen by hash, not by result, two of each kind."""
    stored = {stage: _reference(LEAD, stage) for stage in ("baseline", "tuned")}
    chosen = material.choose(stored["baseline"], stored["tuned"]["recipe"]["seed"])
    rows = [row for kind in ASKED for row in [one for one in chosen if one.split_kind == kind][:2]]
    lines = ["| | asked | before | after |", "|---" * 4 + "|"]
    for row, (before, after) in zip(rows, answers.replayed(rows, stored), strict=True):
        mark = {True: " ✓", False: f" ✗ ({row.answer})", None: ""}[answers.is_right(row, after)]
        cells = [results_page.code(one, 64) for one in (row.prompt, before.line, after.line)]
        lines.append(f"| {ASKED[row.split_kind]} | {' | '.join(cells)}{mark} |")
    return "\n".join(lines) + "\n"


ASKED = {
    **{"recall": "taught", "rewording": "taught, other words", "control": "random mapping, unseen"},
    "generalization": "rule, unseen member",
    "general": "not taught",
}


def figures_table() -> str:
    """The lead run held against its untaught model with examples in the prompt, and how far it is from the former."""
    found = _reference(LEAD, "comparison")
    lines = ["| | untaught | eight examples in its prompt | taught | taught against examples |", "|---" * 5 + "|"]
    for split, part in found["few_shot"].items():
        sides = (found["baseline"][split], part["before"], found["tuned"][split])
        change = part["change"]
        apart = f"{tables.points(change['exact'])} points, p {show.p_value(change['p_value'])}"
        lines.append("| " + " | ".join([split, *(show.percent(side["exact"]) for side in sides), apart]) + " |")
    far = " and ".join(f"{one['nats']:.3f} on {kind}" for kind, one in found["retention"]["kl"].items())
    kept = f"\nWhat it cost: a mean KL divergence from the untaught model of {far}, nats per token. From "
    return "\n".join(lines) + f"\n{kept}`results/reference/{REFERENCE.name}/{LEAD}/`.\n"


def verdict() -> str:
    """The lead run as `make gate` judges it."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        tables.gate(gate.of_run(REFERENCE / LEAD, gate.LIMITS))
    lines = [line.rstrip() for line in out.getvalue().strip("\n").splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```\n"


def sample_report() -> str:
    """The page of the lead run, as `make report` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(REFERENCE / LEAD, Path(folder) / RUNS[REFERENCE.name][LEAD].backend)
        return html.render(gather.gather(Path(folder)))


def script_parts() -> dict[str, str]:
    """What to say in each section of the show, with the first reference run's numbers."""
    stages = {stage: _reference(LEAD, stage) for stage in ("baseline", "tuned")}
    return script.parts(_reference(LEAD, "comparison"), stages, _reference(LEAD, "training"))


def gpu_check_table() -> str:
    """Every machine's `make gpu-check`: Unsloth beside plain TRL + PEFT."""
    lines = [
        "| machine | model | tokens/s: plain, Unsloth | peak MiB: plain, Unsloth | losses differ, nats | same answers "
        "| from |",
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
    """Size, build and stages of the CPU image, and the machine that `make docker-test` measured them on."""
    found = documents.read(REFERENCE.parent / "docker.json", "container", "make docker-test")
    rows = {
        "image": f"{found['image_gb']:.2f} GB",
        "build, wheels at hand": f"{found['build_seconds']:.0f} s",
        "rebuild after a code change": f"{found['rebuild_seconds']:.0f} s",
        **{f"`{name}`": f"{seconds:.0f} s" for name, seconds in found["stage_seconds"].items()},
        "recall": show.percent(found["recall"]),
        "machine": f"{found['cores']} cores, Docker {found['engine']}",
    }
    return performance_page.table_of(list(rows), [list(rows.values())])


def _reference(name: str, document: str, place: Path = REFERENCE) -> dict[str, Any]:
    schema = "result" if document in ("baseline", "tuned") else document
    return documents.read(place / name / f"{document}.json", schema, "make reference")


if __name__ == "__main__":
    main()
