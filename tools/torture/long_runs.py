"""Thousands of steps, answers, streams and loads in one process: does it keep memory, descriptors, threads or files?

A backend's runs share a process of their own, which counts what it holds while it works. It computes with a model of
the bundled one's layout and far smaller, so that ten thousand steps are a matter of minutes.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from engram import backends
from engram.backends import Backend
from engram.dataset.build import read_split, write_data
from engram.dataset.rows import Example
from engram.evaluation import scoring
from engram.models.model import Model
from engram.models.tokenizer import load_encoder
from engram.patterns.loading import find_files, load_patterns
from engram.plan.batches import encode
from engram.plan.config import Config
from engram.support.files import BUNDLED
from engram.training import train
from tools.torture import Note, Tally

BACKENDS = {"mlx": "mlx", "cpu": "unsloth"}  # name -> the package that it needs
SAMPLES = 200
BATCH = 64
WIDTH, INNER, LAYERS, HEADS, VALUE_HEADS, HEAD = 32, 64, 2, 2, 1, 16  # of the small model
MIB = 2**20
TORCH_CACHE = "torchinductor_"  # torch makes one for each user, wherever it is imported
HELD = ("descriptors", "threads")


@dataclass
class Meter:
    """What this process holds after some of `count` cases: resident bytes, descriptors, threads."""

    count: int
    rows: list[dict[str, int]] = field(default_factory=list)

    def at(self, done: int) -> None:
        """Count, if a sample is due after `done` cases."""
        if done * SAMPLES >= len(self.rows) * self.count:
            held = {"resident": resident(), "descriptors": entries("/dev/fd"), "threads": self.threads()}
            self.rows.append({"done": done, **held})

    def threads(self) -> int:
        """The threads that stay. One that Python has joined is listed by the kernel until it has ended, so more than
        the last sample's are counted again for up to a second."""
        patience = time.monotonic() + 1.0
        while (now := threads()) > (self.rows or [{}])[-1].get("threads", now) and time.monotonic() < patience:
            time.sleep(0.01)
        return now


class Bench(NamedTuple):
    """What a run works with."""

    name: str
    backend: Backend
    model: Model
    root: Path
    seed: int

    @property
    def rows(self) -> list[Example]:
        """The training rows: some 1,900 prompts of many lengths."""
        return read_split(self.root / "data", "train")

    def train(self, steps: int, meter: Meter) -> None:
        """The stage, with these many optimizer steps."""
        config = Config(seed=self.seed, steps=steps, batch_size=4, rank=2, validate_every=1000, validation_rows=16)
        log = self.root / "training.json"
        train.train(self.name, self.model, config, self.root / "data", self.root / "adapter", log, Watch(meter))


class Watch:
    """Progress that counts."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def start(self, steps: int, losses: Sequence[float] = ()) -> None: ...

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        self.meter.at(step)

    def validation(self, step: int, loss: float, recall: float) -> None: ...


def training(bench: Bench, meter: Meter) -> None:
    """Optimizer steps of one training run."""
    bench.train(meter.count, meter)


def evaluation(bench: Bench, meter: Meter) -> None:
    """Prompts answered and scored and their expected answers' nats measured, in calls of a batch."""
    encoder = load_encoder(bench.model)
    session = bench.backend.load(bench.model)
    rows = itertools.cycle(bench.rows)
    for done in range(BATCH, meter.count + BATCH, BATCH):
        some = list(itertools.islice(rows, BATCH))
        prompts = [encoder.prompt(row.prompt) for row in some]
        answers = bench.backend.generate(session, prompts, encoder.stop_ids, 4)
        bench.backend.losses(session, encode(encoder, some, 512), encoder)
        for row, answer in zip(some, answers, strict=True):
            scoring.score(row.answer, encoder.text(answer.tokens))
        meter.at(done)


def streams(bench: Bench, meter: Meter) -> None:
    """Answers token by token: half read to their end, a quarter closed and a quarter dropped after a token."""
    encoder = load_encoder(bench.model)
    session = bench.backend.load(bench.model)
    for done, row in zip(range(1, meter.count + 1), itertools.cycle(bench.rows)):
        stream: Any = bench.backend.stream(session, encoder.prompt(row.prompt), encoder.stop_ids, 8)
        for _ in stream:
            if done % 2:
                break
        if done % 4 == 1:
            stream.close()
        del stream  # a held one keeps its thread, which the next count would take for one that may stay
        meter.at(done)


def loads(bench: Bench, meter: Meter) -> None:
    """The model loaded with an adapter, again and again."""
    bench.train(2, Meter(2))
    for done in range(1, meter.count + 1):
        bench.backend.load(bench.model, bench.root / "adapter")
        meter.at(done)


class Kind(NamedTuple):
    """A kind of run: what a case is, how many at full scale, how many bytes each may keep, and the noise in MiB."""

    what: str
    run: Callable[[Bench, Meter], None]
    count: int
    keeps: int
    noise: float = 1.5


KINDS = {
    # the curve is 64 bytes a step, and TRL's trainer keeps two more numbers of each
    "training": Kind("an optimizer step", training, 10_000, 256),
    # MLX gives its cache back from time to time, up and down by ten MiB
    "evaluation": Kind("an answer, generated and scored", evaluation, 100_000, 32, 12),
    "streams": Kind("a streamed answer, half of them abandoned", streams, 2_000, 256),
    "loads": Kind("a model loaded with an adapter", loads, 500, 8192, 3),
}


