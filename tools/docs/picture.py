"""The README's picture: the show of the first reference run, recorded; the film itself is rendered from the cast."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from engram.dataset import build
from engram.patterns.loading import find_files, load_patterns
from engram.show.video import cast, render
from tools.reference import REFERENCE, RUNS, SMOLLM2

NAME = "default-0"


def recorded() -> cast.Cast:
    """The show of the reference run on its own data, as `make record` would record it."""
    run = RUNS[SMOLLM2][NAME]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = find_files()
        build.write_data(load_patterns(files), files, root / "data", run.seed)
        shutil.copytree(REFERENCE / NAME, root / "results" / run.backend)
        return cast.of_demo(root / "results" / run.backend, root / "data")


def paint(path: Path) -> None:
    """The GIF beside a cast, rendered from it."""
    render.render([cast.read(path)], path.parent, path.stem, ["gif"])
