"""Answers under Unsloth: many prompts in batches padded on the left, or one as a stream of tokens.

Keys and values are transformers' own: `generate` makes them for each batch, so what prompts share is computed in each
row. What is asked greedily twice is answered once.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from engram.backends.unsloth.process import out_of_memory, quiet
from engram.plan.config import SMALL_MODEL
from engram.plan.curve import Answer

ROWS = 64  # of a batch; drawn answers depend on which rows stand together
ROWS_SMALL = 160  # of a greedy one, of a model below SMALL_MODEL parameters
TOKENS = 32_768  # of all rows of such a batch together, at most

Prompt = tuple[int, ...]


def answers(
    session: Any, prompts: Sequence[Sequence[int]], stop: frozenset[int], limit: int, temperature: float
) -> list[Answer]:
    """Answers in the prompts' order; greedy at temperature 0, and then each prompt once."""
    greedy = temperature == 0
    asked = [tuple(prompt) for prompt in prompts]
    rows = list(dict.fromkeys(asked)) if greedy else asked
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    made: dict[int, Answer] = {}
    settings = options(session, stop, limit, temperature)
    for batch in _batches(order, rows, limit, _most(session.model) if greedy else ROWS):
        made |= zip(batch, _answered(session, [rows[i] for i in batch], stop, settings))
    if not greedy:
        return [made[i] for i in range(len(rows))]
    by_prompt = {rows[i]: answer for i, answer in made.items()}
    return [Answer(list(by_prompt[prompt].tokens), by_prompt[prompt].ended) for prompt in asked]


def _most(model: Any) -> int:
    return ROWS_SMALL if sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL else ROWS


def _batches(order: Sequence[int], rows: Sequence[Prompt], limit: int, most: int) -> Iterator[Sequence[int]]:
    """The rows in batches of `most`; a batch beyond ROWS has no more than TOKENS tokens."""
    start = 0
    while start < len(order):
        size = min(most, len(order) - start)
        while size > ROWS and size * (len(rows[order[start + size - 1]]) + limit) > TOKENS:
            size -= 1
        yield order[start : start + size]
        start += size


def _answered(session: Any, prompts: Sequence[Prompt], stop: frozenset[int], settings: dict[str, Any]) -> list[Answer]:
    tokens, mask = left_padded(prompts, settings["pad_token_id"], session.model.device)
    with out_of_memory("generating", "a smaller MODEL, or QUANTIZE=4bit"), quiet():
        made = session.model.generate(input_ids=tokens, attention_mask=mask, **settings)
    session.tokenizer.padding_side = "right"
    return [_cut(row, stop) for row in made[:, tokens.shape[1] :].tolist()]


class AbandonedError(Exception):
    """Nobody reads this stream any more."""


class Streamer:
    """What transformers' `generate` hands new tokens to; the first call brings the prompt.

    Each call ends when the next token is asked for, so that the model stands still until then.
    """

    def __init__(self) -> None:
        self.queue: queue.Queue[Any] = queue.Queue()
        self.asked = threading.Semaphore(0)
        self.begun = False
        self.abandoned = False

    def next(self) -> Any:
        """The next token, or what the worker puts at the end: an error, None."""
        self.asked.release()
        return self.queue.get()

    def abandon(self) -> None:
        """Nobody reads any more: the worker is woken to end."""
        self.abandoned = True
        self.asked.release()

    def put(self, value: Any) -> None:
        """A new token, or the prompt; waits until the next one is asked for."""
        if self.begun:
            self.queue.put(int(value.reshape(-1)[0]))
        self.begun = True
        self.asked.acquire()
        if self.abandoned:
            raise AbandonedError

    def end(self) -> None:
        """After the last token."""


def options(session: Any, stop: frozenset[int], max_new_tokens: int, temperature: float) -> dict[str, Any]:
    """Every setting of `generate` that a model's own generation config could change."""
    pad = session.tokenizer.pad_token_id
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": max_new_tokens, "use_cache": True}
    options |= {
        "repetition_penalty": 1.0,
        "eos_token_id": sorted(stop),
        "pad_token_id": pad if pad is not None else min(stop),
    }
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "min_p": None}
    return options | (sampling if temperature > 0 else {})


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int, place: Any) -> tuple[Any, Any]:
    """Token ids and attention mask, int64 [rows, longest], the padding on the left."""
    import torch

    longest = max(len(prompt) for prompt in prompts)
    tokens = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(tokens, device=place), torch.tensor(mask, device=place)


def _cut(row: Sequence[int], stop: frozenset[int]) -> Answer:
    for place, token in enumerate(row):
        if token in stop:
            return Answer(list(row[:place]), True)
    return Answer(list(row), False)
