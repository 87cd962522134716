"""The planned batches through TRL's SFTTrainer, with nothing left to its defaults."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from engram.models import adapters
from engram.models.conversion import DTYPES
from engram.models.safetensors_file import Tensor
from engram.models.tokenizer import IGNORED
from engram.plan.batches import REST, Batch, Likely, parts, row_lengths
from engram.plan.checkpoint import State
from engram.plan.config import Config, learning_rates
from engram.plan.curve import Curve
from engram.plan.sharding import Ranks, lost_process, place, share, step_seed
from engram.support.errors import EngramError
from engram.support.files import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PREFIX = "base_model.model."  # before every layer's name in a PEFT model


def linear_layers(model: Any) -> list[str]:
    """The names of the linear layers inside the blocks, each once (`down_proj`, `gate_proj`, …)."""
    import torch

    names = [name.split(".") for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    return sorted({parts[-1] for parts in names if any(part.isdigit() for part in parts)})


def start_at_the_shared_adapter(peft: Any, config: Config) -> int:
    """Set every layer to engram's own initial adapter; the number of trainable parameters."""
    import torch

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
    import numpy as np

    return (np.arange(batch.tokens.shape[1]) < row_lengths(batch)[:, None]).astype(np.int64)


def inputs(batch: Batch) -> dict[str, Any]:
    """The batch as transformers wants it: int64 [rows, length + 1], a label at the place of the token it names."""
    import numpy as np
    import torch

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
    import torch
    from datasets import Dataset
    from trl import SFTTrainer

    rest, ranks = curve.batches[curve.done :], curve.ranks
    rates = learning_rates(config, len(curve.batches))
    used = curve.begun.state.rest["rates_used"] if curve.begun else 0
    parameters = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )
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
    trainer = Trainer(
        model=peft,
        args=_arguments(config, len(rest), cuda),
        # accelerate deals the rows out to the processes in turn: of each step every process gets its own
        train_dataset=Dataset.from_dict({"batch": [i for i in range(len(rest)) for _ in range(ranks.size)]}),
        data_collator=lambda rows: parted(rest[rows[0]["batch"]], tokens, ranks),
        processing_class=_tokenizer(peft.config._name_or_path),
        optimizers=(optimizer, schedule),
    )
    scaler = getattr(trainer.accelerator, "scaler", None)

    def snapshot() -> State:
        return state(peft, optimizer, used + schedule.last_epoch, scaler, peak_memory(cuda=cuda))

    def resume() -> None:
        if curve.begun:
            restore(peft, optimizer, scaler, curve.begun.state)

    trainer.add_callback(_watch(trainer, curve, config, resume, cuda=cuda))
    with curve.running(snapshot, functools.partial(weights, peft)), connected(ranks):
        trainer.train()
    if kept := curve.best():
        put_back(peft, kept)


def _tokenizer(folder: str) -> Any:
    """The tokenizer that SFTTrainer wants to have; without a chat template, since nothing here may render one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    tokenizer.chat_template = None
    return tokenizer


def _arguments(config: Config, steps: int, cuda: bool) -> Any:
    """Every field that could change a number; Unsloth changes the defaults on a GPU, and not on a CPU."""
    import torch
    from trl import SFTConfig

    bf16 = cuda and torch.cuda.get_device_capability() >= (8, 0)
    return SFTConfig(
        output_dir=str(cache_folder() / "unsloth" / "trainer"),  # nothing is written there
        max_steps=steps,
        num_train_epochs=1,
        per_device_train_batch_size=1,  # one planned batch
        gradient_accumulation_steps=1,
        train_sampling_strategy="sequential",
        dataloader_drop_last=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=config.max_length,
        packing=False,
        padding_free=False,
        assistant_only_loss=False,
        completion_only_loss=False,
        loss_type="nll",
        label_smoothing_factor=0.0,
        neftune_noise_alpha=None,
        optim="adamw_torch",
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant",  # the optimizer and its schedule are handed over ready-made
        warmup_steps=0,
        weight_decay=config.weight_decay,
        adam_beta1=config.beta1,
        adam_beta2=config.beta2,
        adam_epsilon=config.epsilon,
        max_grad_norm=config.clip,  # 0 is off
        average_tokens_across_devices=True,  # a loss is a sum over the tokens of all processes
        ddp_find_unused_parameters=False,
        seed=config.seed,
        data_seed=config.seed,
        bf16=bf16,
        fp16=cuda and not bf16,
        use_cpu=not cuda,
        gradient_checkpointing=config.gradient_checkpointing == "on",
        torch_compile=False,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        push_to_hub=False,
    )


def _watch(trainer: Any, curve: Curve, config: Config, restore: Callable[[], None], *, cuda: bool) -> Any:
    """The trainer's callback: restores, validates when it is time, and hands the curve every step."""
    import torch
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        started = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            if state.global_step == 0:
                restore()  # not before: the trainer's own preparation draws random numbers, and moves what it finds
                curve.begin(measure)
            seed_dropout(config, len(curve.losses) + 1, curve.ranks)
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            if cuda:
                torch.cuda.synchronize()
            # a process's loss is its part of the mean over all tokens, times the number of processes: DDP averages
            loss = curve.ranks.total(float(trainer.last_loss)) / curve.ranks.size
            control.should_training_stop |= not curve.step(loss, time.perf_counter() - self.started, measure)

    measure = functools.partial(_measured, trainer, curve)
    return Watch()


