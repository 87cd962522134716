"""Unsloth + TRL: an NVIDIA GPU (`cuda`), and the same code on a machine without one (`cpu`)."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import platform
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.backends.unsloth import generate as unsloth_generate
from engram.backends.unsloth import memory as unsloth_memory
from engram.backends.unsloth import training
from engram.backends.unsloth.process import attach, chosen, load_model, out_of_memory, quiet, unsloth, with_adapter
from engram.backends.unsloth.process import begin as begin
from engram.memory import table
from engram.memory.lookup import Memory
from engram.memory.table import Opened
from engram.models import adapters, conversion
from engram.models.model import REGISTRY, Model
from engram.models.tokenizer import Encoded, Encoder
from engram.plan.batches import AT_ONCE, Batch, Likely, distributions, mean_losses, padded, tokens_at_once
from engram.plan.checkpoint import Keeper
from engram.plan.config import Config
from engram.plan.curve import Answer, Curve, Progress, TrainingRun
from engram.plan.sharding import Ranks
from engram.support import gpu
from engram.support.errors import EngramError
from engram.support.files import write_bytes, write_text

WEIGHTS = adapters.PEFT_WEIGHTS
SCORE_BATCH = 32


@dataclass(frozen=True)
class Session:
    """A model in memory, ready to answer; its tokenizer is Unsloth's own copy, engram encodes with another."""

    model: Any
    tokenizer: Any
    device: str


def require(name: str = "cpu") -> None:
    """Raise an EngramError if Unsloth is not installed, or, for `cuda`, where no GPU can be used; import nothing."""
    missing = [package for package in ("unsloth", "trl", "torch") if not importlib.util.find_spec(package)]
    if name == "cuda":
        torch_cuda = None if "torch" in missing else gpu.torch_build()[1]
        if problem := gpu.problem(gpu.examine(), unsloth="unsloth" not in missing, torch_cuda=torch_cuda):
            raise EngramError(problem.what, where="BACKEND=cuda", fix=problem.fix)
    if missing:
        raise EngramError(
            f"the Unsloth backend is not installed ({', '.join(missing)})",
            where=f"BACKEND={name}",
            fix=f"make setup BACKEND={name}",
        )


def device() -> str:
    """What torch computes on, in words."""
    unsloth()
    import torch

    version = torch.__version__.split("+")[0]
    if chosen() == "cpu":
        return f"CPU ({platform.machine()}, torch {version})"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} (capability {major}.{minor}, torch {version}, CUDA {torch.version.cuda})"


def join() -> Ranks:
    """The processes that `torchrun` started, connected; this one alone without it."""
    unsloth()
    return training.join(chosen())


def load(
    model: Model, adapter: Path | Opened | None = None, quantize: str = "none", base: Session | None = None
) -> Session:
    """The model, in float32 on a CPU and in 16 or 4 bits on a GPU, with what the folder `adapter` holds, if given: a
    LoRA adapter in either layout, a memory, or both.

    Raises EngramError if Unsloth cannot load the model, or what it was taught cannot be read or does not fit it.
    """
    found = table.opened(adapter, model, WEIGHTS) if adapter is not None else None
    lora = conversion.read(found.lora, WEIGHTS) if found and found.lora else None
    with out_of_memory("loading", "a smaller MODEL, or QUANTIZE=4bit"), quiet():
        loaded, tokenizer = (base.model, base.tokenizer) if base else load_model(model, model.context, quantize)
        if lora is not None:
            loaded = with_adapter(loaded, lora, str(found.folder if found else ""), model.name)
        if found and found.memory:
            unsloth_memory.attach(loaded, found.memory, found.layer)
        return _answering(loaded, tokenizer)


def _answering(loaded: Any, tokenizer: Any) -> Session:
    unsloth().FastLanguageModel.for_inference(loaded)
    tokenizer.padding_side = "right"  # for_inference turned it round; engram pads by itself
    return Session(loaded, tokenizer, device())


def bare(session: Session) -> Session | None:
    """The session without the LoRA adapter on it."""
    return Session(session.model.unload(), session.tokenizer, session.device)


def train(
    model: Model,
    batches: Sequence[Batch],
    validation: Sequence[Batch],
    config: Config,
    out: Path,
    progress: Progress,
    keeper: Keeper | None = None,
    base: Session | None = None,
) -> TrainingRun:
    """Train a LoRA adapter through Unsloth and TRL's SFTTrainer and write it to `out` in the layout that PEFT reads.

    Loss, batches, their order, the learning rate of each step and the initial adapter are engram's own, as for MLX.
    Raises EngramError if the loss goes wrong and where the memory does not suffice, Stopped at a signal.
    """
    from engram.backends.unsloth import training

    fix = f"a smaller batch (--set batch_size={max(1, config.batch_size // 2)}), --set gradient_checkpointing=on"
    fix += ", or QUANTIZE=4bit" if chosen() == "cuda" else ", or a smaller MODEL"
    with out_of_memory(f"training, batch_size = {config.batch_size}", fix), quiet():
        if base and chosen() == "cpu" and config.gradient_checkpointing == "off":
            loaded, tokenizer = base.model, base.tokenizer
        else:
            base = None  # frees its memory
            loaded, tokenizer = load_model(model, config.max_length, config.quantize, config)
        targets = training.linear_layers(loaded)
        peft = attach(loaded, config, targets)
        trainable = training.start_at_the_shared_adapter(peft, config)
        curve = Curve(progress, batches, validation, config, keeper, join())
        tokens = tokens_at_once(model, gpu=chosen() == "cuda")
        training.run(peft, curve, config, tokens, cuda=chosen() == "cuda")
    if not curve.ranks.rank:
        write_bytes(out / WEIGHTS, serialised(peft))
        settings = adapters.peft_settings(
            config.rank, config.alpha, config.dropout, REGISTRY.get(model.name) or model.name, targets
        )
        write_text(out / adapters.CONFIG, json.dumps(settings, indent=2) + "\n")
    # in 16 bits Unsloth's kernels for training round in other places than PEFT's layers
    session = None if chosen() == "cuda" else _answering(peft, tokenizer)
    return curve.finished(training.peak_memory(cuda=chosen() == "cuda"), trainable, device(), session)


