"""Check that an export answers as the model here does: greedy answers to the whole test set, compared one by one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engram import backends
from engram.export import llamacpp
from engram.export.gguf import HARD_CASES
from engram.models.model import Model
from engram.models.tokenizer import Encoder
from engram.plan.config import SMALL_MODEL
from engram.support.errors import EngramError
from engram.support.statistics import wilson
from engram.support.text import comparable

BAR = 0.99  # the least share of equal answers that an export needs
SHOWN = 5
BATCH = 32  # prompts that transformers answers at once
Rows = Sequence[dict[str, Any]]  # `id`, `prompt` and `answer` of a tuned result's rows


def require_program() -> None:
    """Raise an EngramError if no program is installed that loads a whole model."""
    if not importlib.util.find_spec("mlx_lm") and not importlib.util.find_spec("torch"):
        fix = "make setup; or export with --unchecked, and the card says so"
        raise EngramError("neither mlx-lm nor torch is here to check the model with", where="--format fused", fix=fix)


def with_clients(folder: Path, rows: Rows, encoder: Encoder, limit: int) -> list[dict[str, Any]]:
    """A check for each installed stock program (mlx-lm, transformers), asked with token ids."""
    prompts = encoder.prompts([row["prompt"] for row in rows])
    checks = []
    if importlib.util.find_spec("mlx_lm"):
        backend = backends.get("mlx")
        answers = backend.generate(backend.load(Model(folder.name, folder)), prompts, encoder.stop_ids, limit)
        texts = [encoder.text(answer.tokens) for answer in answers]
        checks.append(check(f"mlx-lm {version('mlx-lm')}", "token ids", rows, texts))
    if importlib.util.find_spec("torch"):
        texts = [encoder.text(tokens) for tokens in _transformers(folder, prompts, encoder, limit)]
        checks.append(check(f"transformers {version('transformers')}", "token ids", rows, texts))
    return checks


def _transformers(folder: Path, prompts: Sequence[Sequence[int]], encoder: Encoder, limit: int) -> Iterator[list[int]]:
    """Greedy answers in float32; rows padded on the left, cut before the end token."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    ).eval()
    settings = {"do_sample": False, "eos_token_id": sorted(encoder.stop_ids), "pad_token_id": encoder.pad_id}
    for start in range(0, len(prompts), BATCH):
        rows = prompts[start : start + BATCH]
        width = max(len(row) for row in rows)
        padded = torch.tensor([[encoder.pad_id] * (width - len(row)) + list(row) for row in rows])
        real = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            made = model.generate(padded, attention_mask=real, max_new_tokens=limit, **settings)
        for row in made[:, width:].tolist():
            end = next((place for place, token in enumerate(row) if token in encoder.stop_ids), len(row))
            yield row[:end]


def with_llamacpp(file: Path, rows: Rows, encoder: Encoder, limit: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Checks of a GGUF file in llama.cpp: its prompts, its answers to our ids and to chat messages.

    Also the hard cases that its tokenizer splits differently from the model's own.
    """
    prompts = encoder.prompts([row["prompt"] for row in rows])
    longest = max((len(ids) for ids in prompts), default=0)
    name = llamacpp.name()
    with llamacpp.serving(file, longest + limit, small=file.stat().st_size < 2 * SMALL_MODEL) as server:
        rendered = [server.tokenize(server.render(row["prompt"])) for row in rows]
        by_ids = [encoder.text([t for t in server.answer_ids(p, limit) if t not in encoder.stop_ids]) for p in prompts]
        by_chat = [server.answer_chat(row["prompt"], limit) for row in rows]
        ours = encoder.tokenizer([*HARD_CASES], add_special_tokens=False)["input_ids"]  # control tokens included
        differing = [text for text, ids in zip(HARD_CASES, ours) if server.tokenize(text) != ids]
    wanted = [{"id": row["id"], "answer": str(ids)} for row, ids in zip(rows, prompts, strict=True)]
    checks = [
        check(name, "the prompt's token ids", wanted, [str(ids) for ids in rendered]),
        check(name, "token ids", rows, by_ids),
        check(name, "chat messages", rows, by_chat),
    ]
    return checks, differing


def check(program: str, asked: str, rows: Rows, given: Sequence[str]) -> dict[str, Any]:
    """How many of the rows' answers are given again, with the Wilson interval and the first that differ.

    Answers are compared as they are scored: white space normalised, unless the expected one has several lines.
    """
    unlike = []
    for row, text in zip(rows, given, strict=True):
        expected = str(row.get("expected", row["answer"]))
        if comparable(row["answer"], expected) != comparable(text, expected):
            unlike.append((row, text))
    n, same = len(rows), len(rows) - len(unlike)
    return {
        "program": program,
        "asked": asked,
        "n": n,
        "same": same,
        "share": same / n if n else None,
        "ci95": wilson(same, n),
        "differing": [{"id": row["id"], "here": row["answer"], "there": text} for row, text in unlike[:SHOWN]],
    }


def refuse_unlike(checks: Sequence[dict[str, Any]], form: str, bar: float) -> None:
    """Raise an EngramError, with the numbers and the first differences, if a check is below the bar."""
    low = [one for one in checks if not one["n"] or one["share"] < bar]
    if low:
        problems = []
        for one in low:
            problems.append(f"{one['program']}, {one['asked']}: {one['same']} of {one['n']} the same")
            problems += [f"{row['id']}: {row['here']!r} here, {row['there']!r} there" for row in one["differing"]]
        what = f"the export does not answer as the model here does ({bar:.0%} is asked for); nothing was written"
        finer = "--dtype float32" if form == "fused" else "--quantize f16"
        fix = f"store it finer ({finer}); --unchecked writes it all the same, and the card says so"
        raise EngramError(what, where=f"--format {form}", problems=problems, fix=fix)