def _measured(trainer: Any, curve: Curve) -> tuple[float, float]:
    trainer.model.eval()
    with getattr(trainer, "autocast_smart_context_manager", contextlib.nullcontext)():
        found = curve.measured(functools.partial(judged, trainer.model))
    trainer.model.train()
    return found


def judged(model: Any, batch: Batch) -> tuple[Any, Any]:
    """For each target of a batch its loss, float32 [targets], and whether no token is more likely, bool [targets]."""
    import torch

    with torch.no_grad():
        learned = learned_logits(model, batch)
        targets = torch.from_numpy(batch.targets).long().to(learned.device)
        plain = functools.partial(torch.nn.functional.cross_entropy, reduction="none")
        losses = divergence(learned, batch.likely) if batch.likely else plain(learned.float(), targets)
        return losses.cpu().numpy(), (learned.argmax(-1) == targets).cpu().numpy()


def learned_logits(model: Any, batch: Batch) -> Any:
    """The logits at a batch's learned positions [targets, vocabulary]."""
    import torch

    device = next(model.parameters()).device
    tokens = torch.from_numpy(batch.tokens).long().to(device)
    mask = torch.from_numpy(attention_mask(batch)).to(device)
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    return logits.reshape(-1, logits.shape[-1])[torch.from_numpy(batch.positions).long().to(logits.device)]


def divergence(logits: Any, likely: Likely) -> Any:
    """The KL divergence from `likely` to logits [targets, vocabulary], float32 [targets]."""
    import torch

    tokens, chances = (torch.from_numpy(part).to(logits.device) for part in likely)
    each = torch.log_softmax(logits.float(), dim=-1).gather(-1, tokens.long())
    rest = torch.log(torch.clamp(1 - each.exp().sum(-1, keepdim=True), min=REST))
    given = torch.log(torch.clamp(chances, min=1e-30))  # 0 on padding
    return (chances * (given - torch.cat([each, rest], dim=-1))).sum(-1)


def peak_memory(*, cuda: bool) -> int:
    """The most memory that training had on the GPU, else that this process ever had resident; in bytes.

    0 where the system does not say.
    """
    if cuda:
        import torch

        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:
        return 0
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


MOMENTS = ("exp_avg", "exp_avg_sq")


def weights(peft: Any) -> dict[str, Tensor]:
    """The adapter's tensors."""
    return {name: _tensor(parameter) for name, parameter in _trainable(peft)}


def put_back(peft: Any, kept: Mapping[str, Tensor]) -> None:
    """Give the model the adapter's tensors."""
    import torch

    with torch.no_grad():
        for name, parameter in _trainable(peft):
            parameter.copy_(_torch(kept[name]))


