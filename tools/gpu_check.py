"""`make gpu-check`: Unsloth against plain TRL + PEFT on the same batches; curves, speed, memory and answers.

Every run has a process of its own, since Unsloth changes transformers and TRL at its import. Installs nothing, asks no
network, and ends within its time: what could not run is named in the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from engram import backends
from engram.dataset import build
from engram.models import adapters, model, tokenizer
from engram.patterns.loading import find_files, load_patterns
from engram.plan import batches as encoding
from engram.plan import config, documents
from engram.plan.config import Config
from engram.support import console as show
from engram.support import gpu, locks, machine
from engram.support.errors import EngramError
from engram.support.files import PACKAGE, write_bytes, write_text
from engram.training import train
from engram.training.processes import Silent
from tools.random_model import SMOLLM, random_model
from tools.worker import run_apart

REFERENCE = PACKAGE.parent / "results" / "reference"
SECONDS = 450  # for everything; eight minutes with what starting and writing take
RUNS = ("plain", "unsloth")
WARM_UP = 5  # steps that compile kernels; left out of the speed where there are more
# steps, batch size, prompts answered, new tokens: enough for a curve on a GPU, enough to run at all on a CPU
SIZES = {
    ("tiny", "cuda"): (100, 32, 64, 16),
    ("tiny", "cpu"): (20, 16, 32, 16),
    ("smollm-135m-random", "cuda"): (60, 16, 64, 16),
    ("smollm-135m-random", "cpu"): (3, 2, 4, 8),
}


def main() -> None:
    """Run every part and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--out", type=Path, default=REFERENCE)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    try:
        with locks.held(arguments.out, "make gpu-check"):
            path, document = check(arguments.backend, arguments.out)
    except EngramError as error:
        sys.exit(f"engram: {error}")
    tell(document)
    show.note(f"written: {path}")


def check(backend: str, out: Path, seconds: float = SECONDS) -> tuple[Path, dict[str, Any]]:
    """Every part within `seconds`; the path of the result document and the document."""
    started = time.monotonic()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    name = backend if backend in ("cuda", "cpu") else "cuda" if machine.nvidia_gpu() else "cpu"
    parts, skipped = [], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = find_files()
        build.write_data(load_patterns(files), files, root / "data", seed=0)
        for which in ("tiny", "smollm-135m-random"):
            runs = {}
            for run in RUNS:
                show.note(f"{which}, {run}, on {name}")
                order = {"run": run, "which": which, "backend": name, "folder": folder}
                left = seconds - (time.monotonic() - started)
                runs[run] = result = _order(order, left)
                if "reason" in result:
                    skipped.append({"part": f"{which}, {run}", "reason": result["reason"]})
            parts.append(_part(which, runs))
    document: dict[str, Any] = {
        "schema_version": 1,
        "backend": name,
        "gpu": _card(),
        "parts": parts,
        "not_run": skipped,
        "seconds": time.monotonic() - started,
        "load": load,
        "provenance": documents.provenance(),
    }
    described = document["gpu"]["name"] if document["gpu"] and name == "cuda" else machine.hardware()["processor"]
    path = out / f"{name}-{re.sub('[^a-z0-9]+', '-', described.lower()).strip('-')}.json"
    documents.write(path, document, "gpu-check")
    return path, document


def tell(document: dict[str, Any]) -> None:
    """The result in a few lines."""
    console = show.make_console()
    for part in document["parts"]:
        for run in RUNS:
            if figures := part["runs"][run]:
                speed, memory = figures["tokens_per_second"], figures["peak_memory_bytes"] / 2**20
                losses = f"loss {figures['losses'][0]:.3f} → {figures['losses'][-1]:.3f}"
                console.print(f"{part['model']:20} {run:8} {speed:9,.0f} tokens/s {memory:7,.0f} MiB  {losses}")
        if compared := part["comparison"]:
            console.print(
                f"{part['model']:20} {compared['speedup']:.2f} times as fast; losses differ by "
                f"{compared['largest_loss_difference']:.2g} nats at most; {100 * compared['equal_answers']:.0f} % of "
                f"{compared['prompts']} answers are the same"
            )
    for skipped in document["not_run"]:
        console.print(f"could not run: {skipped['part']}: {skipped['reason']}")


def work(order: dict[str, Any]) -> None:
    """One run, in a process of its own: train, answer and score; the figures go to `<folder>/<which>-<run>.json`."""
    folder, which, backend = Path(order["folder"]), order["which"], order["backend"]
    steps, batch_size, prompts, new_tokens = SIZES[which, backend]
    chosen = model.resolve("tiny") if which == "tiny" else random_model(which, SMOLLM, folder / "smollm")
    settled = config.load_config("default", chosen.parameters)
    settled = dataclasses.replace(settled, steps=steps, batch_size=batch_size, validate_every=steps + 1, replay=0)
    encoder = tokenizer.load_encoder(chosen)
    rows, plan = train.rows_and_plan(encoder, settled, folder / "data")
    batches = [encoding.make_batch([rows[i] for i in numbers], encoder.pad_id) for numbers in plan]
    test = build.read_split(folder / "data", "test")[:prompts]
    adapter = folder / f"{which}-adapter"
    # both answer with the plain run's adapter, so that only the computing differs
    runner = _plain if order["run"] == "plain" else _unsloth
    figures, session = runner(chosen, batches, settled, backend, adapter)
    from engram.backends.unsloth import backend as unsloth

    started = time.perf_counter()
    questions = [encoder.prompt(example.prompt) for example in test]
    answers = unsloth.generate(session, questions, encoder.stop_ids, new_tokens)
    seconds = time.perf_counter() - started
    tokens = sum(len(answer.tokens) + answer.ended for answer in answers)
    figures |= {
        "answers": [answer.tokens for answer in answers],
        "answer_tokens_per_second": tokens / seconds,
        "nats": unsloth.losses(session, encoding.encode(encoder, test, settled.max_length), encoder)[0],
        "device": session.device,
        "parameters": chosen.parameters,
    }
    write_text(folder / f"{which}-{order['run']}.json", json.dumps(figures))


