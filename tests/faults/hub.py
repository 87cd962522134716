"""The model hub goes away, in each way: what it does is refused within a bound, or the model is whole."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from fake_hub import FAULTS, HUB_ID, asked_at, served
from tally import Note, Tally

from engram.models import hub
from engram.support.errors import EngramError
from engram.support.files import BUNDLED, sha256

PATIENCE = hub.Patience(2.0, 100_000)
BOUND = 30.0  # seconds of one attempt, on a machine that does other work too
ONCE = "file is cut once"


def campaign(seed: int, scale: float, note: Note) -> list[Tally]:
    """Each fault several times, then the same cache with the hub as it should be."""
    rounds = max(1, round(10 * scale))
    draw = random.Random(seed)
    faults = [fault for _ in range(rounds) for fault in (*FAULTS, ONCE)]
    if scale < 0.2:
        faults = draw.sample(faults, 3)
    started, losses, kinds, longest = time.monotonic(), [], Counter[str](), 0.0
    for number, fault in enumerate(faults):
        note(f"hub {number + 1}/{len(faults)}: {fault}")
        with tempfile.TemporaryDirectory() as folder:
            problem, seconds = attempt(fault, Path(folder))
        kinds[fault] += 1
        longest = max(longest, seconds)
        if problem:
            losses.append(f"seed {seed}, case {number}, {fault}: {problem}")
    what = "a download from a hub with one fault, then again from a sound one into the same cache"
    spent = time.monotonic() - started
    return [Tally("hub", what, dict(kinds), losses, spent, {"longest attempt, s": round(longest, 1)})]


def attempt(fault: str, cache: Path) -> tuple[str, float]:
    """What went wrong in one case, or nothing; and how long the attempt with the fault took."""
    with served(fault) as made, asked_at(made.address, cache):
        began = time.monotonic()
        try:
            path = hub.fetch(HUB_ID, PATIENCE)
            said = ""
        except EngramError as error:
            path, said = None, str(error)
        seconds = time.monotonic() - began
        if seconds > BOUND:
            return f"took {seconds:.0f} s", seconds
        if fault == ONCE and path is None:
            return f"a download that was cut once was not resumed: {said}", seconds
        if path is not None and fault != ONCE:
            return "was taken for a model", seconds
        if path is None and "fix:" not in said:
            return f"no fix in: {said}", seconds
        if path is None and hub.cached(HUB_ID):
            return "a half model counts as whole", seconds
        if list(cache.rglob("*.incomplete")):
            return "a part was left", seconds
        made.fault = ""
        try:
            path = hub.fetch(HUB_ID, PATIENCE)
        except EngramError as error:
            return f"a sound hub afterwards: {error}", seconds
        same = sha256(path / "model.safetensors") == sha256(BUNDLED / "tiny" / "model.safetensors")
        return ("" if same else "the weights are others"), seconds
