"""The model's own rows: made once, kept, and trained on by their KL divergence alike on both backends."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from packs import refusal

from engram.backends import Loaded
from engram.backends.mlx import backend as mlx
from engram.backends.mlx import model as mlx_model
from engram.models import retention
from engram.models.model import Model, resolve
from engram.models.tokenizer import load_encoder
from engram.plan.batches import LIKELY, Likely, likeliest, make_batch
from engram.support.files import cache_folder
from engram.training import replay

TINY = resolve("tiny")
ENCODER = load_encoder(TINY)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def changed(folder: Path, file: str, change: Callable[[str], str]) -> Model:
    """`tiny` with another file."""
    shutil.copytree(TINY.path, folder, ignore=shutil.ignore_patterns("SHA256SUMS"))
    (folder / file).write_text(change((folder / file).read_text("utf-8")), "utf-8")
    return resolve(str(folder))


def test_rows_are_made_once_and_a_damaged_file_is_made_again() -> None:
    found = replay.of(Loaded("mlx", TINY), ENCODER)
    (file,) = (cache_folder() / "replay").iterdir()
    before = file.stat().st_mtime_ns
    again = replay.of(Loaded("mlx", TINY), ENCODER)
    assert file.stat().st_mtime_ns == before and again.rows == found.rows and again.sha256 == found.sha256
    assert len(found.rows) == replay.ROWS
    for row, likely in zip(found.rows, found.likely, strict=True):
        assert likely.tokens.shape == (row.answer_length, LIKELY) and len(row.tokens) <= replay.LONGEST
    for content in (b"", file.read_bytes()[:-100], b"PK"):
        file.write_bytes(content)
        assert replay.of(Loaded("mlx", TINY), ENCODER).sha256 == found.sha256


def test_rows_of_the_same_weights_with_other_files_are_others(tmp_path: Path) -> None:
    """A tokenizer or a chat template of another kind gives other rows, whatever the weights."""
    other = changed(tmp_path / "other", "chat_template.jinja", lambda text: "{# changed #}" + text)
    assert other.weights_sha256 == TINY.weights_sha256 and other.files_sha256 != TINY.files_sha256
    for model in (TINY, other, TINY):
        replay.of(Loaded("mlx", model), load_encoder(model))
    assert len([*(cache_folder() / "replay").iterdir()]) == 2


@pytest.fixture
def stranger(tmp_path: Path) -> Model:
    """A model that brings no rows."""
    ignored = shutil.ignore_patterns("replay.jsonl", "SHA256SUMS")
    return resolve(str(shutil.copytree(TINY.path, tmp_path / "stranger", ignore=ignored)))


def test_a_model_without_rows_writes_them(stranger: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "ROWS", 30)
    found = replay.of(Loaded("mlx", stranger), ENCODER)
    assert 5 < len(found.rows) <= 30
    opening = ENCODER.prompt("A")[:3]
    measured = {row.prompt.casefold() for row in retention.general_set(stranger).rows}
    asked = [ENCODER.text(row.tokens[3 : row.prompt_length]).removesuffix("\nassistant\n") for row in found.rows]
    assert len({*asked}) == len(asked) and not measured & {text.casefold() for text in asked}
    for row in found.rows:
        assert list(row.tokens[:3]) == opening and row.answer_length <= replay.ANSWER + 1
        assert sum(token == ENCODER.end_id for token in row.tokens[row.prompt_length :]) <= 1


def test_a_model_that_writes_nothing_is_refused(stranger: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_questions", lambda *_: [])
    error = refusal(replay.of, Loaded("mlx", stranger), ENCODER)
    assert str(error) == (
        "stranger: the model writes no questions that it can answer\n  fix: train without replay: SET=replay=0"
    )


def test_the_kl_divergence_is_what_it_says_on_both_backends() -> None:
    torch = pytest.importorskip("torch")
    import mlx.core as mx

    from engram.backends.unsloth.training import divergence

    draw = np.random.default_rng(1)
    base, tuned = (draw.normal(0, 4, (16, 500)).astype(np.float32) for _ in range(2))
    likely = likeliest(base)
    p, q = (np.exp(z.astype(float)) / np.exp(z.astype(float)).sum(1, keepdims=True) for z in (base, tuned))
    kept = [np.take_along_axis(one, likely.tokens, axis=1) for one in (p, q)]
    kept = [np.concatenate([one, 1 - one.sum(1, keepdims=True)], axis=1) for one in kept]
    expected = (kept[0] * np.log(kept[0] / kept[1])).sum(1)
    assert (expected > 0.1).all() and (expected <= (p * np.log(p / q)).sum(1) + 1e-9).all()  # merged tokens say less
    with np.errstate(all="raise"):
        ours = np.array(mlx_model.loss(mx.array(tuned), *map(mx.array, likely)))
    theirs = divergence(torch.from_numpy(tuned), likely).numpy()
    assert np.allclose(ours, expected, rtol=1e-4) and np.allclose(theirs, expected, rtol=1e-4)
    same = np.array(mlx_model.loss(mx.array(base), *map(mx.array, likely)))
    assert np.abs(same).max() < 1e-5


def test_a_model_does_not_differ_from_itself_and_padding_counts_nothing() -> None:
    session = mlx.load(TINY)
    rows = retention.encode_general(ENCODER, retention.general_set(TINY).rows)[:12]
    likely = mlx.likely(session, rows, ENCODER)
    nats, apart = mlx.losses(session, rows, ENCODER, likely)
    assert max(map(abs, apart)) < 1e-5 and [nats] == mlx.losses(session, rows, ENCODER)
    turned = [Likely(one.tokens[::-1], one.chances[::-1]) for one in likely]
    assert min(mlx.losses(session, rows, ENCODER, turned)[1]) > 0.1
    batch = make_batch(rows[:3], 0, likely[:3])
    assert batch.likely is not None and not batch.likely.chances[batch.answer_tokens :].any()
