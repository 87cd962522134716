"""Tables and chat data from elsewhere -> a pattern file that holds exactly their pairs, or a list of what it cannot."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from engram.patterns import delimited, json_rows
from engram.patterns.import_rows import Read, Row, Wanted
from engram.patterns.loading import SHOWN_PROBLEMS, Pattern, duplicates, load_patterns, pattern_id, unfit
from engram.patterns.writing import pattern_file, quoted
from engram.patterns.yaml_source import too_large
from engram.support.errors import EngramError, readable_errors
from engram.support.files import read_bytes, write_text
from engram.support.text import visible

MAX_BYTES = 64 * 1024 * 1024  # of a file that is read; what is written has yaml_source's own limit
READERS: dict[str, Callable[[str, str, Wanted], Read]] = {
    ".csv": lambda name, text, wanted: delimited.read(name, text, wanted, tabs=False),
    ".tsv": lambda name, text, wanted: delimited.read(name, text, wanted, tabs=True),
    ".jsonl": json_rows.read,
    ".ndjson": json_rows.read,
    ".json": json_rows.read,
}


def bring_in(files: Sequence[Path], out: Path, wanted: Wanted) -> list[Pattern]:
    """Write the pairs of `files` to the new pattern file `out`; return its patterns as they are read back.

    Raises EngramError, and writes nothing, where `out` exists, with every line that a pattern file cannot hold, and
    with every pair whose input stands twice. The file takes its place only after it was read back to the same pairs.
    """
    _refuse_target(out)
    rows, problems = [], []
    for file in files:
        found = _read(file, wanted)
        rows += found.rows
        problems += found.problems
    problems += [str(problem) for problem in duplicates([_pattern(row) for row in rows])]
    if problems:
        raise _refusal(problems, files)
    if not rows:
        raise EngramError("nothing to import: there is no row", where=_listed(files), fix="give files that hold rows")
    sources = quoted(", ".join(file.name for file in files))
    text = pattern_file(out.stem, sources, [(row.input, row.output, row.category) for row in rows])
    if fault := too_large(len(text.encode())):
        raise EngramError(f"as a pattern file, {fault.message}", where=_listed(files), fix="import it in parts")
    return _put(text, out, rows)


def _refuse_target(out: Path) -> None:
    if out.suffix not in (".yaml", ".yml"):
        raise EngramError("a pattern file's name ends in .yaml", where=str(out), fix="give such a name: --out")
    if os.path.lexists(out):
        raise EngramError("is there already, and is left as it is", where=str(out), fix="give another name: --out")
    if wrong := unfit("name", out.stem):
        raise EngramError(wrong[0], where=str(out), fix="give another name: --out")


def _read(file: Path, wanted: Wanted) -> Read:
    reader, name = READERS.get(file.suffix.lower()), visible(str(file))
    if reader is None:
        return Read([], [f"{name}: no known kind of file; known are {', '.join(READERS)}"])
    with readable_errors(file, "read this file"):
        size = file.stat().st_size
    if size > MAX_BYTES:
        return Read([], [f"{name}: {size / 2**20:.0f} MiB, at most {MAX_BYTES // 2**20} are read; split it"])
    content = read_bytes(file)
    try:
        return reader(name, content.decode("utf-8-sig"), wanted)
    except UnicodeDecodeError:
        return Read([], _not_utf8(name, content))


def _not_utf8(name: str, content: bytes) -> list[str]:
    problems = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            problems.append(f"{name}:{number}: not UTF-8: byte 0x{line[error.start]:02x}; save the file as UTF-8")
    return problems


def _pattern(row: Row) -> Pattern:
    return Pattern(pattern_id(row.input), row.input, row.output, "", row.category or "", row.place)


def _put(text: str, out: Path, rows: Sequence[Row]) -> list[Pattern]:
    with readable_errors(out, "write this file"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as folder:
            work = Path(folder) / out.name
            write_text(work, text)
            patterns = load_patterns([work])
            read_back = [(pattern.input, pattern.output, pattern.category) for pattern in patterns]
            if read_back != [(row.input, row.output, row.category or out.stem) for row in rows]:
                raise RuntimeError(f"{out}: what was written is not what is read back")
            _move_new(work, out)
    return patterns


def _move_new(work: Path, out: Path) -> None:
    """Give the file its name unless something has it by now; without hard links, by taking the name first."""
    try:
        os.link(work, out)
    except FileExistsError:
        _refuse_target(out)
    except OSError:
        out.open("xb").close()
        work.replace(out)


def _refusal(problems: Sequence[str], files: Sequence[Path]) -> EngramError:
    shown = [*problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        shown.append(f"… and {len(problems) - SHOWN_PROBLEMS} more")
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    fix = "put these lines right, or take them out; nothing was written"
    return EngramError(f"{count} in {_listed(files)}", problems=shown, fix=fix)


def _listed(files: Sequence[Path]) -> str:
    return ", ".join(visible(str(file)) for file in files)
