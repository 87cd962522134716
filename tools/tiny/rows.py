"""Rows of tokens to train on: packing, the loss weights of prompts and answers, shuffled batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tools.tiny.tokenizer import TURN_END

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tokens = NDArray[np.uint16]
    Weights = NDArray[np.float32]

Conversation = list[dict[str, str]]
PROMPT_WEIGHT = 0.25  # of a prompt token's loss; made-up prompts are mostly unpredictable, answers are not


@dataclass(frozen=True)
class Rows:
    """Packed rows: `tokens` and `weights` are (rows, length + 1); a weight belongs to the token it predicts."""

    tokens: Tokens
    weights: Weights


def pack_text(texts: Iterable[str], tokenizer: Any, length: int) -> Rows:
    """Lay documents end to end, `<|endoftext|>` between them, and cut the stream into rows of `length` + 1."""
    import numpy as np

    stream: list[int] = []
    for text in texts:
        stream.extend(tokenizer.encode(text, add_special_tokens=False))
        stream.append(tokenizer.pad_token_id)
    count = len(stream) // (length + 1)
    tokens = np.array(stream[: count * (length + 1)], dtype=np.uint16).reshape(count, length + 1)
    return Rows(tokens, np.ones(tokens.shape, dtype=np.float32))


def pack_chat(conversations: Iterable[Conversation], tokenizer: Any, length: int) -> Rows:
    """Fill rows with whole conversations; each row starts one, as a prompt does, and cuts its last one off."""
    import numpy as np

    width = length + 1
    rows: list[list[int]] = []
    weights: list[list[float]] = []
    row: list[int] = []
    weight: list[float] = []
    for conversation in conversations:
        ids, importance = encode_conversation(conversation, tokenizer)
        row += ids
        weight += importance
        if len(row) >= width:
            rows.append(row[:width])
            weights.append(weight[:width])
            row, weight = [], []
    return Rows(
        np.array(rows, dtype=np.uint16).reshape(-1, width), np.array(weights, dtype=np.float32).reshape(-1, width)
    )


def encode_conversation(conversation: Conversation, tokenizer: Any) -> tuple[list[int], list[float]]:
    """ChatML token ids of a conversation with `<|endoftext|>` after it, and the loss weight of each.

    The same text as the chat template gives; a test holds the two together.
    """
    ids: list[int] = []
    weights: list[float] = []
    for message in conversation:
        head = tokenizer.encode(f"<|im_start|>{message['role']}\n", add_special_tokens=False)
        body = tokenizer.encode(f"{message['content']}{TURN_END}", add_special_tokens=False)
        tail = tokenizer.encode("\n", add_special_tokens=False)
        ids += head + body + tail
        spoken = 1.0 if message["role"] == "assistant" else PROMPT_WEIGHT
        weights += [PROMPT_WEIGHT] * len(head) + [spoken] * len(body) + [PROMPT_WEIGHT] * len(tail)
    return [*ids, tokenizer.pad_token_id], [*weights, PROMPT_WEIGHT]


class Batches:
    """Shuffled rows of one kind without end; a new order, from the same generator, each time through."""

    def __init__(self, rows: Rows, count: int, seed: int) -> None:
        import numpy as np

        self._rows, self._count = rows, count
        self._random = np.random.default_rng(seed)
        self._order: list[int] = []

    def take(self) -> Rows:
        """The next `count` rows."""
        while len(self._order) < self._count:
            self._order.extend(int(index) for index in self._random.permutation(len(self._rows.tokens)))
        chosen, self._order = self._order[: self._count], self._order[self._count :]
        return Rows(self._rows.tokens[chosen], self._rows.weights[chosen])
