"""Training that is killed: at random moments of its life, and at every file operation; then run again until it is done.

Each run is the real command, `engram train`, forked from a host that has the backend's packages imported, since
importing Unsloth takes longer than such a run.
"""

from __future__ import annotations

import importlib.util
import json
import random
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from small_run import PACK

from tools.torture import Note, Tally
from tools.torture.host import Host

BACKENDS = {"mlx": "mlx_lm", "cpu": "unsloth"}
# dropout, so that a random state that is lost is seen
SETTINGS = {"steps": 30, "batch_size": 4, "validate_every": 7, "dropout": 0.1, "learning_rate": 0.01, "rank": 4}
SHORT = SETTINGS | {"steps": 10}  # where it is killed at each file operation
EVERY = 4
SIGNALS = (signal.SIGKILL,) * 6 + (signal.SIGTERM, signal.SIGINT)
ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143}
KILLS = 50
PATIENCE = 300.0  # seconds; a run takes a few
MEASURED = ("train_seconds", "wall_seconds", "tokens_per_second", "peak_memory_bytes")


@dataclass
class Site:
    """A folder in which one run is killed again and again, and what its end must be."""

    root: Path
    backend: str
    data: Path
    settings: dict[str, Any]
    stops: list[str] = field(default_factory=list)

    def arguments(self) -> list[str]:
        """The command line of this training run."""
        places = {"data": self.data, "adapters": self.root / "adapters", "results": self.root / "results"}
        named = [f"--{name}={place}" for name, place in places.items()]
        sets = [f"--set={name}={value}" for name, value in self.settings.items()]
        return ["train", "--model=tiny", f"--backend={self.backend}", f"--checkpoint-every={EVERY}", *named, *sets]

    def adapter(self) -> dict[str, bytes]:
        """The bytes of the adapter's files."""
        folder = self.root / "adapters" / self.backend
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def log(self) -> dict[str, Any]:
        """The training log without times, dates, memory, the word on interruptions, and its own checksum."""
        document = json.loads((self.root / "results" / self.backend / "training.json").read_text("utf-8"))
        for step in document["steps"]:
            del step["seconds"]
        for name in MEASURED:
            del document["summary"][name]
        for name in ("created", "git_commit"):  # somebody may commit meanwhile
            del document["provenance"][name]
        return {name: value for name, value in document.items() if name not in ("resumed_at", "checksum")}

    def files(self) -> set[str]:
        """Every file and folder of the run."""
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}

    def answers(self, host: Host) -> dict[str, Any]:
        """What the tuned model answers, without times and dates."""
        named = [part for part in self.arguments()[1:] if not part.startswith("--checkpoint")]
        asked = [f"--set={name}=2" for name in ("consistency_prompts", "samples", "latency_prompts")]
        run = host.start(["eval", "--stage=tuned", *named, *asked])
        assert run.wait(PATIENCE) == 0, run.output()
        path = self.root / "results" / self.backend / "tuned.json"
        document = json.loads(path.read_text("utf-8"))
        path.unlink()
        return {name: document[name] for name in ("answers", "repeats", "general", "splits", "retention", "adapter")}


def campaign(seed: int, scale: float, note: Note) -> list[Tally]:
    """For each backend that is installed: kills at random moments and at each file operation; see the module."""
    return [
        _backend(name, random.Random(f"{seed}:{name}"), scale, note)
        for name, package in BACKENDS.items()
        if importlib.util.find_spec(package)
    ]


def _backend(name: str, draw: random.Random, scale: float, note: Note) -> Tally:
    started, kinds, losses = time.perf_counter(), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder, Host(name, Path(folder) / "tmp") as host:
        root = Path(folder)
        data = _data(root)
        whole = Site(root / "whole", name, data, SETTINGS)
        seconds = _uninterrupted(whole, host)
        note(f"{name}: a run takes {seconds:.1f} s")
        last, resumed = whole, 0
        wanted = max(3, round(KILLS * scale))
        while kinds.total() < wanted:
            last = Site(root / f"random-{kinds.total()}", name, data, SETTINGS)
            kinds += _killed_at_random(last, host, draw, seconds, wanted - kinds.total(), losses)
            losses += _differences(last, whole)
            resumed += len(last.stops)
            note(f"{name}: {kinds.total()} kills at random moments")
        if last.answers(host) != whole.answers(host):
            losses.append(f"{last.root.name} after {last.stops}: other answers")
        kinds += _killed_at_each_operation(root, name, data, host, scale, losses, note)
        left = sorted(str(path.relative_to(root)) for path in (root / "tmp").rglob("*"))
        losses += [f"{name}: left in the folder for temporary files: {path}" for path in left]
    what = f"{name}: a training run that is killed and run again ends with the bytes of one that was not"
    measured = {"uninterrupted run, s": seconds}
    return Tally("kills", what, dict(kinds), losses, time.perf_counter() - started, measured)


