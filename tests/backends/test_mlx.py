"""The MLX backend on the bundled model, in one small run of the stages: training, answers, scores, adapters."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_run import CONFIG, Quiet, Run, evaluated_again

from engram import backends
from engram.evaluation import pipeline
from engram.models.tokenizer import Encoded, load_encoder
from engram.plan.batches import make_batch
from engram.support import schema
from engram.support.errors import EngramError
from engram.support.files import sha256
from engram.training import train


def test_training_teaches(run: Run) -> None:
    assert run.progress.losses[0] > 2
    assert run.progress.losses[-1] < 0.2
    assert run.tuned["splits"]["recall"]["exact"] >= 0.8
    assert run.baseline["splits"]["recall"]["exact"] <= 0.2
    assert run.tuned["splits"]["recall"]["nll"] < run.baseline["splits"]["recall"]["nll"]


def test_log_has_every_step_and_its_figures(run: Run) -> None:
    assert [step["step"] for step in run.log["steps"]] == list(range(1, 61))
    assert run.log["recipe"]["steps"] == 60
    assert run.progress.checks == [0, 30, 60]
    assert run.log["summary"]["tokens_per_second"] > 0
    assert run.log["summary"]["peak_memory_bytes"] > 1_000_000
    assert run.log["adapter"]["sha256"] == sha256(run.root / "adapter" / "adapters.safetensors")


def test_documents_on_disk_are_valid_and_impersonal(run: Run) -> None:
    for path, name in pipeline.DOCUMENTS.items():
        text = (run.root / "results" / "mlx" / f"{path}.json").read_text("utf-8")
        assert schema.problems(json.loads(text), name) == []
        for secret in (str(run.root), str(Path.home()) + "/"):
            assert secret not in text


def test_comparison_has_the_fields_that_readers_use(run: Run) -> None:
    improvement = json.loads((run.root / "results/mlx/comparison.json").read_text())["improvement"]
    for split in ("recall", "generalization"):
        assert improvement[split]["n"] == run.comparison["baseline"][split]["n"]
        for stage in ("baseline", "tuned"):
            side = run.comparison[stage][split]
            low, high = side["ci95"]
            assert low <= side["exact"] <= high
        assert set(improvement[split]) >= {"exact", "ci95", "p_value"}
    counts = run.comparison["baseline"]["recall"]["n"] + run.comparison["baseline"]["generalization"]["n"]
    assert counts == 10


def test_same_seed_same_result_document_in_another_process(run: Run, tmp_path: Path) -> None:
    first, second = evaluated_again(run, "mlx", tmp_path)
    assert first == second


def test_same_seed_same_bytes(run: Run, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=4)
    hashes = []
    for name in ("one", "two"):
        log = train.train("mlx", run.model, config, run.root / "data", tmp_path / name, tmp_path / "log.json", Quiet())
        hashes.append(log["adapter"]["sha256"])
    assert hashes[0] == hashes[1]
    other = dataclasses.replace(config, seed=1)
    log = train.train("mlx", run.model, other, run.root / "data", tmp_path / "three", tmp_path / "log.json", Quiet())
    assert log["adapter"]["sha256"] != hashes[0]


def test_clipping_changes_the_run(run: Run, tmp_path: Path) -> None:
    losses = []
    for clip in (0.0, 0.01):
        config = dataclasses.replace(CONFIG, steps=3, clip=clip)
        progress = Quiet()
        train.train("mlx", run.model, config, run.root / "data", tmp_path / "a", tmp_path / "log.json", progress)
        losses.append(progress.losses)
    assert losses[0][0] == losses[1][0]
    assert losses[0][2] != losses[1][2]


def test_an_exploding_loss_stops_the_run_and_leaves_no_adapter(run: Run, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, learning_rate=1e30, steps=10)
    with pytest.raises(EngramError, match=r"the loss is (nan|inf) at step"):
        train.train("mlx", run.model, config, run.root / "data", tmp_path / "a", tmp_path / "log.json", Quiet())
    assert list(tmp_path.iterdir()) == []


def test_changed_data_is_refused(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.root / "data", tmp_path / "data")
    with (tmp_path / "data" / "train.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(EngramError, match=r"changed or gone since the manifest was written: train\.jsonl"):
        train.train("mlx", run.model, CONFIG, tmp_path / "data", tmp_path / "a", tmp_path / "log.json", Quiet())


def test_batched_and_streamed_answers_are_the_same(run: Run) -> None:
    backend, encoder = backends.get("mlx"), load_encoder(run.model)
    session = backend.load(run.model, run.root / "adapter")
    prompts = [encoder.prompt(a["prompt"]) for a in run.tuned["answers"]]
    batched = [answer.tokens for answer in backend.generate(session, prompts, encoder.stop_ids, 16)]
    streamed = [list(backend.stream(session, prompt, encoder.stop_ids, 16)) for prompt in prompts]
    assert batched == streamed
    assert [encoder.text(tokens) for tokens in batched] == [a["answer"] for a in run.tuned["answers"]]


def test_end_token_ends_an_answer_and_the_limit_cuts_it(run: Run) -> None:
    backend, encoder = backends.get("mlx"), load_encoder(run.model)
    session = backend.load(run.model)
    prompt = encoder.prompt("Who are you?")
    cut = backend.generate(session, [prompt], encoder.stop_ids, 2)[0]
    assert (len(cut.tokens), cut.ended) == (2, False)
    free = backend.generate(session, [prompt], encoder.stop_ids, 200)[0]
    assert free.ended
    assert encoder.end_id not in free.tokens


def test_sampling_is_seeded_and_differs_from_greedy(run: Run) -> None:
    backend, encoder = backends.get("mlx"), load_encoder(run.model)
    session = backend.load(run.model)
    prompts = [encoder.prompt("Tell me about the weather")] * 4

    def sampled(seed: int) -> list[list[int]]:
        return [a.tokens for a in backend.generate(session, prompts, encoder.stop_ids, 12, 0.7, seed)]

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)
    assert len({tuple(tokens) for tokens in sampled(1)}) > 1


def test_scores_are_those_of_the_whole_logits(run: Run) -> None:
    import mlx.core as mx
    import mlx.nn as nn

    backend, encoder = backends.get("mlx"), load_encoder(run.model)
    session = backend.load(run.model)
    examples = [encoder.example("The colour of grass", "green"), encoder.example("a", "a much longer answer, in words")]
    scores = backend.score(session, examples, encoder)
    for example, score in zip(examples, scores, strict=True):
        tokens = mx.array([example.tokens])
        losses = nn.losses.cross_entropy(session.model(tokens[:, :-1]), tokens[:, 1:])[0]
        assert score == pytest.approx(losses[example.prompt_length - 1 :].mean().item(), abs=1e-4)


def test_a_model_that_scales_its_logits_is_scored_by_its_own(run: Run) -> None:
    from engram.backends.mlx import backend, model

    encoder = load_encoder(run.model)
    session = backend.load(run.model)
    example = encoder.example("The colour of grass", "green")
    plain = backend.score(session, [example], encoder)[0]

    class Scaled(type(session.model)):  # type: ignore[misc]
        def __call__(self, *arguments: object, **options: object) -> object:
            return 0.1 * super().__call__(*arguments, **options)

    session.model.__class__ = Scaled
    assert session.model.has_seam
    session.model.has_seam = model.has_seam(session.model)
    assert not session.model.has_seam
    assert backend.score(session, [example], encoder)[0] < plain - 0.5


def test_padding_and_neighbours_do_not_change_a_score(run: Run) -> None:
    backend, encoder = backends.get("mlx"), load_encoder(run.model)
    session = backend.load(run.model)
    short, long = encoder.example("Hi", "Hello"), encoder.example("word " * 60, "a long row")
    alone = backend.score(session, [short], encoder)[0]
    assert backend.score(session, [long, short, long], encoder)[1] == pytest.approx(alone, abs=1e-4)


def test_batch_loss_is_the_mean_over_answer_tokens(run: Run) -> None:
    from engram.backends.mlx import backend, model

    encoder = load_encoder(run.model)
    session = backend.load(run.model)
    examples: list[Encoded] = [encoder.example("One", "two"), encoder.example("Three words here", "an answer of words")]
    batch = make_batch(examples, encoder.pad_id)
    tokens, positions, targets, weights = model.arrays(batch)
    loss = (model.token_losses(session.model, tokens, positions, targets) * weights).sum() / batch.answer_tokens
    nats = backend.score(session, examples, encoder)
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


def test_training_starts_from_the_shared_initial_adapter(run: Run, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    from engram.models.adapters import initial_factor

    config = dataclasses.replace(CONFIG, steps=1, learning_rate=1e-12)
    train.train("mlx", run.model, config, run.root / "data", tmp_path / "a", tmp_path / "log.json", Quiet())
    tensors = load_file(tmp_path / "a" / "adapters.safetensors")
    for name, value in tensors.items():
        if name.endswith(".lora_a"):
            expected = initial_factor(name.removesuffix(".lora_a"), value.shape[0], config.rank, config.seed)
            assert value == pytest.approx(expected, abs=1e-9)


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
