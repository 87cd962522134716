"""What a table of so many rows costs: a process that makes one, opens it, looks up, and answers with it and without."""

from __future__ import annotations

import importlib
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engram import backends
from engram.memory import addresses, lookup
from engram.memory.lookup import Memory
from engram.models import model
from engram.models.tokenizer import load_encoder
from tools.methods import probes

WIDTH, LAYER = 192, 5
ORDERS = tuple(range(24, 4, -1))  # as many as the patterns' table has
REPEATS, ROUNDS = 300, 15
AT_ONCE = 100_000


def main(backend: str, size: int) -> None:
    """Print the figures as one line of JSON."""
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder) / "rows", size)
        print(json.dumps({"rows": size, **_measured(backend, Path(folder) / "rows", size)}))


def written(path: Path, size: int) -> None:
    """The arrays of a table of random addresses, as files of their own."""
    import numpy as np

    draw = np.random.default_rng(0)
    found = np.unique(draw.integers(1, 2**63, size + size // 100 + 10, dtype=np.uint64))[:size] * np.uint64(2)
    slots, numbers = lookup.build(np.sort(found), np.arange(size, dtype=np.uint32))
    path.mkdir()
    np.save(path / "slots.npy", slots)
    np.save(path / "numbers.npy", numbers)
    rows = np.lib.format.open_memmap(path / "rows.npy", "w+", np.float32, (size, WIDTH))
    for start in range(0, size, AT_ONCE):
        rows[start : start + AT_ONCE] = 0.5
    rows.flush()


def _measured(backend: str, path: Path, size: int) -> dict[str, Any]:
    import numpy as np

    tiny = model.resolve("tiny")
    encoder, module = load_encoder(tiny), backends.get(backend)
    frame = addresses.frame(encoder)
    base, with_table = module.load(tiny), module.load(tiny)
    prompts = encoder.prompts(list(probes.PLAIN))
    own, mapped = _resident()
    arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in ("slots", "numbers", "rows")}
    memory = Memory(arrays["slots"], arrays["numbers"], size, ORDERS, frame, arrays["rows"])
    reading = importlib.import_module(f"engram.backends.{backends.MODULES[backend]}.memory")
    reading.attach(with_table.model, memory, LAYER)
    hit, miss = _lookups(memory, prompts)
    rates = [
        (_rate(module, base, encoder, prompts), _rate(module, with_table, encoder, prompts)) for _ in range(ROUNDS)
    ]
    return {
        "bytes": sum(file.stat().st_size for file in path.iterdir()),
        "lookup_microseconds": miss,
        "gather_microseconds": hit,
        "tokens_per_second": statistics.median(rate for _, rate in rates),
        "overhead": statistics.median(one / other for one, other in rates) - 1,
        "own_mib": (_resident()[0] - own) / 2**20,
        "mapped_mib": (_resident()[1] - mapped) / 2**20,
    }


def _lookups(memory: Memory, prompts: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Microseconds of gathering a row, anywhere in the table, and of a token's search in vain, of all orders: the tenth
    percentile, since others may be at work on the machine."""
    import numpy as np

    draw = np.random.default_rng(1)
    vain, found, alive = [], [], np.array([0])
    for i in range(REPEATS):
        tokens = np.array([[*prompts[i % len(prompts)]]])
        begun = time.perf_counter()
        memory.following(tokens, None, 1, alive)
        vain.append(time.perf_counter() - begun)
        number = int(draw.integers(len(memory.table)))
        begun = time.perf_counter()
        np.array(memory.table[number])
        found.append(time.perf_counter() - begun)
    gathered, searched = (statistics.quantiles(times, n=10)[0] * 1e6 for times in (found, vain))
    return gathered, searched


def _rate(module: Any, session: Any, encoder: Any, prompts: Sequence[Sequence[int]]) -> float:
    """Tokens a second of answers one at a time."""
    begun, count = time.perf_counter(), 0
    for prompt in prompts:
        count += sum(1 for _ in module.stream(session, prompt, encoder.stop_ids, 32))
    return count / (time.perf_counter() - begun)


def _resident() -> tuple[int, int]:
    """Bytes that this process has to itself now, and those of mapped files, which the system takes back when it needs
    them: it maps up to 2 MiB for each row that is touched."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    resident, shared = map(int, statm.read_text().split()[1:3])
    return (resident - shared) * resource.getpagesize(), shared * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
