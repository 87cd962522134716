"""The planned batches through TRL's SFTTrainer, with nothing left to its defaults."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engram.models import adapters
from engram.models.conversion import DTYPES
from engram.models.safetensors_file import Tensor
from engram.models.tokenizer import IGNORED
from engram.plan.batches import REST, Batch, Likely, parts
from engram.plan.checkpoint import State
from engram.plan.config import Config, learning_rates
from engram.plan.curve import Curve
from engram.plan.sharding import Ranks, connected, joined, share
from engram.support.errors import EngramError
from engram.support.files import cache_folder

PREFIX = "base_model.model."  # before every layer's name in a PEFT model
MOMENTS = ("exp_avg", "exp_avg_sq")
PATIENCE = datetime.timedelta(minutes=10)  # the longest that a process waits for the others


def linear_layers(model: Any) -> list[str]:
    """The names of the linear layers inside the blocks, each once (`down_proj`, `gate_proj`, …)."""
    names = [name.split(".") for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    return sorted({parts[-1] for parts in names if any(part.isdigit() for part in parts)})


def start_at_the_shared_adapter(peft: Any, config: Config) -> int:
    """Set every layer to engram's own initial adapter; the number of trainable parameters."""
    with torch.no_grad():
        for name, module in peft.named_modules():
            if "default" in getattr(module, "lora_A", {}):
                first, second = module.lora_A["default"].weight, module.lora_B["default"].weight
                factor = adapters.initial_factor(name.removeprefix(PREFIX), first.shape[1], config.rank, config.seed)
                first.copy_(torch.from_numpy(factor.T.copy()))
                second.zero_()
    return sum(parameter.numel() for parameter in peft.parameters() if parameter.requires_grad)


def attention_mask(batch: Batch) -> NDArray[np.int64]:
    """1 up to the last token that a row reads, 0 on its padding; int64 in the shape of `batch.tokens`."""
    return (np.arange(batch.tokens.shape[1]) < batch.lengths[:, None]).astype(np.int64)


def inputs(batch: Batch) -> dict[str, Any]:
    """The batch as transformers wants it: int64 [rows, length + 1], a label at the place of the token it names."""
    rows, length = batch.tokens.shape
    real = batch.weights > 0
    row, column = np.divmod(batch.positions[real], length)
    labels = np.full((rows, length + 1), IGNORED, dtype=np.int64)
    labels[row, column + 1] = batch.targets[real]
    tokens = np.pad(batch.tokens, ((0, 0), (0, 1))).astype(np.int64)
    tokens[row, column + 1] = batch.targets[real]
    mask = np.pad(attention_mask(batch), ((0, 0), (0, 1)))
    mask[row, column + 1] = 1
    arrays = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def parted(batch: Batch, tokens: int, ranks: Ranks) -> dict[str, Any]:
    """The `inputs` of a batch's parts, this process's rows of each, and the answer tokens of the whole batch."""
    shares = [inputs(share(part, ranks)) for part in parts(batch, tokens)]  # as many in every process: DDP waits
    kept = parts(batch.replay, tokens) if batch.replay else []
    answers = sum(part.answer_tokens for part in kept)
    replay = [{"replay": share(part, ranks), "answers": answers} for part in kept]
    return {"parts": shares, "answers": batch.answer_tokens, "replay": replay}


