"""Broken files on disk: each kind of file, damaged in each way, under each command that reads it.

A case is lost where a command ends otherwise than with 0 or 2, shows a traceback, does not name the file, takes damage
that can be known for content, or changes a file that is not its own to write.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
from click.testing import CliRunner, Result
from documents import HASH, training, write_run
from safetensors.numpy import save_file

from engram.cli import main
from engram.evaluation import compare, compare_runs
from engram.models import adapters, conversion, model
from engram.plan import documents
from engram.plan.config import Config
from engram.show.video import cast
from engram.support.files import BUNDLED
from tools.torture import Note, Tally

CASES = 2200  # at scale 1.0
MODELS = 40  # of which each loads a model
PACK = "name: pack\nexamples:\n" + "".join(
    f'  - {{input: "The {ordinal} thing of the list", output: "answer {ordinal}", category: c{number % 3}}}\n'
    for number, ordinal in enumerate(
        ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
    )
)
Fault = Callable[[Path, random.Random], None]
Case = tuple[str, str, str]  # file, fault, command


def truncate(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def flip(path: Path, draw: random.Random) -> None:
    """One bit: of a large file, more often one near its beginning, where headers are."""
    size = path.stat().st_size
    at = draw.randrange(min(size, draw.choice((64, 4096, size))))
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << draw.randrange(8)]))


def zeros(path: Path, draw: random.Random) -> None:
    """A block of NUL bytes, as a lost page leaves it."""
    size = path.stat().st_size
    at = draw.randrange(size)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(draw.randint(1, min(4096, size - at))))


def longer(path: Path, draw: random.Random) -> None:
    with path.open("ab") as file:
        file.write(draw.randbytes(draw.randint(1, 100)))


def huge(path: Path, _: random.Random) -> None:
    os.truncate(path, 1 << 40)


def empty(path: Path, _: random.Random) -> None:
    path.write_bytes(b"")


def folder(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path, _: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def loop(path: Path, _: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def missing(path: Path, _: random.Random) -> None:
    path.unlink()


FAULTS: dict[str, Fault] = {
    fault.__name__: fault for fault in (flip, truncate, zeros, longer, huge, empty, folder, dangling, loop, missing)
}
OFTEN = {"flip": 6, "truncate": 3, "zeros": 2}

DATA = ("data/train.jsonl", "data/valid.jsonl", "data/test.jsonl", "data/manifest.json")
RUN = tuple(f"results/mlx/{name}.json" for name in ("baseline", "tuned", "training", "comparison"))
ADAPTERS = ("mlx/adapters.safetensors", "mlx/adapter_config.json", "peft/adapter_model.safetensors",
            "peft/adapter_config.json")  # fmt: skip
MODEL = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "generation_config.json")
SUMMED = (*MODEL, "heldout.jsonl", "replay.jsonl", "chat_template.jinja", "SHA256SUMS")

# each kind of file: the files, and the commands that read them ({root} is the case's folder, {file} the file's)
READERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "patterns": (("pack.yaml",), ("validate {root}/pack.yaml", "data --patterns {root}/pack.yaml --data {root}/new")),
    "recipe": (("recipe.yaml",), ("train --model tiny --backend mlx --recipe {root}/recipe.yaml --data {root}/none",)),
    "data": (DATA, ("data --check --data {root}/data",)),
    "results": (
        RUN,
        (
            "compare --backend mlx --results {root}/results",
            "compare --across --results {root}/results",
            "results verify {root}/{name} --data {root}/none --adapters {root}/none",
            "report --results {root}/results --first mlx",
        ),
    ),
    "adapter": (
        tuple(f"adapters/{name}" for name in ADAPTERS),
        ("adapter show {folder}", "adapter convert {folder} {root}/new"),
    ),
    "cast": (("results/mlx/demo.cast",), ("render --png --out {root}/new {root}/{name}",)),
    "model": (tuple(f"model/{name}" for name in MODEL[:4]), ("resolve-model --model {root}/model",)),
    "tiny": (tuple(f"tiny/{name}" for name in SUMMED), ("resolve-model --model tiny",)),
}
WRITES_COMPARISON = "compare --backend"  # it reads all but that
LOADERS = "verify-model --model {root}/model --backend mlx"


def campaign(seed: int, scale: float, note: Note) -> list[Tally]:
    """Every kind of damage; at least one case of each kind of file, fault and command, whatever the scale."""
    with tempfile.TemporaryDirectory() as scratch:
        sound = Path(scratch, "sound")
        make_sound(sound)
        started, kinds, losses = time.monotonic(), Counter[str](), []
        for number, case in enumerate(_cases(random.Random(f"{seed}:broken"), scale)):
            kinds[f"{case[1]}, {case[0].split('/')[0]}"] += 1
            told = play(sound, case, random.Random(f"{seed}:broken:{number}"))
            losses += [f"seed {seed}, case {number} {case}: {line}" for line in told]
            if number % 500 == 499:
                note(f"broken: {number + 1} cases, {len(losses)} losses")
    what = "a damaged file under a command that reads it"
    return [Tally("broken", what, dict(kinds), losses, time.monotonic() - started)]


def _cases(draw: random.Random, scale: float) -> list[Case]:
    every = [
        (name, fault, command)
        for names, commands in READERS.values()
        for name in names
        for fault in FAULTS
        for command in commands
        if not (name.endswith("comparison.json") and command.startswith(WRITES_COMPARISON))
    ]
    weights = [OFTEN.get(fault, 1) for _, fault, _ in every]
    bits = ("flip", "truncate", "zeros")
    loaded = [(f"model/{draw.choice(MODEL)}", draw.choice(bits), LOADERS) for _ in range(MODELS)]
    return [*draw.choices(every, weights, k=round(CASES * scale)), *loaded[: round(MODELS * scale)]]


def play(sound: Path, case: Case, draw: random.Random) -> list[str]:
    """What is wrong with one case, run in a copy of all that is sound."""
    root = sound.with_name("case")
    shutil.copytree(sound, root, symlinks=True, copy_function=_linked)
    try:
        return _damaged(root, sound, case, draw)
    finally:
        shutil.rmtree(root)


def _linked(source: str, target: str) -> None:
    """Copies of what is small, links to what is large: those are copied when they are damaged."""
    if Path(source).stat().st_size > 100_000:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _damaged(root: Path, sound: Path, case: Case, draw: random.Random) -> list[str]:
    name, fault, command = case
    path = root / name
    shutil.copy(path, root / "copy")  # breaks a link
    (root / "copy").replace(path)
    FAULTS[fault](path, draw)
    before = _state(root)
    done = invoke(command, root, name)
    lines, after = judged(done, path), _state(root)
    lines += [f"touched {one}" for one in before if before[one] != after.get(one) and not _is_output(one)]
    if done.exit_code == 0 and not _may_pass(path, sound / name, done.output):
        lines.append("taken for sound")
    return lines


def _is_output(name: str) -> bool:
    return name in ("results/comparison.json", "results/mlx/comparison.json", "results/report.html")


def _may_pass(path: Path, sound: Path, output: str) -> bool:
    """Whether a command may go on with this file: it is as it was in all that can be known, or it is said."""
    name = path.parts[-2] + "/" + path.name
    if name.startswith("data/") or "tiny/" in name:
        # of the manifest: the seed, and the hashes of pattern files that lie elsewhere
        return name == "data/manifest.json" and _sure(path) == _sure(sound)
    if "results/" in str(path) and path.suffix == ".json":
        noted = any(word in output for word in ("left out", "not there", "✗", "not comparable", "cannot be read"))
        not_made = path.name in ("training.json", "comparison.json") and not path.exists()  # no run must have them
        return noted or not_made or _json(path) == _json(sound)
    return True


def _sure(path: Path) -> object:
    document = _json(path)
    return {key: value for key, value in document.items() if key not in ("seed", "inputs")} if document else None


def _json(path: Path) -> dict[str, object] | None:
    try:
        found: dict[str, object] | None = json.loads(path.read_bytes()) if path.stat().st_size < 1 << 20 else None
    except (OSError, ValueError):
        return None
    return found


def invoke(command: str, root: Path, name: str) -> Result:
    """Run a command as the shell would, but for the process."""
    arguments = [
        part.format(root=root, name=name, folder=(root / name).parent, file=root / name) for part in command.split()
    ]
    with mock.patch.object(model, "BUNDLED", root):
        return CliRunner().invoke(main, arguments)


def judged(done: Result, path: Path | None) -> list[str]:
    """What is wrong with how a command ended."""
    lines = []
    if done.exit_code not in (0, 2) or not isinstance(done.exception, (SystemExit, type(None))):
        lines.append(f"exit code {done.exit_code}, {type(done.exception).__name__}: {str(done.exception)[:300]}")
    elif "Traceback" in done.output:
        lines.append("a traceback")
    elif done.exit_code == 2 and path and not any(name in done.output for name in (path.name, path.parent.name)):
        lines.append(f"{path.name} is not named: {done.output[-300:]}")
    elif done.exit_code == 2 and "engram: " not in done.output and "✗" not in done.output:
        lines.append(f"no reason: {done.output[-300:]}")
    return lines


def _state(root: Path) -> dict[str, str]:
    """Each file's content by its hash; of large ones, which are not written in place, size and time."""
    state = {}
    for place, _, names in os.walk(root):
        for name in names:
            path = Path(place, name)
            found = path.lstat()
            large = path.is_symlink() or found.st_size > 100_000 or not found.st_mode & 0o400
            content = f"{found.st_size} {found.st_mtime_ns}" if large else hashlib.md5(path.read_bytes()).hexdigest()
            state[path.relative_to(root).as_posix()] = content
    return state


