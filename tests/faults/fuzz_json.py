"""Result documents and the data's manifest: each read, checked against its raw parts, and refused with its place."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import nasty
from documents import HASH, training, write_run
from hunt import Case, read
from hypothesis import strategies as st
from packs import write_pack

from engram.dataset import build
from engram.evaluation import compare, compare_runs, pipeline, verify
from engram.plan import documents as results
from engram.show.report import gather, sections
from tools.parity.main import REFERENCE

KINDS = ("result", "training", "comparison", "comparisons", "seeds", "manifest", "parity")


@functools.cache
def documents(folder: Path) -> dict[str, Any]:
    """A small valid document of each kind, the run that they speak of in `folder`."""
    place = folder / "mlx"
    write_run(place, before=[False, True], after=[True, True])
    results.write(place / "training.json", training(HASH["b"], losses=(2.0, 1.0)), "training")
    compare.compare(place)
    compare_runs.collect(folder)
    write_pack(folder)
    results.write(folder / "seeds.json", pipeline.summarise([place]), "seeds")
    files = {
        "result": place / "tuned.json", "training": place / "training.json", "comparison": place / "comparison.json",
        "comparisons": folder / "comparison.json", "seeds": folder / "seeds.json",
        "manifest": folder / "data" / "manifest.json",
    }  # fmt: skip
    found = {name: json.loads(path.read_bytes()) for name, path in files.items()}
    found["result"]["answers"] = found["result"]["answers"][:3]
    return found | {"parity": _parity(found["result"]["model"])}


def _parity(model: dict[str, Any]) -> dict[str, Any]:
    """The committed table, as if it were of this model, with little in its lists."""
    document = json.loads((REFERENCE / "parity.json").read_bytes()) | {"model": model}
    return {name: value[:1] if isinstance(value, list) else value for name, value in document.items()}


def cases(folder: Path) -> st.SearchStrategy[Case]:
    """A spoiled or damaged document of any kind."""
    known = documents(folder)
    return st.sampled_from(KINDS).flatmap(lambda kind: st.builds(Case, st.just(kind), _contents(known[kind])))


def _contents(document: Any) -> st.SearchStrategy[bytes]:
    text = json.dumps(document, indent=1).encode()
    spoiled = nasty.spoiled(document).map(lambda made: nasty.dumps(made).encode("utf-8", "surrogatepass"))
    grown = nasty.grown(document).map(lambda made: json.dumps(made).encode())
    return st.one_of(spoiled, spoiled, grown, nasty.damaged(text), st.binary(max_size=40))


def check(case: Case, folder: Path) -> Any:
    """Read the document by whoever reads its kind, and verify it."""
    if case.kind == "manifest":
        return _checked_manifest(case, folder)
    if case.kind == "parity":
        return _checked_parity(case, folder)
    place = folder / "mlx" if case.kind != "comparisons" else folder
    path = place / "fuzzed.json"
    path.write_bytes(case.content)
    document = read(lambda: results.read(path, case.kind, "make eval"), path.name)
    places = verify.Places(folder / "data", folder / "adapters", "nowhere/x" if case.kind == "result" else None)
    read(lambda: verify.verify(path, places), path.name)
    return document


def _checked_manifest(case: Case, folder: Path) -> Any:
    path = folder / "data" / "manifest.json"
    sound = path.read_bytes()
    try:
        path.write_bytes(case.content)
        return read(lambda: build.read_manifest(folder / "data"), path.name, place=False)
    finally:
        path.write_bytes(sound)


def _checked_parity(case: Case, folder: Path) -> Any:
    place = folder / "parity"
    place.mkdir(exist_ok=True)
    (place / "parity.json").write_bytes(case.content)
    run = compare_runs.Run("mlx", documents(folder)["comparison"], {}, None)
    found = gather.Found([run], [])

    def shown() -> Any:
        gather._read_parity(found, place)
        return sections.parity_section(found.parity) if found.parity else None

    return copy.copy(read(shown, "parity.json"))
