"""Each process's share of a planned batch: all of it together, nothing twice, nothing lost."""

from __future__ import annotations

import json

import numpy as np
import pytest
from packs import refusal

from engram.models.tokenizer import Encoded
from engram.plan import sharding
from engram.plan.batches import PAD_LENGTH, PAD_TARGETS, Batch, make_batch
from engram.plan.sharding import Ranks, share
from engram.training import processes


def learned(batch: Batch) -> list[tuple[str, tuple[int, ...], int]]:
    """Each learned token with its row's name and all that it is predicted from."""
    length = batch.tokens.shape[1]
    found = []
    for i in np.flatnonzero(batch.weights > 0):
        row, column = divmod(int(batch.positions[i]), length)
        assert row == batch.owners[i]
        found.append((batch.ids[row], tuple(batch.tokens[row, : column + 1].tolist()), int(batch.targets[i])))
    return found


def row(name: str, prompt: int, answer: int) -> Encoded:
    return Encoded(name, tuple(range(1, prompt + answer + 1)), prompt)


BATCHES = [
    make_batch([row("a", 3, 2), row("b", 20, 9), row("c", 5, 1), row("d", 7, 40), row("e", 3, 2)], 0),
    make_batch([row("a", 3, 2)], 0),
    make_batch([row("a", 3, 2), row("b", 1, 1)], 9),
]


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("batch", BATCHES)
def test_the_shares_are_the_batch(batch: Batch, size: int) -> None:
    assert share(batch, Ranks()) is batch
    parts = [share(batch, Ranks(rank, size)) for rank in range(size)]
    assert sorted(one for part in parts for one in learned(part)) == sorted(learned(batch))
    assert sum(part.answer_tokens for part in parts) == batch.answer_tokens
    busy = [part for part in parts if part.answer_tokens]
    assert sum(part.real_tokens for part in busy) == batch.real_tokens
    assert sorted(name for part in busy for name in part.ids) == sorted(batch.ids)
    for part in parts:
        assert part.tokens.shape[1] % PAD_LENGTH == 0 and len(part.targets) % PAD_TARGETS == 0
        assert [a.dtype for a in (part.tokens, part.positions, part.targets, part.weights, part.owners)] == [
            a.dtype for a in (batch.tokens, batch.positions, batch.targets, batch.weights, batch.owners)
        ]
        assert part.answer_tokens or not part.weights.any()


def test_padding_is_cut_to_what_a_share_needs() -> None:
    (short,) = (part for part in (share(BATCHES[0], Ranks(rank, 2)) for rank in (0, 1)) if "d" not in part.ids)
    assert short.lengths.max() <= short.tokens.shape[1] == 28 < BATCHES[0].tokens.shape[1]


def test_rows_are_dealt_by_their_tokens() -> None:
    assert sharding.dealt([10, 1, 9, 2], 2) == [[0, 1], [2, 3]]
    assert sharding.dealt([5], 3) == [[0], [], []]
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(8, 64, 16).tolist()
        loads = [sum(lengths[i] for i in rows) for rows in sharding.dealt(lengths, 2)]
        assert abs(loads[0] - loads[1]) <= max(lengths) / 2


def test_dropout_differs_by_run_step_and_process() -> None:
    seeds = {sharding.step_seed(seed, step, rank) for seed in range(3) for step in range(30) for rank in range(4)}
    assert len(seeds) == 3 * 30 * 4
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_where_a_process_stands_is_read_from_its_launcher(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert sharding.place("mlx") == sharding.place("cpu") == (0, 1, 1)
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "hosts").write_text('[["10.0.0.1:5"], ["10.0.0.1:6"], ["10.0.0.2:7"]]\n')
    monkeypatch.setenv("MLX_RANK", "2")
    monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts"))
    assert sharding.place("cpu") == sharding.place("cuda") == (3, 4, 2)
    assert sharding.place("mlx") == (2, 3, 2)
    monkeypatch.setenv("MLX_RANK", "0")
    (tmp_path / "hosts").write_text("\n")  # one process alone
    assert sharding.place("mlx") == (0, 1, 1)


def test_processes_that_would_train_something_else_are_refused() -> None:
    first, second = ({"data": {"seed": seed}, "recipe": {"rank": 8, "seed": seed}} for seed in (0, 1))
    ranks = Ranks(1, 2, gather=lambda content: [json.dumps(first).encode(), content])
    processes.refuse_unlike(ranks, first)
    error = refusal(processes.refuse_unlike, ranks, second)
    assert error.what == "the processes would not train the same"
    assert error.problems == (
        "data.seed: 0 and 1 (process 0, and process 1)",
        "recipe.seed: 0 and 1 (process 0, and process 1)",
    )
