"""The parts of `make compare-methods`, and the document that they fill."""

from __future__ import annotations

from typing import Any

import click

from engram import backends
from engram.models import model
from engram.plan import documents
from engram.support import console
from engram.support.errors import EngramError
from tools.methods import campaign, contenders, limits

PARTS = ("runs", "layers", "exact", "edit", "uses", "scale", "facts")


def _begun(fresh: bool) -> dict[str, Any]:
    if campaign.PATH.is_file() and not fresh:
        return documents.read(campaign.PATH, "methods", "make compare-methods")
    return {"document": "methods", "schema_version": documents.SCHEMA_VERSION, "runs": []}


@click.command()
@click.option("--parts", default=",".join(PARTS), show_default=True, help="Which parts, with commas.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Seeds of the runs.")
@click.option("--sets", default=",".join(campaign.SETS), show_default=True, help="Sets of the runs.")
@click.option("--backend", default="mlx", show_default=True, help="mlx, cuda or cpu.")
@click.option("--fresh", is_flag=True, help="Measure everything anew.")
def main(parts: str, seeds: str, sets: str, backend: str, fresh: bool) -> None:
    """Compare the methods, and write results/reference/methods.json; runs that are there are not measured again."""
    wanted = parts.split(",")
    if unknown := sorted({*wanted} - {*PARTS}):
        raise EngramError(f"no such part: {', '.join(unknown)}", where="--parts", fix=f"some of {', '.join(PARTS)}")
    tiny = model.resolve("tiny")
    document = _begun(fresh) | campaign.about(backends.choose(backend), tiny)

    def keep() -> None:
        documents.write(campaign.PATH, document | {"provenance": documents.provenance()}, "methods")

    for part in wanted:
        console.note(f"part {part}")
        if part == "runs":
            numbers = [int(seed) for seed in seeds.split(",")]
            names = contenders.NAMES
            campaign.compare(document, document["backend"], tiny, numbers, sets.split(","), names, console.note, keep)
        else:
            document[part] = limits.MEASURED[part](document["backend"], tiny, console.note)
        keep()


if __name__ == "__main__":
    main()