def _data(root: Path) -> Path:
    from engram.dataset.build import write_data
    from engram.patterns.loading import find_files, load_patterns

    (root / "pack.yaml").write_text(PACK)
    files = find_files(str(root / "pack.yaml"))
    write_data(load_patterns(files), files, root / "data", seed=0)
    return root / "data"


def _uninterrupted(site: Site, host: Host) -> float:
    started = time.perf_counter()
    run = host.start(site.arguments())
    assert run.wait(PATIENCE) == 0, run.output()
    return time.perf_counter() - started


def _killed_at_random(
    site: Site, host: Host, draw: random.Random, seconds: float, most: int, losses: list[str]
) -> Counter[str]:
    """One run, killed at up to five random moments of its life, then left alone."""
    kinds: Counter[str] = Counter()
    for _ in range(min(most, draw.randint(1, 5))):
        number, moment = draw.choice(SIGNALS), draw.uniform(0.0, seconds)
        run = host.start(site.arguments())
        if _killed(run, number, moment, site, losses):
            kinds[f"{number.name}, forked"] += 1
    run = host.start(site.arguments())
    if code := run.wait(PATIENCE):
        losses.append(f"{site.root.name} after {site.stops}: exit code {code}: {run.output()}")
    return kinds


def _killed(run: Any, number: signal.Signals, moment: float, site: Site, losses: list[str]) -> bool:
    """Whether the signal reached a run that was still at work; a run that then ends wrongly is a loss."""
    code = run.wait(moment)
    if code is not None:
        if code:
            losses.append(f"{site.root.name} after {site.stops}: exit code {code}: {run.output()}")
        return False
    run.kill(number)
    code = run.wait(PATIENCE)
    site.stops.append(f"{number.name} at {moment:.2f} s")
    allowed = (-number, 0, ENDS.get(number, -number))  # 0: it came when all was done
    if code not in allowed or "Traceback" in run.output():
        losses.append(f"{site.root.name} after {site.stops}: exit code {code}: {run.output()}")
    return True


def _killed_at_each_operation(
    root: Path, name: str, data: Path, host: Host, scale: float, losses: list[str], note: Note
) -> Counter[str]:
    """A run from nothing, killed before its n-th operation on a file, for every n; at a small scale for some."""
    whole = Site(root / "short", name, data, SHORT)
    run = host.start(whole.arguments(), watched=whole.root)
    assert run.wait(PATIENCE) == 0, run.output()
    total = run.operations()
    chosen = sorted(
        {round(1 + i * (total - 1) / max(1, round(total * scale) - 1)) for i in range(round(total * scale))}
    )
    for count in chosen:
        site = Site(root / f"operation-{count}", name, data, SHORT)
        first = host.start(site.arguments(), watched=site.root, fatal=count)
        code = first.wait(PATIENCE)
        site.stops.append(f"before file operation {count} of {total}")
        again = host.start(site.arguments())
        codes = (code, again.wait(PATIENCE))
        if codes != (-signal.SIGKILL, 0):
            losses.append(f"{site.root.name}: exit codes {codes}: {first.output()}{again.output()}")
        losses += _differences(site, whole)
    note(f"{name}: killed at {len(chosen)} of {total} file operations")
    return Counter({"SIGKILL, at each file operation": len(chosen)})


def _differences(site: Site, whole: Site) -> list[str]:
    """What is not as at the end of a run that was left alone: bytes, numbers, or a file too many."""
    wrong = []
    try:
        if site.adapter() != whole.adapter():
            wrong.append("another adapter")
        if site.log() != whole.log():
            wrong.append("other numbers in the log")
        wrong += [f"left: {name}" for name in sorted(site.files() - whole.files())]
        wrong += [f"missing: {name}" for name in sorted(whole.files() - site.files())]
    except (OSError, ValueError) as error:
        wrong.append(f"no whole result: {error}")
    return [f"{site.backend} {site.root.name} after {site.stops}: {one}" for one in wrong]