def make_sound(root: Path) -> None:
    """A checkout after a run, with everything in it small and sound."""
    root.mkdir()
    (root / "pack.yaml").write_text(PACK)
    (root / "recipe.yaml").write_text("rank: 4\nlearning_rate: 0.001\nschedule: cosine\nsteps: 2\n")
    for name in ("empty", "out"):
        (root / name).mkdir()
    shutil.copytree(BUNDLED / "tiny", root / "tiny")
    shutil.copytree(BUNDLED / "tiny", root / "model")
    for name in BUNDLED.glob("*.jsonl"):
        shutil.copy(name, root)
    done = invoke("data --patterns {root}/pack.yaml --data {root}/data", root, "")
    assert done.exit_code == 0, done.output
    make_adapter(root / "adapters/mlx")
    conversion.convert(root / "adapters/mlx", root / "adapters/peft")
    for backend in ("mlx", "cpu"):
        place = root / "results" / backend
        write_run(place, backend)
        documents.write(place / "training.json", training(HASH["b"], backend, (1.0, 0.5)), "training")
        compare.compare(place)
    compare_runs.collect(root / "results")
    events = (cast.Event(0.0, cast.MARKER, "one"), cast.Event(0.5, cast.OUTPUT, "\x1b[1mhello\x1b[0m\r\n"))
    cast.write(root / "results/mlx/demo.cast", cast.Cast(80, 24, 1.0, "a show", events))
    for written in ("out/demo.png", "out/name", "results/report.html"):
        (root / written).write_text("old")
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def make_adapter(place: Path) -> None:
    """A small adapter in mlx-lm's layout, of seeded numbers."""
    place.mkdir(parents=True)
    draws, config = np.random.default_rng(0), Config(rank=2)
    layers = [f"model.layers.{block}.self_attn.{kind}" for block in (0, 1) for kind in ("q_proj", "v_proj")]
    tensors = {f"{name}.lora_a": draws.random((8, 2), np.float32) for name in layers}
    tensors |= {f"{name}.lora_b": draws.random((2, 8), np.float32) for name in layers}
    save_file(tensors, place / adapters.MLX_WEIGHTS)
    described = adapters.mlx_config(config.rank, config.scale, config.dropout, "tiny")
    (place / adapters.CONFIG).write_text(json.dumps(described))