def teacher(model: Model, adapter: Path | None, config: Config) -> unsloth_memory.Teacher:
    """The frozen model, with the LoRA adapter of a folder if one is given, cut where the recipe's memory is read."""
    lora = conversion.read(adapter, WEIGHTS) if adapter is not None else None
    with out_of_memory("loading", "a smaller MODEL, or QUANTIZE=4bit"), quiet():
        loaded, _ = load_model(model, model.context, config.quantize)
        if lora is not None:
            loaded = with_adapter(loaded, lora, str(adapter), model.name)
        return unsloth_memory.Teacher(loaded, config.memory_blocks)


def let_read(session: Session, memory: Memory, layer: int) -> None:
    """Let a session's model read a memory before a block."""
    unsloth_memory.attach(session.model, memory, layer)


def digests(session: Session, sequences: Sequence[Sequence[int]]) -> list[str]:
    """A SHA-256 of the logits after every token of each sequence, in batches sorted by length."""
    import torch

    found = [""] * len(sequences)
    for batch, tokens in padded(sequences, SCORE_BATCH):
        ids = torch.from_numpy(tokens).long().to(session.model.device)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(batch):
            mask[row, : len(sequences[i])] = 1
        half = torch.autocast("cuda", session.model.dtype) if ids.device.type == "cuda" else contextlib.nullcontext()
        with torch.inference_mode(), half, quiet():
            logits = session.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().cpu().numpy()
        for row, i in enumerate(batch):
            found[i] = hashlib.sha256(logits[row, : len(sequences[i])].tobytes()).hexdigest()
    return found


def generate(
    session: Session,
    prompts: Sequence[Sequence[int]],
    stop: frozenset[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Answer]:
    """Answers in the prompts' order, in batches padded on the left; greedy at temperature 0."""
    import torch

    torch.manual_seed(seed)
    return unsloth_generate.answers(session, prompts, stop, max_new_tokens, temperature)


def stream(
    session: Session,
    prompt: Sequence[int],
    stop: frozenset[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[int]:
    """The answer's tokens as they come, without the end token; greedy at temperature 0.

    The model works in its own thread, but only while the next token is waited for: Unsloth's buffers are shared
    by all models of a process, so no two may compute at once.
    """
    import torch

    torch.manual_seed(seed)
    tokens, mask = unsloth_generate.left_padded([prompt], 0, session.model.device)
    streamer = unsloth_generate.Streamer()

    def work() -> None:
        try:
            options = unsloth_generate.options(session, stop, max_new_tokens, temperature)
            session.model.generate(input_ids=tokens, attention_mask=mask, streamer=streamer, **options)
        except unsloth_generate.AbandonedError:
            pass
        except BaseException as error:  # it belongs to whoever reads the stream
            streamer.queue.put(error)
        finally:
            streamer.queue.put(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := streamer.next()) is not None:
            if isinstance(item, BaseException):
                raise item
            if item not in stop:  # the worker ends after it by itself
                yield item
    finally:
        streamer.abandon()
        thread.join()
        session.tokenizer.padding_side = "right"


def score(
    session: Session, examples: Sequence[Encoded], encoder: Encoder, likely: Sequence[Likely] = ()
) -> list[float]:
    """Mean nats per answer token (end token included) of each example; with `likely` those of the KL divergence."""
    from engram.backends.unsloth.training import judged

    def losses(batch: Batch) -> Any:
        with _scoring(session):
            return judged(session.model, batch)[0]

    return mean_losses(examples, encoder.pad_id, SCORE_BATCH, losses, likely)


def likely(session: Session, examples: Sequence[Encoded], encoder: Encoder) -> list[Likely]:
    """The next-token distributions at the answer tokens of each example."""
    from engram.backends.unsloth.training import learned_logits

    def logits(batch: Batch) -> Iterator[Any]:
        with _scoring(session):
            found = learned_logits(session.model, batch)
        for piece in found.split(AT_ONCE):
            yield piece.float().cpu().numpy()

    return distributions(examples, encoder.pad_id, SCORE_BATCH, logits)


@contextlib.contextmanager
def _scoring(session: Session) -> Iterator[None]:
    """Around the forward passes that score: no gradients, half precision on a GPU, out of memory in words."""
    import torch

    half = torch.autocast("cuda", session.model.dtype) if chosen() == "cuda" else contextlib.nullcontext()
    with out_of_memory("scoring", "a smaller MODEL, or QUANTIZE=4bit"), torch.inference_mode(), half, quiet():
        yield


def serialised(peft: Any) -> bytes:
    """The adapter's tensors as a safetensors file, float32, the same bytes for the same numbers."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    tensors = get_peft_model_state_dict(peft)
    plain = {key: tensors[key].detach().to("cpu", torch.float32).contiguous() for key in sorted(tensors)}
    return bytes(save(plain, {"format": "pt"}))