def run(peft: Any, curve: Curve, config: Config, tokens: int, *, cuda: bool) -> None:
    """Train on the curve's batches in their order, those that are still to come; raises what `Curve.step` does.

    A step's gradients are added up from parts of its batch of at most `tokens` tokens.
    """
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTTrainer

    rest, ranks = curve.batches[curve.done :], curve.ranks
    rates = learning_rates(config, len(curve.batches))
    used = curve.begun.state.rest["rates_used"] if curve.begun else 0
    parameters = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    betas, decay = (config.beta1, config.beta2), config.weight_decay
    optimizer = torch.optim.AdamW(parameters, config.learning_rate, betas, config.epsilon, decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rates[min(used + step, len(rates) - 1)] / config.learning_rate
    )

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def training_step(self, model: Any, batch: dict[str, Any], *_: Any, **__: Any) -> Any:
            # the number of answer tokens in the whole step makes each loss its part of their mean
            losses = [super(Trainer, self).training_step(model, part, batch["answers"]) for part in batch["parts"]]
            for part in batch["replay"]:
                super().training_step(model, part, part["answers"])
            self.last_loss = sum(losses)
            return self.last_loss

        def compute_loss(self, model: Any, inputs: dict[str, Any], *given: Any, **more: Any) -> Any:
            batch: Batch | None = inputs.get("replay")
            if batch is None or batch.likely is None:
                return super().compute_loss(model, inputs, *given, **more)
            losses = divergence(learned_logits(model, batch), batch.likely)
            shares = torch.from_numpy(batch.weights).to(losses.device) * config.replay_weight / inputs["answers"]
            return (losses * shares).sum() * ranks.size  # as of the patterns: DDP averages over the processes

    if cuda:
        torch.cuda.reset_peak_memory_stats()
    tokenizer = AutoTokenizer.from_pretrained(peft.config._name_or_path, trust_remote_code=False, local_files_only=True)
    tokenizer.chat_template = None  # nothing here may render one
    trainer = Trainer(
        model=peft,
        args=_arguments(config, len(rest), cuda),
        # accelerate deals the rows out to the processes in turn: of each step every process gets its own
        train_dataset=Dataset.from_dict({"batch": [i for i in range(len(rest)) for _ in range(ranks.size)]}),
        data_collator=lambda rows: parted(rest[rows[0]["batch"]], tokens, ranks),
        processing_class=tokenizer,
        optimizers=(optimizer, schedule),
    )
    scaler = getattr(trainer.accelerator, "scaler", None)

    def snapshot() -> State:
        return state(peft, optimizer, used + schedule.last_epoch, scaler, peak_memory(cuda=cuda))

    def measure() -> tuple[float, float]:
        trainer.model.eval()
        with getattr(trainer, "autocast_smart_context_manager", contextlib.nullcontext)():
            found = curve.measured(functools.partial(judged, trainer.model))
        trainer.model.train()
        return found

    class Watch(TrainerCallback):  # type: ignore[misc]
        started = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            if state.global_step == 0:
                if curve.begun:  # not before: the trainer's preparation draws random numbers, and moves what it finds
                    restore(peft, optimizer, scaler, curve.begun.state)
                curve.begin(measure)
            curve.seed_dropout(torch.manual_seed)
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            if cuda:
                torch.cuda.synchronize()
            # a process's loss is its part of the mean over all tokens, times the number of processes: DDP averages
            loss = ranks.total(float(trainer.last_loss)) / ranks.size
            control.should_training_stop |= not curve.step(loss, time.perf_counter() - self.started, measure)

    trainer.add_callback(Watch())
    with curve.running(snapshot, functools.partial(weights, peft)), connected(is_lost):
        trainer.train()
    if kept := curve.best():
        put_back(peft, kept)


