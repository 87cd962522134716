"""What a memory promises, measured: exactness, editing, the layer, five thousand facts, and a table of any size."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engram import backends
from engram.dataset.build import read_split, write_data
from engram.memory import facts, table
from engram.memory.facts import Fact
from engram.models.model import Model
from engram.models.tokenizer import load_encoder
from engram.patterns.loading import find_files, load_patterns
from engram.plan import config
from engram.training import teach_memory
from engram.training.processes import Silent
from tools.methods import probes, table_size
from tools.methods.campaign import Note, share, when

PROMPTS = 10_000
PASSES = 12
SIZES = (10**3, 10**4, 10**5, 10**6, 10**7)


def taught_table(backend: str, model: Model, folder: Path, wanted: Sequence[Fact], **settings: Any) -> float:
    """Teach a table of these facts; seconds, loading the model not included."""
    known = dataclasses.replace(config.load_config("default", model.parameters), method="memory", **settings)
    at = teach_memory.set_up(backend, model, known, None)
    started = time.perf_counter()
    teach_memory.insert(at, folder, wanted, known, Silent())
    return time.perf_counter() - started


def patterns(folder: Path) -> list[Fact]:
    """The taught patterns of seed 0."""
    files = find_files()
    write_data(load_patterns(files), files, folder, 0)
    return facts.taught(read_split(folder, "train"))


def exact(_: str, model: Model, note: Note) -> dict[str, Any]:
    """General prompts without a taught address, and near misses: whether logits and answers are those of the base."""
    with tempfile.TemporaryDirectory() as work:
        known = patterns(Path(work) / "data")
        prompts = probes.general_prompts(PROMPTS, 1, [fact.input for fact in known])
        near = [probes.UNSEEN.replace("{input}", text) for text in probes.near_misses([f.input for f in known], 0)]
        found: dict[str, Any] = {}
        answers = {}
        taught_table("mlx", model, Path(work) / "table", known)
        for name in ("mlx", "cpu"):
            found[name] = _kept(name, model, Path(work) / "table", prompts, near)
            answers[name] = _answers(name, model, Path(work) / "table", known)
            note(f"{name}: {found[name]}")
    equal = share([a == b for a, b in zip(answers["mlx"], answers["cpu"])])
    return {"backends": found, "same_answers": equal, **when()}


def _kept(name: str, model: Model, folder: Path, prompts: Sequence[str], near: Sequence[str]) -> dict[str, Any]:
    backend, encoder = backends.get(name), load_encoder(model)
    asked = encoder.prompts(list(prompts))
    base, with_table = backend.load(model), backend.load(model, folder)
    same = [a == b for a, b in zip(backend.digests(base, asked), backend.digests(with_table, asked), strict=True)]
    close = encoder.prompts(list(near))
    sides = [backend.generate(one, close, encoder.stop_ids, 32) for one in (base, with_table)]
    hits = [a.tokens == b.tokens for a, b in zip(*sides, strict=True)]
    return {"logits_identical": share(same), "near_misses": share(hits)}


def _answers(name: str, model: Model, folder: Path, known: Sequence[Fact]) -> list[list[int]]:
    backend, encoder = backends.get(name), load_encoder(model)
    asked = encoder.prompts([probes.UNSEEN.replace("{input}", fact.input) for fact in known])
    made = backend.generate(backend.load(model, folder), asked, encoder.stop_ids, 32)
    return [answer.tokens for answer in made]


def editing(backend: str, model: Model, note: Note) -> dict[str, Any]:
    """One fact put into a table of the patterns and taken out again: seconds, other rows, logits and bytes after it."""
    new = Fact("The password of the lighthouse is", "seven herrings")
    with tempfile.TemporaryDirectory() as work:
        folder, encoder = Path(work) / "table", load_encoder(model)
        taught_table(backend, model, folder, patterns(Path(work) / "data"))
        before = table.read(folder)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        seconds = taught_table(backend, model, folder, [new])
        after = table.read(folder)
        untouched = before.rows.tobytes() == after.rows[: len(before.rows)].tobytes()
        asked = encoder.prompts([words.replace("{input}", new.input) for words in ("{input}", probes.UNSEEN)])
        module = backends.get(backend)
        base = module.digests(module.load(model), asked)
        taught_now = module.digests(module.load(model, folder), asked)
        started = time.perf_counter()
        teach_memory.delete(folder, [new.input])
        erased = time.perf_counter() - started
        restored = module.digests(module.load(model, folder), asked)
        same = files == {path.name: path.read_bytes() for path in folder.iterdir()}
    found = {
        "insert_seconds": seconds,
        "delete_seconds": erased,
        "other_rows_identical": untouched,
        "answer_changed": all(a != b for a, b in zip(base, taught_now)),
        "logits_restored": restored == base,
        "files_restored": same,
    }
    note(str(found))
    return {**found, **when()}


def layers(backend: str, model: Model, note: Note) -> list[dict[str, Any]]:
    """Every place that rows can be read from: recall of the patterns, near misses, and passes' worth of seconds."""
    found = []
    encoder, module = load_encoder(model), backends.get(backend)
    with tempfile.TemporaryDirectory() as work:
        known = patterns(Path(work) / "data")
        rows = [row for row in read_split(Path(work) / "data", "test") if row.split_kind == "recall"]
        asked = encoder.prompts([row.prompt for row in rows])
        for blocks in range(_blocks(model) + 1):
            folder = Path(work) / f"table-{blocks}"
            seconds = taught_table(backend, model, folder, known, memory_blocks=blocks, memory_passes=PASSES)
            made = module.generate(module.load(model, folder), asked, encoder.stop_ids, 32)
            right = [encoder.text(answer.tokens) == row.answer for answer, row in zip(made, rows)]
            found.append({"blocks": blocks, "seconds": seconds, "recall": share(right), **when()})
            note(str(found[-1]))
    return found