def state(peft: Any, optimizer: Any, rates_used: int, scaler: Any, peak_memory_bytes: int) -> State:
    """The adapter, AdamW's moments and step, the place in the learning rates, the random states.

    `rates_used` falls behind the steps where half precision overflowed and `scaler`, None without one, left one out.
    """
    import torch

    tensors, step = weights(peft), 0
    for name, parameter in _trainable(peft):
        if moments := optimizer.state.get(parameter):
            step = int(moments["step"])
            tensors |= {f"{key}.{name}": _tensor(moments[key]) for key in MOMENTS}
    rest = {
        "step": step,
        "rates_used": rates_used,
        "scaler": scaler.state_dict() if scaler else None,
        "random": _hex(torch.get_rng_state()),
        "random_cuda": _hex(torch.cuda.get_rng_state()) if torch.cuda.is_initialized() else "",
    }
    return State(tensors, rest, peak_memory_bytes)


def restore(peft: Any, optimizer: Any, scaler: Any, found: State) -> None:
    """Put a state into a model, its optimizer and this process, which are ready for their first step."""
    import torch

    put_back(peft, found.tensors)
    for name, parameter in _trainable(peft):
        if f"{MOMENTS[0]}.{name}" in found.tensors:
            moments = {key: _torch(found.tensors[f"{key}.{name}"]).to(parameter.device) for key in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(found.rest["step"])), **moments}
    if scaler and found.rest["scaler"]:
        scaler.load_state_dict(found.rest["scaler"])
    torch.set_rng_state(_bytes(found.rest["random"]))
    if found.rest["random_cuda"]:
        torch.cuda.set_rng_state(_bytes(found.rest["random_cuda"]))


def _trainable(peft: Any) -> Iterator[tuple[str, Any]]:
    return ((name, parameter) for name, parameter in peft.named_parameters() if parameter.requires_grad)


def _tensor(value: Any) -> Tensor:
    import torch

    short = next(short for short, name in DTYPES.items() if getattr(torch, name) == value.dtype)
    plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return Tensor(short, tuple(value.shape), plain.numpy().tobytes())


def _torch(tensor: Tensor) -> Any:
    import torch

    return torch.frombuffer(bytearray(tensor.data), dtype=getattr(torch, DTYPES[tensor.dtype])).reshape(tensor.shape)


def _hex(random_state: Any) -> str:
    return str(random_state.numpy().tobytes().hex())


def _bytes(text: str) -> Any:
    import torch

    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


PATIENCE = datetime.timedelta(minutes=10)  # the longest that a process waits for the others


@functools.cache
def join(name: str) -> Ranks:
    """The processes, connected; this one alone without a launcher. Raises EngramError if they are not."""
    rank, size, hosts = place(name)
    if size == 1:
        return Ranks()
    import torch

    if name == "cuda":
        local, cards = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= cards:
            what = f"each process needs its own GPU; {cards} can be used here"
            raise EngramError(what, where="NPROC", fix=f"NPROC={max(1, cards)}, and look at CUDA_VISIBLE_DEVICES")
        torch.cuda.set_device(local)
    try:
        torch.distributed.init_process_group("nccl" if name == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        what = f"the {size} processes do not reach each other: {str(error).splitlines()[0]}"
        raise EngramError(what, where="NPROC", fix="open the ports that docs/distributed.md names") from error
    device = "cuda" if name == "cuda" else "cpu"
    reduced = functools.partial(_reduced, device)
    return Ranks(rank, size, hosts, lambda n: int(reduced("MAX", n)), lambda n: float(reduced("SUM", n)), _gather)


@contextlib.contextmanager
def connected(ranks: Ranks) -> Iterator[None]:
    """Around training: another process that is gone is an EngramError.

    Gloo says so in a RuntimeError like any other; nothing else of a training step names its connections.
    """
    import torch

    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error) or "NCCL" in str(error)
        if ranks.size == 1 or not lost:
            raise
        raise lost_process() from error


def seed_dropout(config: Config, step: int, ranks: Ranks) -> None:
    """With several processes, each draws different numbers in each step."""
    if ranks.size > 1:
        import torch

        torch.manual_seed(step_seed(config.seed, step, ranks.rank))


def _reduced(device: str, operation: str, number: float) -> Any:
    """The largest or the sum of all processes' numbers; a whole number stays one."""
    import torch

    dtype = torch.int64 if isinstance(number, int) else torch.float64
    value = torch.tensor([number], dtype=dtype, device=device)
    torch.distributed.all_reduce(value, getattr(torch.distributed.ReduceOp, operation))
    return value.item()


def _gather(content: bytes) -> list[bytes]:
    import torch

    found: list[bytes] = [b""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, content)
    return found
