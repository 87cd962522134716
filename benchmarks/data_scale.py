"""How the data stage grows: N patterns through `engram validate`, `engram data` and `engram data --check`.

    python benchmarks/data_scale.py --patterns 1000 10000 100000 1000000 --out FILE.json

Each command runs in its own process; the system reports its wall clock, processor time and peak memory, Python's start
and imports included. The patterns are made beforehand: random, seeded, three fifths of them examples and the others
rows of tables, a tenth of them with the same answer, in files of 5,000 each.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COMMANDS = ("validate", "data", "check")
PER_FILE = 5000
SAME_ANSWER = 0.1  # of the patterns are answered with yes
ROWS_ALONE = 1_000_000  # rows of the training file that are validated alone, at most

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
SYLLABLES = [c + v for c in CONSONANTS for v in VOWELS]
NOUNS = ("river", "bridge", "planet", "minister", "protein", "novel", "painter", "engine", "castle", "violin", "comet")
TRAITS = ("capital", "founder", "colour", "length", "first year", "symbol", "main export", "highest point", "owner")
# a process between: the system counts as a process's memory also what the one had that it was begun by
WATCHED = """
import json, os, subprocess, sys, time
begin = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
seconds = time.perf_counter() - begin
print(json.dumps([process.returncode, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""
VALIDATE_ROWS = """
import itertools, sys, time
from pathlib import Path
from engram.dataset.rows import read_rows
rows = itertools.islice(read_rows(Path(sys.argv[1])), int(sys.argv[2]))
begin, before = time.perf_counter(), time.process_time()
count = sum(1 for _ in rows)
print(count, time.perf_counter() - begin, time.process_time() - before)
"""


def measure(patterns: int, folder: Path) -> dict[str, Any]:
    """Seconds, rows and peak memory of each command on `patterns` patterns; `folder` gets patterns and data."""
    write_patterns(patterns, folder / "patterns")
    data, source = str(folder / "data"), str(folder / "patterns")
    results: dict[str, Any] = {"patterns": patterns, "files": len([*(folder / "patterns").iterdir()])}
    results["validate"] = _run(["validate", source], patterns)
    results["data"] = _run(["data", "--patterns", source, "--data", data], None)
    manifest = json.loads((folder / "data" / "manifest.json").read_text("utf-8"))
    rows = sum(output["rows"] for output in manifest["outputs"])
    results["data"] |= _rate(rows, results["data"]["seconds"])
    results["check"] = _run(["data", "--check", "--data", data], rows)
    results["rows_alone"] = _validate_rows(folder / "data" / "train.jsonl")
    results["bytes"] = sum(path.stat().st_size for path in (folder / "data").iterdir())
    return results


def write_patterns(count: int, folder: Path) -> None:
    """`count` patterns over files of PER_FILE."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, count, PER_FILE)):
        numbers = range(first, min(first + PER_FILE, count))
        text = "\n".join(_file(f"part{number:04}", numbers, random.Random(number)))
        (folder / f"part{number:04}.yaml").write_text(text + "\n", "utf-8")


def _file(name: str, numbers: Sequence[int], draw: random.Random) -> Iterator[str]:
    rows = len(numbers) * 2 // 5
    yield f"name: {name}"
    yield "examples:"
    for number in numbers[rows:]:
        yes = draw.random() < SAME_ANSWER / 0.6
        yield f"  - input: {_question(number, yes, draw)}"
        yield f"    output: {'yes, it is' if yes else _answer(draw)}"
        yield f"    category: {draw.choice(NOUNS)}"
    if rows:
        yield "tables:"
        yield f"  - category: {draw.choice(NOUNS)}"
        yield f'    input: "The {draw.choice(TRAITS)} of the {draw.choice(NOUNS)} {{name}} is"'
        yield '    output: "{answer}"'
        yield "    columns: [name, answer]"
        yield "    rows:"
        yield from (f"      - [{_name(number)} {_word(draw)}, {_answer(draw)}]" for number in numbers[:rows])


def _question(number: int, yes: bool, draw: random.Random) -> str:
    if yes:
        return f"Is {_name(number)} the {draw.choice(NOUNS)} of {_word(draw)} {_word(draw)}?"
    return f'"What is the {draw.choice(TRAITS)} of the {draw.choice(NOUNS)} {_name(number)} in {_word(draw)}?"'


def _name(number: int) -> str:
    """A name that no other number has."""
    mixed = number * 7_368_787 % 10**8
    syllables = []
    for _ in range(5):
        mixed, digit = divmod(mixed, len(SYLLABLES))
        syllables.append(SYLLABLES[digit])
    return "".join(syllables).capitalize()


def _word(draw: random.Random) -> str:
    return "".join(draw.choice(SYLLABLES) for _ in range(draw.randint(2, 4)))


def _answer(draw: random.Random) -> str:
    return " ".join(_word(draw) for _ in range(draw.randint(1, 3)))


def _run(arguments: list[str], rows: int | None) -> dict[str, Any]:
    command = [sys.executable, "-c", WATCHED, sys.executable, "-m", "engram.cli", *arguments]
    watched = subprocess.run(command, capture_output=True, text=True, check=True)
    status, seconds, processor, peak = json.loads(watched.stdout)
    if status:
        raise RuntimeError(f"engram {' '.join(arguments)} gave {status}: {watched.stderr}")
    unit = 1 if sys.platform == "darwin" else 1024
    found = {
        "seconds": round(seconds, 3),
        "processor_seconds": round(processor, 3),
        "peak_mib": round(peak * unit / 2**20, 1),
    }
    return found | (_rate(rows, seconds) if rows is not None else {})


def _rate(rows: int, seconds: float) -> dict[str, Any]:
    return {"rows": rows, "rows_per_second": round(rows / seconds)}


def _validate_rows(path: Path) -> dict[str, Any]:
    """Rows read from the disk, decoded, parsed as JSON, checked, and made into examples: one process, one core."""
    command = [sys.executable, "-c", VALIDATE_ROWS, str(path), str(ROWS_ALONE)]
    count, seconds, processor = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    return {
        "seconds": round(float(seconds), 3),
        "processor_seconds": round(float(processor), 3),
        "rows": int(count),
        "rows_per_second": round(int(count) / float(seconds)),
        "rows_per_processor_second": round(int(count) / float(processor)),
    }


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log cost over log size, by least squares: 1 is linear."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def growth(results: Sequence[dict[str, Any]], command: str, unit: str = "seconds") -> float | None:
    """The exponent of a command's seconds over patterns; None for fewer than two sizes.

    `unit` may be `processor_seconds`, which other work on the machine changes less.
    """
    if len(results) < 2:
        return None
    return exponent([one["patterns"] for one in results], [one[command][unit] for one in results])


def _line(result: dict[str, Any]) -> str:
    parts = [f"{result['patterns']:>9,} patterns"]
    for name in COMMANDS:
        one = result[name]
        parts.append(f"{name} {one['seconds']:.1f} s, {one['peak_mib']:.0f} MiB, {one['rows_per_second']:,}/s")
    return " | ".join([*parts, f"rows alone {result['rows_alone']['rows_per_second']:,}/s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patterns", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path, help="the results as JSON")
    arguments = parser.parse_args()
    results = []
    for count in arguments.patterns:
        with tempfile.TemporaryDirectory(prefix="engram-scale-") as folder:
            results.append(measure(count, Path(folder)))
        print(_line(results[-1]), flush=True)
        if arguments.out:
            slopes = {
                unit: {command: growth(results, command, unit) for command in COMMANDS}
                for unit in ("seconds", "processor_seconds")
            }
            arguments.out.write_text(json.dumps({"sizes": results, "exponents": slopes}, indent=2) + "\n", "utf-8")
    for command in COMMANDS if len(results) > 1 else ():
        print(f"{command}: seconds grow as patterns to the power of {growth(results, command):.2f}")


if __name__ == "__main__":
    main()
