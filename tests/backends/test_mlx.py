"""The MLX backend on the bundled model, in one small run of the stages: training, answers, scores, adapters."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from packs import refusal
from small_run import CONFIG, Quiet, Run

from engram import backends
from engram.backends.mlx import backend, model
from engram.models.tokenizer import Encoded, load_encoder
from engram.plan.batches import make_batch
from engram.support.errors import EngramError
from engram.training import train


def test_clipping_changes_the_run(run: Run, tmp_path: Path) -> None:
    plain, clipped = Quiet(), Quiet()
    for clip, progress in ((0.0, plain), (0.01, clipped)):
        config = dataclasses.replace(CONFIG, steps=3, clip=clip)
        train.train("mlx", run.model, config, run.root / "data", tmp_path / "a", tmp_path / "log.json", progress)
    assert plain.losses[0] == clipped.losses[0] and plain.losses[2] != clipped.losses[2]


def test_a_model_that_scales_its_logits_is_scored_by_its_own(run: Run) -> None:
    encoder = load_encoder(run.model)
    session = backend.load(run.model)
    example = encoder.example("The colour of grass", "green")
    plain = backend.losses(session, [example], encoder)[0][0]

    class Scaled(type(session.model)):  # type: ignore[misc]
        def __call__(self, *arguments: object, **options: object) -> object:
            return 0.1 * super().__call__(*arguments, **options)

    session.model.__class__ = Scaled
    assert session.model.has_seam
    session.model.has_seam = model.has_seam(session.model)
    assert not session.model.has_seam
    assert backend.losses(session, [example], encoder)[0][0] < plain - 0.5


def test_batch_loss_is_the_mean_over_answer_tokens(run: Run) -> None:
    encoder = load_encoder(run.model)
    session = backend.load(run.model)
    examples: list[Encoded] = [encoder.example("One", "two"), encoder.example("Three words here", "an answer of words")]
    batch = make_batch(examples, encoder.pad_id)
    tokens, positions, targets, weights = model.arrays(batch)
    loss = (model.token_losses(session.model, tokens, positions, targets) * weights).sum() / batch.answer_tokens
    nats = backend.losses(session, examples, encoder)[0]
    total = sum(n * e.answer_length for n, e in zip(nats, examples, strict=True))
    assert batch.answer_tokens == sum(e.answer_length for e in examples)
    assert loss.item() == pytest.approx(total / batch.answer_tokens, abs=1e-4)


def test_every_linear_layer_of_every_block_is_adapted(run: Run) -> None:
    from safetensors import safe_open

    with safe_open(run.root / "adapter" / "adapters.safetensors", "numpy") as file:
        names = set(file.keys())
    config = json.loads((run.model.path / "config.json").read_text())
    assert len(names) == config["num_hidden_layers"] * 7 * 2
    settings = json.loads((run.root / "adapter" / "adapter_config.json").read_text())
    assert settings["lora_parameters"] == {"rank": 8, "scale": 2.0, "dropout": 0.0}


def of_rank_4(adapter: Path) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings["lora_parameters"]["rank"] = 4
    (adapter / "adapter_config.json").write_text(json.dumps(settings))


def cut_short(adapter: Path) -> None:
    weights = adapter / "adapters.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (of_rank_4, "the adapter does not fit tiny"),
        (cut_short, "does not fit|not a whole"),
        (lambda adapter: (adapter / "adapter_config.json").unlink(), "adapter_config.json missing"),
        (lambda adapter: (adapter / "adapters.safetensors").unlink(), "adapters.safetensors missing"),
    ],
)
def test_a_spoiled_adapter_is_refused(spoil: Callable[[Path], None], said: str, run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.root / "adapter", tmp_path / "a")
    spoil(tmp_path / "a")
    with pytest.raises(EngramError, match=said):
        backends.get("mlx").load(run.model, tmp_path / "a")


@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_a_quantized_model_is_taught_and_its_adapter_fits_the_plain_one(
    quantize: str, run: Run, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, quantize=quantize, steps=40)
    progress = Quiet()
    log = train.train("mlx", run.model, config, run.root / "data", tmp_path / "mlx", tmp_path / "log.json", progress)
    assert log["recipe"]["quantize"] == quantize and progress.losses[-1] < 0.3 * progress.losses[0]
    from mlx.utils import tree_flatten

    encoder = load_encoder(run.model)
    row = run.tuned["answers"][0]
    example = [encoder.example(row["prompt"], row["expected"])]
    few, plain = (backend.load(run.model, tmp_path / "mlx", bits) for bits in (quantize, "none"))
    sizes = [sum(value.nbytes for _, value in tree_flatten(one.model.parameters())) for one in (few, plain)]
    assert sizes[0] < 0.5 * sizes[1]
    losses = [backend.losses(one, example, encoder)[0][0] for one in (few, plain)]
    assert losses[0] == pytest.approx(losses[1], abs=1.0) and losses[0] != losses[1]
    assert losses[0] < backend.losses(backend.load(run.model, None, quantize), example, encoder)[0][0] - 1


def test_a_memory_of_a_quantized_model_is_refused(run: Run) -> None:
    error = refusal(backends.get("mlx").teacher, run.model, None, dataclasses.replace(CONFIG, quantize="4bit"))
    assert error.what == "BACKEND=mlx METHOD=memory does not load a model in 4bit"