def many_facts(backend: str, model: Model, note: Note) -> dict[str, Any]:
    """Five thousand random facts: seconds of teaching, and how many are answered in an unseen phrasing."""
    known, encoder, module = probes.random_facts(5000, 0), load_encoder(model), backends.get(backend)
    with tempfile.TemporaryDirectory() as work:
        seconds = taught_table(backend, model, Path(work) / "table", known)
        session = module.load(model, Path(work) / "table")
        asked = encoder.prompts([probes.UNSEEN.replace("{input}", fact.input) for fact in known])
        made = module.generate(session, asked, encoder.stop_ids, 32)
        size = (Path(work) / "table" / table.WEIGHTS).stat().st_size
    right = [encoder.text(answer.tokens) == fact.output for answer, fact in zip(made, known)]
    found = {"seconds": seconds, "recall": share(right), "bytes": size, **when()}
    note(str(found))
    return found


def uses(backend: str, model: Model, note: Note) -> dict[str, Any]:
    """Taught patterns in questions that need more than to say them: with a memory, and without."""
    module, encoder, found = backends.get(backend), load_encoder(model), {}
    with tempfile.TemporaryDirectory() as work:
        known = patterns(Path(work) / "data")
        taught_table(backend, model, Path(work) / "table", known)
        sides = {"baseline": module.load(model), "memory": module.load(model, Path(work) / "table")}
        for name, (words, right) in probes.USES.items():
            wanted = {
                words.replace("{input}", fact.input).replace("{output}", fact.output): right(fact.input, fact.output)
                for fact in known
                if right(fact.input, fact.output) != fact.output
            }
            asked = encoder.prompts(list(wanted))
            made = {side: module.generate(one, asked, encoder.stop_ids, 48) for side, one in sides.items()}
            found[name] = {
                side: share([encoder.text(a.tokens) == text for a, text in zip(answers, wanted.values(), strict=True)])
                for side, answers in made.items()
            }
    note(str(found))
    return {"kinds": found, **when()}


def sizes(backend: str, _: Model, note: Note) -> list[dict[str, Any]]:
    """Tables of a thousand to ten million rows, each in a process of its own that opens it and answers."""
    found = []
    for size in SIZES:
        command = [sys.executable, "-m", table_size.__name__, backend, str(size)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append({**json.loads(done.stdout.splitlines()[-1]), **when()})
        note(str(found[-1]))
    return found


def _blocks(model: Model) -> int:
    return int(json.loads((model.path / "config.json").read_text("utf-8"))["num_hidden_layers"])


MEASURED: Mapping[str, Callable[[str, Model, Note], Any]] = {
    "layers": layers,
    "uses": uses,
    "exact": exact,
    "edit": editing,
    "scale": sizes,
    "facts": many_facts,
}
