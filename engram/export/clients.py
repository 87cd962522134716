"""A whole model answered by the stock programs that would load it: transformers and mlx-lm."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from engram import backends
from engram.models.model import Model
from engram.plan.encoding import Encoder
from engram.support.errors import EngramError

PROGRAMS = ("mlx_lm", "torch")
BATCH = 32  # prompts that transformers answers at once


def require() -> None:
    """Raise an EngramError where no program is installed that loads a whole model."""
    if not any(importlib.util.find_spec(module) for module in PROGRAMS):
        fix = "make setup; or export with --unchecked, and the card says so"
        raise EngramError("neither mlx-lm nor torch is here to check the model with", where="--format fused", fix=fix)


def answers(
    folder: Path, prompts: Sequence[Sequence[int]], encoder: Encoder, limit: int
) -> Iterator[tuple[str, list[str]]]:
    """Each installed program's name and its greedy answers to these prompts, computed as on its own device."""
    if importlib.util.find_spec("mlx_lm"):
        backend = backends.get("mlx")
        session = backend.load(Model(folder.name, folder))
        given = backend.generate(session, prompts, encoder.stop_ids, limit)
        yield f"mlx-lm {version('mlx-lm')}", [encoder.text(answer.tokens) for answer in given]
    if importlib.util.find_spec("torch"):
        ids = _transformers(folder, prompts, encoder, limit)
        yield f"transformers {version('transformers')}", [encoder.text(tokens) for tokens in ids]


def _transformers(folder: Path, prompts: Sequence[Sequence[int]], encoder: Encoder, limit: int) -> Iterator[list[int]]:
    """In float32; rows padded on the left, the end token and what follows it taken off."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    ).eval()
    for start in range(0, len(prompts), BATCH):
        rows = prompts[start : start + BATCH]
        width = max(len(row) for row in rows)
        padded = torch.tensor([[encoder.pad_id] * (width - len(row)) + list(row) for row in rows])
        real = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            made = model.generate(
                padded,
                attention_mask=real,
                max_new_tokens=limit,
                do_sample=False,
                eos_token_id=sorted(encoder.stop_ids),
                pad_token_id=encoder.pad_id,
            )
        for row in made[:, width:].tolist():
            end = next((place for place, token in enumerate(row) if token in encoder.stop_ids), len(row))
            yield row[:end]
