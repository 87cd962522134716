"""How fast the test set is answered: engram, a loop over mlx_lm.generate, and lm_eval; and whether they say the same.

    python benchmarks/evaluation.py [--model tiny] [--rounds 3] [--out FILE.json]

Every peer answers the test prompts of `patterns/`, greedily, with 32 new tokens at most, in a process of its own. What
is timed is from the prompts' texts to the answers' texts, chat template and tokenizer included; imports, loading and a
first short answer are not. The peers take turns, round by round, so that a busy machine is busy for all of them.

The loops over mlx_lm.generate are what a user writes: `mlx_lm.load`, then for each prompt the chat template and
`mlx_lm.generate`. `mlx_lm` computes in float32 with the OpenBLAS that engram gives MLX, as engram does on a CPU;
`mlx_lm as installed` in the model's own precision with the BLAS of its wheel. lm_eval (`hf`, float32, one torch thread)
answers the task of `engram export-eval` at batch size 1, its default, and at larger ones, of which the fastest is its
best. Peers without batches answer every fourth prompt of the list, and rest in every second round. Processor seconds
stand beside the rates: on a busy machine they say more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 32
ROUNDS = 3
SLOW = {"mlx_lm": 4, "mlx_lm as installed": 4, "lm_eval batch 1": 4}  # these answer every fourth prompt
LM_EVAL_SIZES = (1, 64, 272)
OURS = "engram mlx"
PEERS = ("engram mlx", "engram cpu", "mlx_lm", "mlx_lm as installed", *(f"lm_eval batch {n}" for n in LM_EVAL_SIZES))
NEEDS = {"engram cpu": "unsloth", "mlx_lm": "mlx_lm", "mlx_lm as installed": "mlx_lm", "engram mlx": "mlx_lm"}
TEACH = "epochs=0.6"
Answering = Callable[[str, Sequence[int]], list[str]]  # a peer's name, places in the list of prompts -> answers


def measure(model: str, folder: Path, rounds: int = ROUNDS, peers: Sequence[str] = PEERS) -> dict[str, Any]:
    """Answers a second of each peer on the baseline and on a quickly taught adapter; `folder` is for working files.

    A peer has its rates in answers a second (`median`, `min`, `max`, of `rounds`), the processor's seconds for one
    (`cpu_seconds`, median), the number of answers (`answers`), of those whose text is that of engram's MLX backend
    (`identical`), and the ids of the others (`differing`). `times_loop` and
    `times_lm_eval` are engram's median rate over that of the loop with the same BLAS, and of lm_eval at its best.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _prepare(model, folder)
    chosen = [peer for peer in peers if _installed(peer)]
    return {
        "model": model,
        "prompts": len(_examples(folder)),
        "limit": LIMIT,
        "threads": dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        "timed": "from the prompts' texts to the answers' texts; imports, loading and a first answer excluded",
        "stages": {stage: _stage(stage, folder, rounds, chosen) for stage in ("baseline", "tuned")},
    }


def _stage(stage: str, folder: Path, rounds: int, peers: Sequence[str]) -> dict[str, Any]:
    ids = [example.id for example in _examples(folder)]
    rounds_of: dict[str, list[dict[str, Any]]] = {peer: [] for peer in peers}
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(_worker(name, stage, folder)) for name in _processes(peers)}
        for name, worker in workers.items():  # they load side by side; what is timed begins when all are ready
            _read(worker, name)
        for number in range(rounds):
            for peer in peers if number % 2 == 0 else reversed(peers):
                if peer in SLOW and number % 2:
                    continue  # a long round says as much
                rounds_of[peer].append(_ask(workers[_process(peer)], peer))
    ours = rounds_of[OURS][-1]["answers"]
    found = {peer: _rates(made) | _agreement(ids, made[-1]["answers"], ours) for peer, made in rounds_of.items()}
    return {"peers": found, **_ratios(found)}