def campaign(seed: int, scale: float, note: Note) -> list[Tally]:
    """Every kind of run on every backend that is installed; a tally for each kind."""
    ended = {}
    for backend in BACKENDS:
        if importlib.util.find_spec(BACKENDS[backend]):
            ended[backend] = in_a_process(backend, scale, seed)
            note(
                f"{backend}: "
                + ", ".join(f"{name} {run['rows'][-1]['done']:,}" for name, run in ended[backend].items())
            )
    return [_tally(name, {backend: runs[name] for backend, runs in ended.items()}) for name in KINDS]


def _tally(name: str, runs: Mapping[str, dict[str, Any]]) -> Tally:
    kind = KINDS[name]
    lost = [f"{backend}: {line}" for backend, run in runs.items() for line in faults(kind, run["rows"], run["left"])]
    return Tally(
        f"long_{name}",
        kind.what,
        {backend: run["rows"][-1]["done"] for backend, run in runs.items()},
        lost,
        sum(run["seconds"] for run in runs.values()),
        {f"MiB per 1,000 on {backend}": growth(run["rows"]) * 1000 for backend, run in runs.items()},
    )


def growth(rows: list[dict[str, int]]) -> float:
    """MiB of resident memory that each case of the second half adds: the slope after Theil and Sen, 0 at least."""
    from scipy.stats import theilslopes

    half = later(rows)
    slope = theilslopes([row["resident"] for row in half], [row["done"] for row in half])[0]
    return max(0.0, float(slope)) / MIB


def later(rows: list[dict[str, int]]) -> list[dict[str, int]]:
    """The samples of the second half: until then caches fill."""
    return [row for row in rows if 2 * row["done"] >= rows[-1]["done"]]


def faults(kind: Kind, rows: list[dict[str, int]], left: list[str]) -> Iterator[str]:
    """What a run held on to: memory beyond what it may keep, descriptors, threads, files."""
    half = later(rows)
    grown, cases = growth(rows), half[-1]["done"] - half[0]["done"]
    if grown * cases > kind.noise + kind.keeps * cases / MIB:
        yield f"memory grew by {grown * cases:.1f} MiB over the last {cases:,}, {grown * MIB:,.0f} bytes each"
    for name in HELD:
        before, after = half[0][name], half[-1][name]
        if after > before:
            yield f"{name} went from {before} to {after}"
    if left:
        yield f"temporary files were left: {', '.join(left[:5])}"


def small_model(folder: Path, seed: int) -> Model:
    """The model in the new folder `folder`, with the bundled tokenizer; the same weights for the same seed."""
    ignored = shutil.ignore_patterns("*.safetensors", "*.jsonl", "training.json", "README.md")
    shutil.copytree(BUNDLED / "tiny", folder, ignore=ignored)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "head_dim": HEAD}
    config |= {"num_attention_heads": HEADS, "num_key_value_heads": VALUE_HEADS, "dtype": "float32"}
    config |= {"torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    random = np.random.default_rng(seed)
    tensors = {
        name: (random.normal(0, 0.1, shape) if len(shape) > 1 else np.ones(shape)).astype(np.float32)
        for name, shape in shapes(config["vocab_size"]).items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return Model("small", folder)


def shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Each tensor's shape, as Llama's layout names them."""
    block: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (HEADS * HEAD, WIDTH),
        "self_attn.k_proj": (VALUE_HEADS * HEAD, WIDTH),
        "self_attn.v_proj": (VALUE_HEADS * HEAD, WIDTH),
        "self_attn.o_proj": (WIDTH, HEADS * HEAD),
        "mlp.gate_proj": (INNER, WIDTH),
        "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER),
        "input_layernorm": (WIDTH,),
        "post_attention_layernorm": (WIDTH,),
    }
    blocks = {f"model.layers.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in block.items()}
    return {"model.embed_tokens.weight": (vocabulary, WIDTH), **blocks, "model.norm.weight": (WIDTH,)}


def in_a_process(backend: str, scale: float, seed: int) -> dict[str, dict[str, Any]]:
    """Every kind of run, one after the other in a process of their own: samples and seconds, and with the last one the
    temporary files that are left when the process has ended."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tmp").mkdir()
        command = [sys.executable, "-m", "tools.torture.long_runs", backend, str(scale), str(seed), folder]
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "TMPDIR": str(Path(folder) / "tmp"), "PYTHONPATH": paths}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        ended: dict[str, dict[str, Any]] = json.loads((Path(folder) / "runs.json").read_text("utf-8"))
        left = [path.name for path in (Path(folder) / "tmp").iterdir() if not path.name.startswith(TORCH_CACHE)]
        list(ended.values())[-1]["left"] = sorted(left)
        return ended


def resident() -> int:
    """The bytes of this process that are in memory now."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    asked = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, check=True)
    return int(asked.stdout) * 1024


def threads() -> int:
    """The threads of this process; Python's own alone where the system does not list them."""
    return entries("/proc/self/task") if Path("/proc/self/task").is_dir() else threading.active_count()


def entries(folder: str) -> int:
    """How many entries a folder has."""
    return len(list(Path(folder).iterdir()))


def main(backend: str, scale: str, seed: str, folder: str) -> None:
    """The runs of one backend, in their own process; the samples go to `runs.json`."""
    root, ended = Path(folder), {}
    module = backends.get(backend)  # Unsloth must come before everything else
    files = find_files()
    write_data(load_patterns(files), files, root / "data", int(seed))
    bench = Bench(backend, module, small_model(root / "model", int(seed)), root, int(seed))
    for name, kind in KINDS.items():
        meter, started = Meter(max(1, round(kind.count * float(scale)))), time.monotonic()
        kind.run(bench, meter)
        ended[name] = {"rows": meter.rows, "seconds": time.monotonic() - started, "left": []}
    (root / "runs.json").write_text(json.dumps(ended), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