def _unsloth(chosen: model.Model, batches: Any, settled: Config, backend: str, adapter: Path) -> tuple[Any, Any]:
    """Engram's own backend."""
    module = backends.get(backend)
    with tempfile.TemporaryDirectory() as scratch:
        run = module.train(chosen, encoding.Plan(batches), settled, Path(scratch), Silent())
    return _figures(run, batches, run.peak_memory_bytes), module.load(chosen, adapter)


def _plain(chosen: model.Model, batches: Any, settled: Config, backend: str, adapter: Path) -> tuple[Any, Any]:
    """TRL and PEFT as they are; leaves its adapter in `adapter`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from engram.backends.unsloth import backend as unsloth
    from engram.backends.unsloth import training
    from engram.backends.unsloth.process import quiet
    from engram.plan.curve import Curve

    cuda = backend == "cuda"
    half = torch.bfloat16 if cuda and torch.cuda.get_device_capability() >= gpu.BF16 else torch.float16
    with quiet():
        options = {"trust_remote_code": False, "use_safetensors": True, "dtype": half if cuda else torch.float32}
        base = AutoModelForCausalLM.from_pretrained(chosen.path, **options)
        targets = training.linear_layers(base)
        lora = LoraConfig(r=settled.rank, lora_alpha=settled.alpha, target_modules=targets, task_type="CAUSAL_LM")
        peft = get_peft_model(base.to("cuda" if cuda else "cpu"), lora)
        training.start_at_the_shared_adapter(peft, settled)
        curve = Curve(Silent(), encoding.Plan(batches), settled)
        training.run(peft, curve, settled, 1 << 30, cuda=cuda)
    write_bytes(adapter / unsloth.WEIGHTS, unsloth.serialised(peft))
    described = adapters.peft_settings(settled.rank, settled.alpha, settled.dropout, chosen.name, targets)
    write_text(adapter / adapters.CONFIG, json.dumps(described, indent=2) + "\n")
    name = torch.cuda.get_device_name() if cuda else "CPU"
    session = unsloth.Session(peft.eval(), f"{name}, torch {torch.__version__}")
    return _figures(curve, batches, training.peak_memory(cuda=cuda)), session


def _figures(run: Any, batches: Any, memory: int) -> dict[str, Any]:
    skip = WARM_UP if len(run.seconds) > 2 * WARM_UP else 1
    rates = [batch.real_tokens / seconds for batch, seconds in zip(batches[skip:], run.seconds[skip:])]
    return {
        "losses": run.losses,
        "tokens_per_second": statistics.median(rates),
        "first_step_seconds": run.seconds[0],
        "peak_memory_bytes": memory,
    }


def _order(order: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What a worker found out, or the reason why it did not."""
    result = Path(order["folder"]) / f"{order['which']}-{order['run']}.json"
    return run_apart("tools.gpu_check", order, result, seconds)


def _part(which: str, runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    ran = {name: run for name, run in runs.items() if "reason" not in run}
    dropped = ("answers", "nats", "parameters")
    figures = {n: {k: v for k, v in run.items() if k not in dropped} if n in ran else None for n, run in runs.items()}
    sizes = [run["parameters"] for run in ran.values()]
    compared = _compare(ran["plain"], ran["unsloth"]) if len(ran) == len(RUNS) else None
    return {"model": which, "parameters": sizes[0] if sizes else None, "runs": figures, "comparison": compared}


def _compare(plain: dict[str, Any], unsloth: dict[str, Any]) -> dict[str, Any]:
    def furthest(name: str) -> float:
        return float(max(abs(a - b) for a, b in zip(plain[name], unsloth[name], strict=True)))

    equal = [a == b for a, b in zip(plain["answers"], unsloth["answers"], strict=True)]
    return {
        "speedup": unsloth["tokens_per_second"] / plain["tokens_per_second"],
        "largest_loss_difference": furthest("losses"),
        "largest_nats_difference": furthest("nats"),
        "prompts": len(equal),
        "equal_answers": sum(equal) / len(equal),
    }


def _card() -> dict[str, Any] | None:
    report = gpu.examine()
    if not (card := report.card):
        return None
    capability = ".".join(map(str, card.capability))
    described = {"name": card.name, "memory_mib": card.memory, "capability": capability, "bf16": card.bf16}
    return described | {"driver": report.driver, "cuda": report.cuda}


if __name__ == "__main__":
    main()
