"""Where the time of answering goes, the floor under it, and how near to a tie the answers are that differ.

The floor is the arithmetic of the products that greedy answers cannot do without, at the rate of one product of the
model's own MLP shape on one thread: every weight of the blocks for each token of a prompt beyond what prompts share and
for each new one, the head for each new one. Beside it stands the same arithmetic at the rate that the products of the
median step reach, whose shapes are less favourable.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import LIMIT, _examples, _lm_eval_answers
from peers import apart, done
from training import _product_rate

from engram import backends
from engram.models.model import resolve
from engram.models.tokenizer import load_encoder

HERE = Path(__file__).resolve()
LOOP = "mlx_lm"  # the peer whose answers are held against engram's
HARNESS = 64  # a batch size of lm_eval that is about its best
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
TIMES = 20  # that a part of a step is done, of which the fastest counts


def profiled(model: str, folder: Path, stages: Mapping[str, Any]) -> dict[str, Any]:
    """For each stage of `evaluation.measure` in its folder: engram's time and floor, lm_eval's time, and the gaps."""
    found = {}
    for stage, measured in stages.items():
        differing = measured["peers"].get(LOOP, {}).get("differing", [])
        order = {"folder": str(folder), "stage": stage, "model": model, "differing": differing}
        ours = apart(HERE, {"task": "engram", **order}, folder)
        gaps = apart(HERE, {"task": "gaps", **order, "tokens": ours.pop("tokens")}, folder)["gaps"] if differing else []
        found[stage] = {"engram": ours, "lm_eval": apart(HERE, {"task": "lm_eval", **order}, folder), "gaps": gaps}
    return found


def _adapter(order: Mapping[str, Any], layout: str) -> Path | None:
    return Path(order["folder"]) / "adapters" / layout if order["stage"] == "tuned" else None


# --- engram -----------------------------------------------------------------------------------------------------------


def _engram(order: dict[str, Any]) -> dict[str, Any]:
    model, backend = resolve(order["model"]), backends.get("mlx")
    encoder, examples = load_encoder(model), _examples(Path(order["folder"]))
    session = backend.load(model, _adapter(order, "mlx"))
    prompts = encoder.prompts([example.prompt for example in examples])

    def answer() -> tuple[float, list[Any]]:
        started = time.perf_counter()
        made = backend.generate(session, prompts, encoder.stop_ids, LIMIT)
        return time.perf_counter() - started, made

    backend.generate(session, prompts[:2], encoder.stop_ids, 2)
    seconds, made = min((answer() for _ in range(3)), key=lambda one: one[0])
    with _Watched() as watched:
        answer()
    new = sum(len(one.tokens) + one.ended for one in made)
    rate = _product_rate(session.model)
    operations = _operations(session.model, _prompt_tokens(prompts), new)
    rows, columns = watched.middle()
    parts = _parts(session.model, rows, columns)
    products = (parts["products of the blocks"] + parts["head"]) / 1e3  # seconds of a step
    per_row = _operations(session.model, 0, 1)
    wanted = {example.id: one.tokens for example, one in zip(examples, made) if example.id in order["differing"]}
    return {
        "seconds": seconds,
        "answers": len(prompts),
        "new_tokens": new,
        "operations": operations,
        "operations_per_second": rate,
        "floor_seconds": operations / rate,
        "floor_answers_per_second": len(prompts) * rate / operations,
        "products_seconds": operations / (rows * per_row / products),
        "watched": watched.seconds(),
        "step": {"rows": rows, "columns": columns, "milliseconds": watched.step(rows)},
        "parts_of_step": parts,
        "tokens": wanted,
    }


def _prompt_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens of prompts that no program need compute twice: equal beginnings are one."""
    known = [(), *sorted({tuple(prompt) for prompt in prompts})]
    return sum(len(one) - _common(one, before) for before, one in itertools.pairwise(known))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def _operations(loaded: Any, prompt_tokens: int, new: int) -> float:
    """Multiplications and additions of the products: blocks for every token, the head for new ones."""
    from mlx.utils import tree_flatten

    named = [(name, value) for name, value in tree_flatten(loaded.parameters()) if ".layers." in name]
    blocks = sum(value.size for _, value in named if value.ndim == 2)
    return 2.0 * (blocks * (prompt_tokens + new) + loaded.args.vocab_size * loaded.args.hidden_size * new)


