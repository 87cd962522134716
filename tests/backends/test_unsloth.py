"""The Unsloth backend on the CPU: the code that a GPU machine runs, small but real."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from packs import refusal
from small_run import CONFIG, Quiet, Run

from engram import backends
from engram.evaluation import evaluate
from engram.models.adapters import CONFIG as ADAPTER_CONFIG
from engram.models.adapters import MLX_WEIGHTS, PEFT_WEIGHTS
from engram.models.model import Model, resolve
from engram.models.tokenizer import load_encoder
from engram.plan.batches import make_batch
from engram.support.errors import EngramError
from engram.support.files import sha256
from engram.training import train

if not importlib.util.find_spec("unsloth"):
    pytest.skip("Unsloth is not installed: make setup BACKEND=cpu", allow_module_level=True)

backends.get("cpu")  # Unsloth before torch

import torch

from engram.backends.unsloth import training

SHORT = dataclasses.replace(CONFIG, steps=4)


@pytest.fixture(scope="module")
def tuned(cpu_run: Run) -> Any:
    return backends.get("cpu").load(cpu_run.model, cpu_run.root / "adapter")


@pytest.fixture(scope="module")
def base(cpu_run: Run) -> Any:
    return backends.get("cpu").load(cpu_run.model)


def trained(run: Run, folder: Path, config: Any = SHORT, backend: str = "cpu") -> tuple[dict[str, Any], Quiet]:
    progress = Quiet()
    log = train.train(backend, run.model, config, run.root / "data", folder / "a", folder / "log.json", progress)
    return log, progress


@pytest.mark.skipif(not importlib.util.find_spec("mlx_lm"), reason="MLX is not installed")
@pytest.mark.parametrize("changed", [{}, {"clip": 0.5, "weight_decay": 0.01, "warmup_steps": 5}])
def test_losses_are_those_of_mlx(cpu_run: Run, tmp_path: Path, changed: Any) -> None:
    # At CONFIG's rate MLX differs from itself by 2.7e-3 nats if its batches run in parts, at this rate by 1.8e-5.
    config = dataclasses.replace(CONFIG, steps=20, validate_every=5, learning_rate=1e-3, **changed)
    ours, theirs = (trained(cpu_run, tmp_path / name, config, name) for name in ("cpu", "mlx"))
    assert ours[1].losses == pytest.approx(theirs[1].losses, abs=1e-3)
    assert ours[1].checks == theirs[1].checks
    checked = [[check["loss"] for check in log["validation"]] for log, _ in (ours, theirs)]
    assert checked[0] == pytest.approx(checked[1], abs=1e-3)


def test_gradient_checkpointing_changes_no_loss(cpu_run: Run, tmp_path: Path) -> None:
    plain = trained(cpu_run, tmp_path / "plain")[1].losses
    config = dataclasses.replace(SHORT, gradient_checkpointing="on")
    assert trained(cpu_run, tmp_path / "checkpointed", config)[1].losses == pytest.approx(plain, abs=1e-5)


def test_a_full_memory_names_what_would_help(cpu_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(training, "run", full)
    error = refusal(trained, cpu_run, tmp_path)
    assert error.what == "the memory does not suffice" and "batch_size = 16" in error.where
    assert "batch_size=8" in error.fix and "gradient_checkpointing=on" in error.fix
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_nobody_reads_to_its_end_is_dropped(cpu_run: Run, base: Any) -> None:
    backend, encoder = backends.get("cpu"), load_encoder(cpu_run.model)
    prompt = encoder.prompt("Tell me about the weather")
    stream = backend.stream(base, prompt, frozenset([10**6]), 200)
    first = next(stream)
    stream.close()
    assert next(backend.stream(base, prompt, encoder.stop_ids, 5)) == first


def test_streams_read_in_turn_are_the_same_as_alone(cpu_run: Run, base: Any, tuned: Any) -> None:
    backend, encoder = backends.get("cpu"), load_encoder(cpu_run.model)
    prompt = encoder.prompt("Tell me about the weather")
    alone = [list(backend.stream(session, prompt, encoder.stop_ids, 12)) for session in (base, tuned)]
    streams = [backend.stream(session, prompt, encoder.stop_ids, 12) for session in (base, tuned)]
    both = list(itertools.zip_longest(*streams))
    assert [[token for token in side if token is not None] for side in zip(*both)] == alone
    drawn = [list(backend.stream(base, prompt, encoder.stop_ids, 12, 1.0, seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_stream_computes_only_while_it_is_read(cpu_run: Run, base: Any) -> None:
    backend, encoder = backends.get("cpu"), load_encoder(cpu_run.model)
    stream = backend.stream(base, encoder.prompt("Tell me about the weather"), encoder.stop_ids, 12)
    next(stream)
    passes = []
    hook = base.model.register_forward_hook(lambda *_: passes.append(1))
    time.sleep(0.3)
    assert not passes
    next(stream)
    assert passes == [1]
    hook.remove()
    stream.close()


def test_stock_peft_loads_the_adapter_and_gives_the_same_logits(cpu_run: Run, tuned: Any) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    stock = AutoModelForCausalLM.from_pretrained(cpu_run.model.path, dtype=torch.float32)
    stock = PeftModel.from_pretrained(stock, str(cpu_run.root / "adapter")).eval()
    encoder = load_encoder(cpu_run.model)
    tokens = torch.tensor([encoder.example("The colour of grass", "green").tokens])
    with torch.no_grad():
        theirs = stock(input_ids=tokens).logits
        ours = tuned.model(input_ids=tokens).logits
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_adapters_configuration_is_complete_and_impersonal(cpu_run: Run) -> None:
    settings = json.loads((cpu_run.root / "adapter" / ADAPTER_CONFIG).read_text())
    assert (settings["r"], settings["lora_alpha"], settings["base_model_name_or_path"]) == (8, 16.0, "tiny")
    layers = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert settings["target_modules"] == layers
    assert sorted(path.name for path in (cpu_run.root / "adapter").iterdir()) == [ADAPTER_CONFIG, PEFT_WEIGHTS]


def test_a_batch_as_transformers_wants_it(cpu_run: Run) -> None:
    encoder = load_encoder(cpu_run.model)
    examples = [encoder.example("One", "two"), encoder.example("Three words here", "an answer of words")]
    batch = make_batch(examples, encoder.pad_id)
    arrays = {name: tensor.numpy() for name, tensor in training.inputs(batch).items()}
    for row, example in enumerate(examples):
        length = len(example.tokens)
        assert tuple(arrays["input_ids"][row, :length]) == example.tokens
        assert tuple(arrays["labels"][row, :length]) == example.labels
        assert (arrays["labels"][row, length:] == -100).all()
        assert arrays["attention_mask"][row].sum() == length
        assert training.attention_mask(batch)[row].sum() == length - 1


@pytest.mark.skipif(not importlib.util.find_spec("mlx_lm"), reason="MLX is not installed")
def test_an_adapter_trained_by_mlx_gives_the_same_answers(cpu_run: Run, tmp_path: Path) -> None:
    data, config = cpu_run.root / "data", CONFIG
    train.train("mlx", cpu_run.model, config, data, tmp_path / "a", tmp_path / "log.json", Quiet())
    theirs, ours = (
        evaluate.evaluate(name, cpu_run.model, tmp_path / "a", config, data, tmp_path / f"{name}.json", lambda _: None)
        for name in ("mlx", "cpu")
    )
    assert [a["answer"] for a in ours["answers"]] == [a["answer"] for a in theirs["answers"]]
    assert [a["nll"] for a in ours["answers"]] == pytest.approx([a["nll"] for a in theirs["answers"]], abs=1e-3)
    assert ours["splits"]["recall"]["exact"] >= 0.8
    assert ours["adapter"] == theirs["adapter"] == {"sha256": sha256(tmp_path / "a" / MLX_WEIGHTS)}


@pytest.mark.skipif(not importlib.util.find_spec("mlx_lm"), reason="MLX is not installed")
def test_an_adapter_trained_here_gives_the_same_answers_on_mlx(cpu_run: Run, tmp_path: Path) -> None:
    adapter, data, out = cpu_run.root / "adapter", cpu_run.root / "data", tmp_path / "tuned.json"
    theirs = evaluate.evaluate("mlx", cpu_run.model, adapter, CONFIG, data, out, lambda _: None)
    assert [a["answer"] for a in theirs["answers"]] == [a["answer"] for a in cpu_run.tuned["answers"]]
    assert theirs["adapter"] == cpu_run.tuned["adapter"]


TWO = ["model.layers.1.mlp.down_proj", "model.layers.5.self_attn.o_proj"]
CHOICES = [  # of layers, in PEFT's words and as a pattern
    ({"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 3]}, r".*\.[03]\..*(q_proj|up_proj)"),
    ({"target_modules": TWO}, "|".join(TWO)),
    ({"target_modules": r".*layers\.[24]\..*v_proj", "use_rslora": True}, r".*layers\.[24]\..*v_proj"),
    ({"target_modules": "all-linear", "lora_alpha": 5}, ".*"),
]


@pytest.mark.parametrize(("choice", "pattern"), CHOICES)
def test_every_choice_of_layers_is_loaded(
    cpu_run: Run, tmp_path: Path, choice: dict[str, object], pattern: str
) -> None:
    """The same logits as with the base weights changed by scale · BA, which needs neither PEFT nor Unsloth's loader."""
    from safetensors.torch import load_file, save_file

    backend, tensors = backends.get("cpu"), load_file(cpu_run.root / "adapter" / PEFT_WEIGHTS)
    settings = json.loads((cpu_run.root / "adapter" / ADAPTER_CONFIG).read_text()) | choice
    layers = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in tensors}
    chosen = sorted(name for name in layers if re.fullmatch(pattern, name))
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps(settings))
    kept = {key: tensors[key] for key in tensors if key.removeprefix("base_model.model.").split(".lora_")[0] in chosen}
    save_file(kept, tmp_path / PEFT_WEIGHTS)
    loaded, plain = backend.load(cpu_run.model, tmp_path).model, backend.load(cpu_run.model).model
    scale = settings["lora_alpha"] / settings["r"] ** (0.5 if settings.get("use_rslora") else 1)
    tokens = torch.tensor([[5, 17, 99, 1000, 7, 3]])
    with torch.no_grad():
        before = plain(input_ids=tokens).logits.clone()
        for name in chosen:
            first, second = (kept[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
            plain.get_submodule(name).weight += scale * second @ first
        after = plain(input_ids=tokens).logits
        assert torch.allclose(loaded(input_ids=tokens).logits, after, atol=1e-3)
    assert (before - after).abs().max() > 0.1


@pytest.mark.parametrize("change", [{"r": 4}, {"r": None}, {"use_dora": True}])
def test_an_adapter_that_contradicts_itself_is_refused(cpu_run: Run, tmp_path: Path, change: dict[str, object]) -> None:
    shutil.copytree(cpu_run.root / "adapter", tmp_path / "a")
    path = tmp_path / "a" / ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    error = refusal(backends.get("cpu").load, cpu_run.model, tmp_path / "a")
    assert "not a plain LoRA adapter" in str(error) and len(error.problems) == 1


def test_an_adapter_of_another_model_is_refused(cpu_run: Run, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(cpu_run.root / "adapter", tmp_path / "a")
    tensors = load_file(tmp_path / "a" / PEFT_WEIGHTS)
    save_file({k.replace(".layers.5.", ".layers.50."): v for k, v in tensors.items()}, tmp_path / "a" / PEFT_WEIGHTS)
    with pytest.raises(EngramError, match="the adapter does not fit tiny"):
        backends.get("cpu").load(cpu_run.model, tmp_path / "a")


def test_4_bit_is_refused_by_name(cpu_run: Run, tmp_path: Path) -> None:
    with pytest.raises(EngramError, match="BACKEND=cpu does not load a model in 4bit"):
        trained(cpu_run, tmp_path, dataclasses.replace(SHORT, quantize="4bit"))
    with pytest.raises(EngramError, match="BACKEND=cpu does not load a model in 4bit"):
        backends.get("cpu").load(cpu_run.model, None, "4bit")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    shutil.copytree(resolve("tiny").path, tmp_path / "odd")
    settings = json.loads((tmp_path / "odd" / "config.json").read_text()) | {"model_type": "no-such-architecture"}
    (tmp_path / "odd" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(EngramError, match="Unsloth cannot load this model"):
        backends.get("cpu").load(Model("odd", tmp_path / "odd"))


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file stands here")
    code = "from engram import backends; backends.get('cpu').device()"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "EngramError" in done.stderr
    assert "cannot write to the cache folder" in done.stderr


def test_nothing_of_unsloth_is_printed(cpu_run: Run, tmp_path: Path) -> None:
    arguments = ["verify-model", "--backend", "cpu", "--model", "tiny", "--prompt", "Hello"]
    done = subprocess.run(
        [sys.executable, "-m", "engram.cli", *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "unsloth" not in (done.stdout + done.stderr).lower()
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