def _rates(made: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rates = [len(one["answers"]) / one["seconds"] for one in made]
    cpu = statistics.median(one["cpu_seconds"] / len(one["answers"]) for one in made)
    return {
        "median": statistics.median(rates), "min": min(rates), "max": max(rates), "rounds": len(rates),
        "cpu_seconds": cpu, "answers": len(made[-1]["answers"]),
    }  # fmt: skip


def _agreement(ids: Sequence[str], answers: dict[str, str], ours: dict[str, str]) -> dict[str, Any]:
    """Answers are by the prompt's place in the list."""
    differing = [ids[int(place)] for place, text in answers.items() if text != ours[place]]
    return {"identical": len(answers) - len(differing), "differing": differing}


def _ratios(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    ours = found[OURS]["median"]
    harness = {peer: one["median"] for peer, one in found.items() if peer.startswith("lm_eval")}
    best = max(harness, key=lambda peer: harness[peer], default=None)
    default = harness.get("lm_eval batch 1")
    loop = found.get("mlx_lm", {}).get("median")
    return {
        "times_loop": ours / loop if loop else None,
        "times_lm_eval_default": ours / default if default else None,
        "times_lm_eval": ours / harness[best] if best else None,
        "lm_eval_best": best,
    }


# --- working files ----------------------------------------------------------------------------------------------------


def _prepare(model: str, folder: Path) -> None:
    """Data, an adapter in both layouts, and the export for lm_eval."""
    from engram.dataset import build
    from engram.patterns.loading import find_files, load_patterns

    if (folder / "ready").is_file():
        return
    files = find_files(str(ROOT / "patterns"))
    build.write_data(load_patterns(files), files, folder / "data", 0)
    places = ["--data", "data", "--model", model]
    _engram(
        folder, "train", *places, "--backend", "mlx", "--adapters", "adapters", "--results", "results", "--set", TEACH
    )
    _engram(folder, "adapter", "convert", "adapters/mlx", "adapters/peft", "--to", "peft")
    _engram(folder, "export-eval", "export", *places)
    (folder / "ready").write_text(model)


def _engram(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "engram.cli", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def _examples(folder: Path) -> list[Any]:
    from engram.dataset.build import read_split

    return read_split(folder / "data", "test")


def _installed(peer: str) -> bool:
    from importlib.util import find_spec

    return find_spec(NEEDS.get(peer, "lm_eval")) is not None


# --- a peer in its process --------------------------------------------------------------------------------------------


def _process(peer: str) -> str:
    """The process that a peer answers in: lm_eval's sizes share one."""
    return "lm_eval" if peer.startswith("lm_eval") else peer


def _processes(peers: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(_process(peer) for peer in peers))


@contextlib.contextmanager
def _worker(name: str, stage: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that loads its model, answers once and says so; then all prompts for each line that it reads."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", name, stage, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_DATASETS_OFFLINE": "1"} | ({"ENGRAM_BLAS": "reference"} if "installed" in name else {})
    with (folder / f"{name} {stage}.log").open("w") as log:
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _ask(process: subprocess.Popen[str], peer: str) -> dict[str, Any]:
    assert process.stdin
    process.stdin.write(peer + "\n")
    process.stdin.flush()
    return _read(process, peer)


def _read(process: subprocess.Popen[str], peer: str) -> dict[str, Any]:
    """The next line that is the worker's own: libraries print on the same output."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith("@@"):
            found: dict[str, Any] = json.loads(line[2:])
            return found
    raise RuntimeError(f"{peer} ended; its log is in the working folder")


def work(name: str, stage: str, folder: Path) -> None:
    """Load, warm up, say so, then answer the prompts for each line, which names the peer."""
    from engram.models.model import resolve

    spec = (folder / "ready").read_text()
    prompts = [example.prompt for example in _examples(folder)]
    adapter = folder / "adapters" if stage == "tuned" else None
    answering = _STARTS[name.split(" ")[0]](name, resolve(spec), adapter, prompts, folder)
    print("@@" + json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        peer = line.strip()
        places = range(0, len(prompts), SLOW.get(peer, 1))
        begun, cpu = time.perf_counter(), time.process_time()
        answers = answering(peer, places)
        took = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}
        print("@@" + json.dumps(took | {"answers": dict(zip(places, answers, strict=True))}), flush=True)


def _engram_answers(name: str, model: Any, adapter: Path | None, prompts: list[str], _: Path) -> Answering:
    from engram import backends
    from engram.models.tokenizer import load_encoder

    backend = backends.get(name.split(" ")[1])
    encoder = load_encoder(model)
    session = backend.load(model, adapter / "mlx" if adapter else None)

    def answering(_: str, places: Sequence[int]) -> list[str]:
        ids = encoder.prompts([prompts[place] for place in places])
        made = backend.generate(session, ids, encoder.stop_ids, LIMIT)
        return [encoder.text(answer.tokens) for answer in made]

    backend.generate(session, [encoder.prompt("Hello")], encoder.stop_ids, 2)
    return answering


def _mlx_lm_answers(name: str, model: Any, adapter: Path | None, prompts: list[str], _: Path) -> Answering:
    from engram.backends.mlx import blas

    blas.prepare()  # MLX's own where ENGRAM_BLAS says so
    import mlx.core as mx
    import mlx_lm

    loaded, tokenizer = mlx_lm.load(str(model.path), adapter_path=str(adapter / "mlx") if adapter else None)
    if "installed" not in name and mx.default_device() == mx.cpu:
        loaded.set_dtype(mx.float32)

    def answer(prompt: str, limit: int = LIMIT) -> str:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
        return str(mlx_lm.generate(loaded, tokenizer, ids, max_tokens=limit))

    answer("Hello", 4)
    return lambda _, places: [answer(prompts[place]) for place in places]


def _lm_eval_answers(_n: str, model: Any, adapter: Path | None, prompts: list[str], folder: Path) -> Answering:
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    torch.set_num_threads(1)
    peft = {"peft": str(adapter / "peft")} if adapter else {}
    lm = HFLM(
        pretrained=str(model.path), device="cpu", dtype="float32", add_bos_token=False, enable_thinking=False, **peft
    )
    tasks = TaskManager(include_path=str(folder / "export"), include_defaults=False).load("engram")["tasks"].values()
    for task in tasks:
        task.build_all_requests(
            apply_chat_template=True, fewshot_as_multiturn=True, chat_template=lm.apply_chat_template
        )
    requests = [request for task in tasks for request in task.instances]
    by_prompt = {request.doc["prompt"]: request for request in requests}

    def answering(peer: str, places: Sequence[int]) -> list[str]:
        lm.batch_size_per_gpu = int(peer.rsplit(" ", 1)[1])
        made: list[str] = lm.generate_until([by_prompt[prompts[place]] for place in places], disable_tqdm=True)
        return made

    lm.batch_size_per_gpu = 1
    lm.generate_until(requests[:1], disable_tqdm=True)
    return answering


_STARTS = {"engram": _engram_answers, "mlx_lm": _mlx_lm_answers, "lm_eval": _lm_eval_answers}


def main() -> None:
    """Measure, print and, where asked, write; or be a peer's process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a name of `engram models` or a folder")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each peer answers")
    parser.add_argument("--peers", default=",".join(PEERS), help="names with commas")
    parser.add_argument("--folder", type=Path, help="working files; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        work(chosen.worker[0], chosen.worker[1], Path(chosen.worker[2]))
        return
    with tempfile.TemporaryDirectory() as place:
        found = measure(chosen.model, (chosen.folder or Path(place)).resolve(), chosen.rounds, chosen.peers.split(","))
    text = json.dumps(found, indent=1)
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
