"""Greedy answers to many prompts with MLX: what they share is computed once, and a row that ended leaves the batch.

Prompts of one template begin alike. They are parted into groups of equal beginnings; each beginning is computed once,
and its keys and values stand for it in every row. Rows join the batch in portions of like length while others end.
What is asked twice is answered once. Every row's numbers are those of a row alone, up to the rounding of sums.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from engram.backends.mlx import linux_cpu
from engram.backends.mlx import model as mlx_model
from engram.plan.batches import AT_ONCE, Batch, shared_tokens, without_beginning
from engram.plan.config import SMALL_MODEL
from engram.plan.curve import Answer
from engram.support.text import common

PORTION = 48  # rows whose prompts are computed together
ROWS_SMALL, ROWS = 160, 64  # rows that grow together, of a model below SMALL_MODEL parameters and above
TOKENS = 32_768  # of all rows together, at most: long prompts make smaller batches
FEWEST = 24  # rows for whose sake a longer beginning is computed apart
SHRINK = 0.75  # the batch is copied without its ended rows when no more than this share is left

Prompt = tuple[int, ...]


@dataclass(frozen=True)
class Portion:
    """Prompts that are computed together, and how many of their first tokens are the same."""

    shared: int
    prompts: list[Prompt]


def answers(model: Any, prompts: Sequence[Sequence[int]], stop: frozenset[int], limit: int) -> list[Answer]:
    """Greedy answers in the prompts' order, of at most `limit` tokens; `repeats(model)` must hold."""
    unique = list(dict.fromkeys(map(tuple, prompts)))
    parameters = sum(value.size for _, value in tree_flatten(model.parameters()))
    rows = ROWS_SMALL if parameters < SMALL_MODEL else ROWS
    made: dict[Prompt, Answer] = {}
    batch = _Batch(model, stop, limit)
    waiting = deque(portions(unique, min(PORTION, rows), limit))
    while waiting or batch.prompts:
        while waiting and batch.has_room(waiting[0], rows):
            batch.admit(waiting.popleft())
        made |= batch.step()
    return [made[tuple(prompt)] for prompt in prompts]


def drawn(
    model: Any, prompts: Sequence[Sequence[int]], stop: frozenset[int], limit: int, temperature: float
) -> list[Answer]:
    """Answers of any model in the prompts' order, by mlx-lm's own batches: whose rows decide what is drawn."""
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.sample_utils import make_sampler

    ends, sampler = [[token] for token in sorted(stop)], make_sampler(temp=temperature)
    sizes = {"completion_batch_size": ROWS, "prefill_batch_size": ROWS}
    generator = BatchGenerator(model, stop_tokens=ends, sampler=sampler, **sizes)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    uids = generator.insert([list(prompts[i]) for i in order], [limit] * len(prompts))
    tokens: dict[int, list[int]] = {uid: [] for uid in uids}
    ended = set()
    while responses := generator.next_generated():
        for response in responses:
            if response.finish_reason == "stop":
                ended.add(response.uid)
            else:
                tokens[response.uid].append(int(response.token))
    generator.close()
    return [Answer(tokens[uid], uid in ended) for _, uid in sorted(zip(order, uids))]