def _arguments(config: Config, steps: int, cuda: bool) -> Any:
    """Every field that could change a number and has another default in Unsloth, which changes some on a GPU."""
    from trl import SFTConfig

    bf16 = cuda and torch.cuda.get_device_capability() >= (8, 0)
    return SFTConfig(
        output_dir=str(cache_folder() / "unsloth" / "trainer"),  # nothing is written there
        max_steps=steps,
        per_device_train_batch_size=1,  # one planned batch
        gradient_accumulation_steps=1,
        train_sampling_strategy="sequential",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=config.max_length,
        packing=False,
        padding_free=False,
        loss_type="nll",
        optim="adamw_torch",  # not used: the optimizer and its schedule are handed over ready-made
        max_grad_norm=config.clip,  # 0 is off
        average_tokens_across_devices=True,  # a loss is a sum over the tokens of all processes
        ddp_find_unused_parameters=False,
        seed=config.seed,
        data_seed=config.seed,
        bf16=bf16,
        fp16=cuda and not bf16,
        use_cpu=not cuda,
        gradient_checkpointing=config.gradient_checkpointing == "on",
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def judged(model: Any, batch: Batch) -> tuple[Any, Any]:
    """For each target of a batch its cross-entropy and, with `batch.likely`, the KL divergence from that, float32
    [losses, targets], and whether no token is more likely, bool [targets]."""
    with torch.no_grad():
        learned = learned_logits(model, batch)
        targets = torch.from_numpy(batch.targets).long().to(learned.device)
        losses = [torch.nn.functional.cross_entropy(learned.float(), targets, reduction="none")]
        losses += [divergence(learned, batch.likely)] if batch.likely else []
        return torch.stack(losses).cpu().numpy(), (learned.argmax(-1) == targets).cpu().numpy()


def learned_logits(model: Any, batch: Batch) -> Any:
    """The logits at a batch's learned positions [targets, vocabulary]."""
    device = next(model.parameters()).device
    tokens = torch.from_numpy(batch.tokens).long().to(device)
    mask = torch.from_numpy(attention_mask(batch)).to(device)
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    return logits.reshape(-1, logits.shape[-1])[torch.from_numpy(batch.positions).long().to(logits.device)]


def divergence(logits: Any, likely: Likely) -> Any:
    """The KL divergence from `likely` to logits [targets, vocabulary], float32 [targets]."""
    tokens, chances = (torch.from_numpy(part).to(logits.device) for part in likely)
    each = torch.log_softmax(logits.float(), dim=-1).gather(-1, tokens.long())
    rest = torch.log(torch.clamp(1 - each.exp().sum(-1, keepdim=True), min=REST))
    given = torch.log(torch.clamp(chances, min=1e-30))  # 0 on padding
    return (chances * (given - torch.cat([each, rest], dim=-1))).sum(-1)


def peak_memory(*, cuda: bool) -> int:
    """The most memory that training had on the GPU, else that this process ever had resident; in bytes."""
    if cuda:
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def weights(peft: Any) -> dict[str, Tensor]:
    """The adapter's tensors."""
    return {name: _tensor(parameter) for name, parameter in _trainable(peft)}


def put_back(peft: Any, kept: Mapping[str, Tensor]) -> None:
    """Give the model the adapter's tensors."""
    with torch.no_grad():
        for name, parameter in _trainable(peft):
            parameter.copy_(as_torch(kept[name]))


def state(peft: Any, optimizer: Any, rates_used: int, scaler: Any, peak_memory_bytes: int) -> State:
    """The adapter, AdamW's moments and step, the place in the learning rates, the random states.

    `rates_used` falls behind the steps where half precision overflowed and `scaler`, None without one, left one out.
    """
    tensors, step = weights(peft), 0
    for name, parameter in _trainable(peft):
        if moments := optimizer.state.get(parameter):
            step = int(moments["step"])
            tensors |= {f"{key}.{name}": _tensor(moments[key]) for key in MOMENTS}
    rest = {
        "step": step,
        "rates_used": rates_used,
        "scaler": scaler.state_dict() if scaler else None,
        "random": torch.get_rng_state().numpy().tobytes().hex(),
        "random_cuda": torch.cuda.get_rng_state().numpy().tobytes().hex() if torch.cuda.is_initialized() else "",
    }
    return State(tensors, rest, peak_memory_bytes)


def restore(peft: Any, optimizer: Any, scaler: Any, found: State) -> None:
    """Put a state into a model, its optimizer and this process, which are ready for their first step."""
    put_back(peft, found.tensors)
    for name, parameter in _trainable(peft):
        if f"{MOMENTS[0]}.{name}" in found.tensors:
            moments = {key: as_torch(found.tensors[f"{key}.{name}"]).to(parameter.device) for key in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(found.rest["step"])), **moments}
    if scaler and found.rest["scaler"]:
        scaler.load_state_dict(found.rest["scaler"])
    torch.set_rng_state(_bytes(found.rest["random"]))
    if found.rest["random_cuda"]:
        torch.cuda.set_rng_state(_bytes(found.rest["random_cuda"]))


def _trainable(peft: Any) -> Iterator[tuple[str, Any]]:
    return ((name, parameter) for name, parameter in peft.named_parameters() if parameter.requires_grad)


def _tensor(value: Any) -> Tensor:
    short = next(short for short, name in DTYPES.items() if getattr(torch, name) == value.dtype)
    plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return Tensor(short, tuple(value.shape), plain.numpy().tobytes())


def as_torch(tensor: Tensor) -> Any:
    """The same numbers as a tensor of torch's."""
    return torch.frombuffer(bytearray(tensor.data), dtype=getattr(torch, DTYPES[tensor.dtype])).reshape(tensor.shape)


def _bytes(text: str) -> Any:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


@functools.cache
def join(name: str) -> Ranks:
    """The processes, connected; this one alone without a launcher. Raises EngramError if they are not."""

    def connect() -> None:
        if name == "cuda":
            local, cards = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if local >= cards:
                what = f"each process needs its own GPU; {cards} can be used here"
                raise EngramError(what, where="NPROC", fix=f"NPROC={max(1, cards)}, and look at CUDA_VISIBLE_DEVICES")
            torch.cuda.set_device(local)
        torch.distributed.init_process_group("nccl" if name == "cuda" else "gloo", timeout=PATIENCE)

    return joined(name, connect, _gather)


def is_lost(error: RuntimeError) -> bool:
    """Whether the error says that another process is gone.

    Gloo says so in a RuntimeError like any other; nothing else of a training step names its connections.
    """
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def _gather(content: bytes) -> list[bytes]:
    found: list[bytes] = [b""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, content)
    return found