class _Watched:
    """Seconds of each prefill and each step while it is entered; every one is waited for, which costs a little."""

    def __enter__(self) -> _Watched:
        from engram.backends.mlx import generate

        self._batch: Any = generate._Batch
        self._plain = {name: getattr(self._batch, name) for name in ("_prefilled", "_after")}
        self.prefills: list[float] = []
        self.steps: list[tuple[int, int, float]] = []
        self._batch._prefilled, self._batch._after = self._timed("_prefilled"), self._timed("_after")
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._whole = time.perf_counter() - self._started
        for name, plain in self._plain.items():
            setattr(self._batch, name, plain)

    def _timed(self, name: str) -> Callable[..., Any]:
        import mlx.core as mx

        def timed(batch: Any, *given: Any) -> Any:
            started = time.perf_counter()
            made = self._plain[name](batch, *given)
            mx.eval(made if name == "_after" else [cache.state[:2] for cache in made])
            took = time.perf_counter() - started
            if name == "_after":
                self.steps.append((given[0].shape[0], given[1][0]._idx, took))
            else:
                self.prefills.append(took)
            return made

        return timed

    def seconds(self) -> dict[str, float]:
        """Of all prefills, all steps, and the rest: copying of keys and values, and Python."""
        prefill, steps = sum(self.prefills), sum(took for *_, took in self.steps)
        return {"prefill": prefill, "steps": steps, "rest": self._whole - prefill - steps, "count": len(self.steps)}

    def middle(self) -> tuple[int, int]:
        """Rows of the step that half of all rows' steps are smaller than, and its columns."""
        rows = sorted(row for row, *_ in self.steps for _ in range(row))[sum(row for row, *_ in self.steps) // 2]
        return rows, int(statistics.median(columns for row, columns, _ in self.steps if row == rows))

    def step(self, rows: int) -> float:
        """Milliseconds of the median step of so many rows."""
        return 1e3 * statistics.median(took for row, _, took in self.steps if row == rows)


def _parts(loaded: Any, rows: int, columns: int) -> dict[str, float]:
    """Milliseconds of a step's parts of so many rows and columns, each measured alone, times its number in a step."""
    import mlx.core as mx
    from mlx_lm.models.base import scaled_dot_product_attention
    from mlx_lm.models.cache import BatchKVCache

    from engram.backends.mlx import linux_cpu

    layer, count = loaded.model.layers[0], len(loaded.model.layers)
    attention, mlp = layer.self_attn, layer.mlp
    swiglu = __import__(type(mlp).__module__, fromlist=["swiglu"]).swiglu
    size, heads, keys = loaded.args.head_dim, attention.n_heads, attention.n_kv_heads
    x, gate = (mx.random.normal((rows, 1, n)) for n in (loaded.args.hidden_size, loaded.args.intermediate_size))
    query, key = (mx.random.normal((rows, n, 1, size)) for n in (heads, keys))
    known = mx.random.normal((rows, keys, columns, size))
    mask, offset = mx.ones((rows, 1, 1, columns), mx.bool_), mx.arange(rows)
    flat, logits = query.reshape(rows, 1, -1), mx.random.normal((rows, loaded.args.vocab_size))
    cache = BatchKVCache([0] * rows)
    cache.step = columns + LIMIT
    cache.update_and_fetch(known, known)
    mx.eval(x, gate, query, key, known, mask, offset, flat, logits, cache.state[:2])

    def kept() -> Any:
        cache.trim(1)
        return cache.update_and_fetch(key, key)

    linear = [(attention.q_proj, x), (attention.k_proj, x), (attention.v_proj, x), (attention.o_proj, flat)]
    linear += [(mlp.gate_proj, x), (mlp.up_proj, x), (mlp.down_proj, gate)]
    alone = {
        "products of the blocks": (count, lambda: [one(given) for one, given in linear]),
        "head": (1, lambda: loaded.model.embed_tokens.as_linear(x)),
        "attention": (count, lambda: scaled_dot_product_attention(query, known, known, cache, size**-0.5, mask)),
        "rotary embedding": (count, lambda: [attention.rope(one, offset=offset) for one in (query, key)]),
        "SwiGLU": (count, lambda: swiglu(gate, gate)),
        "normalisation": (2 * count + 1, lambda: layer.input_layernorm(x)),
        "keys and values": (count, kept),
        "choosing": (1, lambda: linux_cpu.most_likely(logits)),
    }
    return {name: 1e3 * times * _fastest(lambda part=part: mx.eval(part())) for name, (times, part) in alone.items()}


def _fastest(part: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(TIMES):
        started = time.perf_counter()
        part()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


# --- lm_eval, and the loop --------------------------------------------------------------------------------------------


def _lm_eval(order: dict[str, Any]) -> dict[str, Any]:
    """What torch's profiler says of one batch: seconds in products, in all operators, and by the clock without it."""
    import torch

    folder = Path(order["folder"])
    prompts = [example.prompt for example in _examples(folder)]
    adapter = folder / "adapters" if _adapter(order, "peft") else None
    answering = _lm_eval_answers("", resolve(order["model"]), adapter, prompts, folder)
    peer, places = f"lm_eval batch {HARNESS}", range(HARNESS)
    started = time.perf_counter()
    answering(peer, places)
    seconds = time.perf_counter() - started
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        answering(peer, places)
    spent = {one.key: one.self_cpu_time_total / 1e6 for one in profile.key_averages()}
    products = sum(spent.get(name, 0.0) for name in PRODUCTS)
    operators = sum(took for name, took in spent.items() if name.startswith("aten::"))
    return {"answers": len(places), "seconds": seconds, "products": products, "operators": operators}


def _gaps(order: dict[str, Any]) -> dict[str, Any]:
    """Of each answer whose text is not the loop's: whether its tokens are, and if not, how near a tie they part at.

    `gap`: at the first token in which the two differ, the log-probability of the loop's less that of engram's, in nats,
    as stock mlx-lm computes it of this row alone.
    """
    from engram.backends.mlx import blas

    blas.prepare()
    import mlx.core as mx
    import mlx_lm

    model, adapter = resolve(order["model"]), _adapter(order, "mlx")
    loaded, _ = mlx_lm.load(str(model.path), adapter_path=str(adapter) if adapter else None)
    loaded.set_dtype(mx.float32)
    encoder = load_encoder(model)
    found = []
    for example in _examples(Path(order["folder"])):
        if example.id in order["differing"]:
            parted = _parted(loaded, encoder.prompt(example.prompt), order["tokens"][example.id], encoder.stop_ids)
            found.append({"id": example.id, "same_tokens": parted is None, **(parted or {})})
    return {"gaps": found}


def _parted(loaded: Any, prompt: list[int], ours: list[int], stop: frozenset[int]) -> dict[str, Any] | None:
    """Where the loop's tokens leave ours, and by how many nats; None where they are the same."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    for place, (token, scores) in enumerate(generate_step(mx.array(prompt), loaded, max_tokens=LIMIT)):
        chosen = [ours[place]] if place < len(ours) else sorted(stop)  # after its last token stands an end
        if int(token) not in chosen:
            return {"token": place, "gap": float(scores[int(token)]) - max(float(scores[one]) for one in chosen)}
        if int(token) in stop:
            return None
    return None


if __name__ == "__main__":
    done({"engram": _engram, "lm_eval": _lm_eval, "gaps": _gaps})