def portions(prompts: Sequence[Prompt], size: int, limit: int) -> list[Portion]:
    """The prompts in groups of equal beginnings, each in portions of like length, no portion above TOKENS.

    At least the last token of a prompt is never among the shared ones: the first new one follows from it.
    """
    found = []
    for shared, group in _groups(sorted(prompts), 0):
        rows = sorted(group, key=len)
        while rows:
            most = max(1, min(size, TOKENS // (len(rows[-1]) + limit)))
            found.append(Portion(shared, rows[:most]))
            rows = rows[most:]
    return found


def _groups(prompts: list[Prompt], known: int) -> Iterator[tuple[int, list[Prompt]]]:
    """Sorted prompts, equal in `known` tokens, in groups with the number of tokens in which each group is equal."""
    if not prompts:
        return
    # of sorted prompts, the first and the last share what all share
    shared = min(known + common(prompts[0][known:], prompts[-1][known:]), min(map(len, prompts)) - 1)
    by_next: dict[int, list[Prompt]] = {}
    for prompt in prompts:
        by_next.setdefault(prompt[shared], []).append(prompt)
    large = [group for group in by_next.values() if FEWEST <= len(group) < len(prompts)]
    rest = [prompt for group in by_next.values() if group not in large for prompt in group]
    if rest:
        yield shared, rest
    for group in large:
        yield from _groups(group, shared)


class _Batch:
    """Rows that grow together, a token at each step; the next step is begun before the last one's tokens are read."""

    def __init__(self, model: Any, stop: frozenset[int], limit: int) -> None:
        self.model, self.stop, self.limit = model, stop, limit
        self.prompts: list[Prompt] = []
        self.tokens: dict[Prompt, list[int]] = {}
        self.cache: list[Any] = []
        self.next: Any = None
        self.begun: tuple[Prompt, list[Any]] = (), []  # a beginning, and the caches of one row with it

    def has_room(self, portion: Portion, rows: int) -> bool:
        """Whether the portion may join: always into an empty batch, else within the rows and tokens of one."""
        together = [*self.prompts, *portion.prompts]
        fits = len(together) <= rows and len(together) * (max(map(len, together)) + self.limit) <= TOKENS
        return fits or not self.prompts

    def admit(self, portion: Portion) -> None:
        """Compute a portion's prompts and its first new tokens, and let its rows join."""
        cache = self._prefilled(portion)
        first = self._after(mx.array([prompt[-1] for prompt in portion.prompts]), cache)
        mx.async_eval(first)  # type: ignore[no-untyped-call]
        for mine, new in zip(self.cache, cache):
            mine.extend(new)
        self.next = mx.concatenate([self.next, first]) if self.prompts else first
        self.cache = self.cache or cache
        self.prompts += portion.prompts
        self.tokens |= {prompt: [] for prompt in portion.prompts}

    def step(self) -> dict[Prompt, Answer]:
        """One token for every row; the answers that ended with it."""
        now, self.next = self.next, None
        if any(len(row) + 1 < self.limit for row in self.tokens.values()):
            self.next = self._after(now, self.cache)
            mx.async_eval(self.next)  # type: ignore[no-untyped-call]
        ended = {}
        for prompt, token in zip(self.prompts, now.tolist()):
            if (row := self.tokens.get(prompt)) is None:  # ended before, and not yet taken away
                continue
            if token not in self.stop:
                row.append(token)
            if token in self.stop or len(row) == self.limit:
                ended[prompt] = Answer(self.tokens.pop(prompt), token in self.stop)
        left = [i for i, prompt in enumerate(self.prompts) if prompt in self.tokens]
        if not left:
            self.prompts, self.cache, self.next = [], [], None
        elif len(left) <= SHRINK * len(self.prompts):  # enough have ended: all keys and values are copied
            for cache in self.cache:
                cache.filter(left)
            self.next = self.next[mx.array(left)]
            self.prompts = [self.prompts[i] for i in left]
        return ended

    def _after(self, tokens: Any, cache: list[Any]) -> Any:
        """The most likely token of each row after these ones, int [rows]."""
        logits = self.model(tokens[:, None], cache=cache)[:, -1, :]
        if logits.dtype != mx.float32:  # half precision rounds: as mlx-lm chooses, among log-probabilities
            logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        return linux_cpu.most_likely(logits)

    def _prefilled(self, portion: Portion) -> list[Any]:
        """Keys and values of all but each prompt's last token, the shorter rows padded on the left.

        They are computed with the padding on the right, where no token looks, and moved after.
        """
        width = max(map(len, portion.prompts)) - 1
        padding = [width + 1 - len(prompt) for prompt in portion.prompts]
        shared = portion.prompts[0][: portion.shared]
        if self.begun[0] != shared:  # portions of one group come one after the other
            self.begun = shared, computed(self.model, shared) if shared else []
        caches = repeated(self.model, self.begun[1], portion.shared, len(padding), width + 1)
        if width > portion.shared:
            rows = [[*p[portion.shared : -1], *[0] * gap] for p, gap in zip(portion.prompts, padding)]
            self.model(mx.array(rows), cache=caches)
        growing = [_growing(cache, width, padding, self.limit) for cache in caches]
        mx.eval([cache.state for cache in growing if width])
        return growing


def _growing(known: Any, width: int, padding: list[int], room: int) -> Any:
    """A cache of rows of their own lengths, with `width` columns of `known`, the last `padding` of which are empty."""
    from mlx_lm.models.cache import BatchKVCache

    cache = BatchKVCache([0] * len(padding))
    cache.step = width + room
    if width:
        cache.update_and_fetch(known.keys[..., :width, :], known.values[..., :width, :])
    if max(padding):
        cache.prepare(right_padding=padding)
        cache.finalize()
    return cache


def repeats(model: Any) -> bool:
    """Whether every layer keeps plain keys and values, which can be repeated: no window, no state, not quantized."""
    from mlx_lm.models.cache import KVCache

    return all(type(cache) is KVCache for cache in _fresh(model))


def computed(model: Any, tokens: Sequence[int]) -> list[Any]:
    """A cache for each layer that holds these tokens in one row."""
    caches = _fresh(model)
    model(mx.array([list(tokens)]), cache=caches)
    mx.eval([cache.state for cache in caches])  # no logits: nothing asks for them
    return caches


def repeated(model: Any, known: Sequence[Any], count: int, rows: int, room: int = 0) -> list[Any]:
    """Caches of `rows` rows, each with the first `count` tokens of the one row in `known`, and room for `room` more.

    Nothing is known where `known` is empty.
    """
    caches = _fresh(model)
    for cache in caches:
        cache.step = count + room
    for cache, one in zip(caches, known):
        parts = (one.keys[..., :count, :], one.values[..., :count, :])
        cache.update_and_fetch(*[mx.broadcast_to(part, (rows, *part.shape[1:])) for part in parts])
    return caches


def _fresh(model: Any) -> list[Any]:
    from mlx_lm.models.cache import make_prompt_cache

    caches: list[Any] = make_prompt_cache(model)
    return caches


def judged(model: Any, batch: Batch) -> tuple[Any, Any]:
    """For each target of a batch its cross-entropy and, with `batch.likely`, the KL divergence from that, float32
    [losses, targets], and whether no token is more likely, bool [targets]."""
    plain = linux_cpu.cross_entropy if mx.default_device() == mx.cpu else mlx_model.cross_entropy
    targets, likely = mx.array(batch.targets), [mx.array(part) for part in batch.likely or ()]
    losses, hits, at = [], [], 0
    for piece in pieces(model, batch):
        here = slice(at, at := at + len(piece))
        apart = [np.array(mlx_model.loss(piece, *(one[here] for one in likely)))] if likely else []
        losses.append([np.array(plain(piece, targets[here])), *apart])
        hits.append(np.array(linux_cpu.most_likely(piece) == targets[here]))
    return np.concatenate(losses, axis=1), np.concatenate(hits)


def pieces(model: Any, batch: Batch) -> Iterator[Any]:
    """The logits of a batch's targets, float32 [some, vocabulary], AT_ONCE of them in memory together; what the rows
    begin with is computed once."""
    known = None
    if (count := shared_tokens(batch)) and repeats(model):
        one = computed(model, batch.tokens[0, :count].tolist())
        known, batch = repeated(model, one, count, *batch.tokens.shape), without_beginning(batch, count)
    tokens, positions, *_ = mlx_model.arrays(batch)
    hidden = mlx_model.hidden(model, tokens, positions, known)
    for at in range(0, len(positions), AT_ONCE):
        yield mlx_model.parts(model)[1](hidden[at : at + AT_ONCE]).astype(mx.float32)
