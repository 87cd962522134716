"""`make parity`: do MLX and Unsloth/TRL follow one loss curve, and what would each unmatched default have done?"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from engram import backends
from engram.models import model
from engram.plan import documents
from engram.support import console, locks
from engram.support.errors import EngramError
from engram.support.files import PACKAGE
from tools.parity import campaign, plot
from tools.parity.run import Order, work

REFERENCE = PACKAGE.parent / "results" / "reference"


def main() -> None:
    """Run the campaign, write document and plot, and exit with 1 where a target that decides is missed."""
    parser = argparse.ArgumentParser(prog="python -m tools.parity", description=__doc__)
    parser.add_argument("--backend", default="cpu", choices=("cpu", "cuda"), help="where Unsloth runs")
    parser.add_argument("--seeds", default="0,1", help="with commas between them")
    parser.add_argument("--steps", type=int, default=200, help="of the schedule; 0: the recipe's own number")
    parser.add_argument("--quick", action="store_true", help="one seed, 30 steps, three deviations")
    parser.add_argument("--model", default="tiny", help="another one: 30 steps on the code idioms, beside the noise")
    parser.add_argument("--out", type=Path, help="folder of parity.json and parity.svg")
    parser.add_argument("--work", type=Path, help="keep the runs in this folder, and take those that are there")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(Order(**json.loads(arguments.worker)))
        return
    try:
        sys.exit(run(arguments))
    except EngramError as error:
        print(f"engram: {error}", file=sys.stderr)
        sys.exit(2)


def run(arguments: argparse.Namespace) -> int:
    """The campaign as asked for on the command line; its exit code."""
    backends.get("mlx")
    out = arguments.out or (Path(tempfile.gettempdir()) / "engram-parity" if arguments.quick else REFERENCE)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    size = campaign.quick() if arguments.quick else campaign.Size(seeds, arguments.steps)
    if arguments.model != "tiny":
        size, out = campaign.real(arguments.model), arguments.out or REFERENCE / model.resolve(arguments.model).name
    name = "parity.json" if arguments.backend == "cpu" else "parity-cuda.json"
    with locks.held(out / name, "make parity"), tempfile.TemporaryDirectory() as folder:
        root = (arguments.work or Path(folder)).resolve()
        document = campaign.run(arguments.backend, size, root, jobs=min(2, os.cpu_count() or 1))
        documents.write(out / name, document, "parity")
        plot.write(document, (out / name).with_suffix(".svg"))
    campaign.tell(document)
    console.note(f"written: {out / name} and its .svg")
    return campaign.exit_code(document)
