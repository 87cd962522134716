"""Answers under Unsloth: many prompts in batches padded on the left, or one as a stream of tokens.

Keys and values are transformers' own: `generate` makes them for each batch, so what prompts share is computed in each
row.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from engram.backends.unsloth.process import out_of_memory, quiet
from engram.plan.batches import by_length
from engram.plan.curve import Answer, Prompts

ROWS = 64  # of a batch; drawn answers depend on which rows stand together


def answers(session: Any, prompts: Prompts, stop: frozenset[int], limit: int, temperature: float) -> list[Answer]:
    """Answers in the prompts' order; greedy at temperature 0."""
    made: dict[int, Answer] = {}
    settings = options(stop, limit, temperature)
    for batch in by_length(prompts, ROWS):
        made |= zip(batch, _answered(session, [prompts[i] for i in batch], stop, settings))
    return [made[i] for i in range(len(prompts))]


def _answered(session: Any, prompts: Prompts, stop: frozenset[int], settings: dict[str, Any]) -> list[Answer]:
    tokens, mask = left_padded(prompts, stop, session.model.device)
    with out_of_memory("generating", "a smaller MODEL, or QUANTIZE=4bit"), quiet():
        made = session.model.generate(input_ids=tokens, attention_mask=mask, **settings)
    return [_cut(row, stop) for row in made[:, tokens.shape[1] :].tolist()]


class AbandonedError(Exception):
    """Nobody reads this stream any more."""


class Streamer:
    """What transformers' `generate` hands the prompt and new tokens to; it waits until the next one is asked for."""

    def __init__(self) -> None:
        self.made: queue.Queue[Any] = queue.Queue()
        self.asked = threading.Semaphore(0)
        self.abandoned = False

    def put(self, value: Any) -> None:
        """The prompt, or a new token."""
        self.made.put(value)
        self.asked.acquire()
        if self.abandoned:
            raise AbandonedError

    def end(self) -> None:
        """After the last token."""
        self.made.put(None)


def streamed(generate: Callable[[Streamer], Any], stop: frozenset[int]) -> Iterator[int]:
    """The new tokens of a call of transformers' `generate`, which computes only while the next one is waited for.

    It works in its own thread: Unsloth's buffers are shared by all models of a process, so no two may compute at once.
    """
    streamer = Streamer()

    def work() -> None:
        try:
            generate(streamer)
        except AbandonedError:
            pass
        except BaseException as error:  # it belongs to whoever reads the stream
            streamer.made.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for number in itertools.count():
            item = streamer.made.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            if number and (token := int(item.reshape(-1)[0])) not in stop:  # the first is the prompt
                yield token
            streamer.asked.release()
    finally:
        streamer.abandoned = True
        streamer.asked.release()
        thread.join()


def options(stop: frozenset[int], limit: int, temperature: float) -> dict[str, Any]:
    """Every setting of `generate` that a model's own generation config could change."""
    length = {"max_new_tokens": limit, "eos_token_id": sorted(stop), "pad_token_id": min(stop)}
    options = length | {"do_sample": False, "use_cache": True, "repetition_penalty": 1.0}
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "min_p": None}
    return options | (sampling if temperature > 0 else {})


def left_padded(prompts: Prompts, stop: frozenset[int], place: Any) -> tuple[Any, Any]:
    """Token ids and attention mask, int64 [rows, longest], the padding on the left."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = [[min(stop)] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(tokens, device=place), torch.tensor(mask, device=place)


def _cut(row: Sequence[int], stop: frozenset[int]) -> Answer:
    for place, token in enumerate(row):
        if token in stop:
            return Answer(list(row[:place]), True)
    return Answer(list(row), False)
