"""What a backend does (`engram.backends.Backend`), with Unsloth and TRL."""

from __future__ import annotations

import contextlib
import itertools
import json
import platform
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from engram.backends import Session as Session
from engram.backends.unsloth import memory as unsloth_memory
from engram.backends.unsloth import training
from engram.backends.unsloth.process import attach, chosen, half, load_model, out_of_memory, put_on, quiet, unsloth
from engram.backends.unsloth.process import begin as begin
from engram.memory import table
from engram.memory.table import Opened
from engram.models import adapters, conversion
from engram.models.model import REGISTRY, Model
from engram.models.tokenizer import Encoded, Encoder
from engram.plan.batches import (
    AT_ONCE,
    Batch,
    Likely,
    Plan,
    by_length,
    digests_of,
    distributions,
    mean_losses,
    tokens_at_once,
)
from engram.plan.checkpoint import Keeper
from engram.plan.config import Config
from engram.plan.curve import Answer, Curve, Progress, Prompt, Prompts, TrainingRun
from engram.plan.sharding import Ranks
from engram.support.files import write_bytes, write_text

WEIGHTS = adapters.PEFT_WEIGHTS
SCORE_BATCH = 32
ROWS = 64  # that are answered together; drawn answers depend on which


def device() -> str:
    """What torch computes on, in words."""
    unsloth()
    version = torch.__version__.split("+")[0]
    if chosen() == "cpu":
        return f"CPU ({platform.machine()}, torch {version})"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} (capability {major}.{minor}, torch {version}, CUDA {torch.version.cuda})"


def join() -> Ranks:
    """The processes that `torchrun` started, connected; this one alone without it."""
    unsloth()
    return training.join(chosen())


def load(model: Model, adapter: Path | Opened | None = None, quantize: str = "none") -> Session:
    """See `Backend.load`; in float32 on a CPU and in 16 or 4 bits on a GPU.

    Raises EngramError if Unsloth cannot load the model, or what it was taught cannot be read or does not fit it.
    """
    found = table.opened(adapter, model, WEIGHTS) if adapter is not None else None
    loaded = _loaded(model, found.lora if found else None, quantize)
    if found and found.memory:
        unsloth_memory.attach(loaded, found.memory, found.layer)
    with quiet():
        unsloth().FastLanguageModel.for_inference(loaded)
    return Session(loaded, device())


def _loaded(model: Model, adapter: Path | None, quantize: str) -> Any:
    """The model, with the LoRA adapter of a folder if one is given."""
    lora = conversion.read(adapter, WEIGHTS) if adapter is not None else None
    with out_of_memory("loading", "a smaller MODEL, or QUANTIZE=4bit"), quiet():
        loaded = load_model(model, model.context, quantize)
        return put_on(loaded, lora, str(adapter), model.name) if lora else loaded


def train(
    model: Model, plan: Plan, config: Config, out: Path, progress: Progress, keeper: Keeper | None = None
) -> TrainingRun:
    """See `Backend.train`; through Unsloth and TRL's SFTTrainer, in the layout that PEFT reads.

    Raises EngramError also where the memory does not suffice.
    """
    fix = f"a smaller batch (--set batch_size={max(1, config.batch_size // 2)}), --set gradient_checkpointing=on"
    fix += ", or QUANTIZE=4bit" if chosen() == "cuda" else ", or a smaller MODEL"
    with out_of_memory(f"training, batch_size = {config.batch_size}", fix), quiet():
        loaded = load_model(model, config.max_length, config.quantize, config)
        targets = training.linear_layers(loaded)
        peft = attach(loaded, config, targets)
        trainable = training.start_at_the_shared_adapter(peft, config)
        curve = Curve(progress, plan, config, keeper, join())
        tokens = tokens_at_once(model, gpu=chosen() == "cuda")
        training.run(peft, curve, config, tokens, cuda=chosen() == "cuda")
    if not curve.ranks.rank:
        write_bytes(out / WEIGHTS, serialised(peft))
        name = REGISTRY.get(model.name) or model.name
        settings = adapters.peft_settings(config.rank, config.alpha, config.dropout, name, targets)
        write_text(out / adapters.CONFIG, json.dumps(settings, indent=2) + "\n")
    return curve.finished(training.peak_memory(cuda=chosen() == "cuda"), trainable, device())


def teacher(model: Model, adapter: Path | None, config: Config) -> unsloth_memory.Teacher:
    """The frozen model, with the LoRA adapter of a folder if one is given, cut where the recipe's memory is read."""
    return unsloth_memory.Teacher(_loaded(model, adapter, config.quantize), config.memory_blocks)


def digests(session: Session, sequences: Sequence[Sequence[int]]) -> list[str]:
    """A SHA-256 of the logits after every token of each sequence, in batches sorted by length."""

    def logits(tokens: Any, lengths: Any) -> Any:
        ids = torch.from_numpy(tokens).long().to(session.model.device)
        mask = (torch.arange(ids.shape[1])[None] < torch.from_numpy(lengths)[:, None]).long().to(ids.device)
        with torch.inference_mode(), half(), quiet():
            return session.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().cpu().numpy()

    return digests_of(sequences, SCORE_BATCH, logits)


def generate(
    session: Session, prompts: Prompts, stop: frozenset[int], limit: int, temperature: float = 0.0, seed: int = 0
) -> list[Answer]:
    """Answers in the prompts' order, in batches padded on the left; greedy at temperature 0.

    Keys and values are transformers' own: they are made for each batch, so what prompts share is computed in each row.
    """
    torch.manual_seed(seed)
    made: dict[int, Answer] = {}
    settings = options(stop, limit, temperature)
    for batch in by_length(prompts, ROWS):
        tokens, mask = left_padded([prompts[i] for i in batch], stop, session.model.device)
        with out_of_memory("generating", "a smaller MODEL, or QUANTIZE=4bit"), quiet():
            found = session.model.generate(input_ids=tokens, attention_mask=mask, **settings)
        for i, row in zip(batch, found[:, tokens.shape[1] :].tolist()):
            end = next((place for place, token in enumerate(row) if token in stop), None)
            made[i] = Answer(row[:end], end is not None)
    return [made[i] for i in range(len(prompts))]


class _Streamer:
    """What transformers' `generate` hands the prompt and new tokens to; it waits until the next one is asked for."""

    def __init__(self) -> None:
        self.made: queue.Queue[Any] = queue.Queue()
        self.asked = threading.Semaphore(0)
        self.abandoned = False

    def put(self, value: Any) -> None:
        """The prompt, or a new token."""
        self.made.put(value)
        self.asked.acquire()
        if self.abandoned:
            raise RuntimeError("nobody reads this stream any more")

    def end(self) -> None:
        """After the last token."""
        self.made.put(None)


def stream(
    session: Session, prompt: Prompt, stop: frozenset[int], limit: int, temperature: float = 0.0, seed: int = 0
) -> Iterator[int]:
    """The answer's tokens as they come, without the end token; greedy at temperature 0.

    transformers' `generate` works in its own thread, and computes only while the next token is waited for: Unsloth's
    buffers are shared by all models of a process, so no two may compute at once.
    """
    torch.manual_seed(seed)
    tokens, mask = left_padded([prompt], stop, session.model.device)
    streamer = _Streamer()

    def work() -> None:
        try:
            settings = options(stop, limit, temperature)
            session.model.generate(input_ids=tokens, attention_mask=mask, streamer=streamer, **settings)
        except BaseException as error:  # it belongs to whoever reads the stream, if anyone does
            streamer.made.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for number in itertools.count():
            item = streamer.made.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            if number and (token := int(item.reshape(-1)[0])) not in stop:  # the first is the prompt
                yield token
            streamer.asked.release()
    finally:
        streamer.abandoned = True
        streamer.asked.release()
        thread.join()


def options(stop: frozenset[int], limit: int, temperature: float) -> dict[str, Any]:
    """Every setting of `generate` that a model's own generation config could change."""
    length = {"max_new_tokens": limit, "eos_token_id": sorted(stop), "pad_token_id": min(stop)}
    options = length | {"do_sample": False, "use_cache": True, "repetition_penalty": 1.0}
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "min_p": None}
    return options | (sampling if temperature > 0 else {})


def left_padded(prompts: Prompts, stop: frozenset[int], place: Any) -> tuple[Any, Any]:
    """Token ids and attention mask, int64 [rows, longest], the padding on the left."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = [[min(stop)] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(tokens, device=place), torch.tensor(mask, device=place)


def losses(
    session: Session, examples: Sequence[Encoded], encoder: Encoder, likely: Sequence[Likely] = ()
) -> list[list[float]]:
    """See `Backend.losses`."""

    def of(batch: Batch) -> Any:
        with _scoring():
            return training.judged(session.model, batch)[0]

    return mean_losses(examples, encoder.pad_id, SCORE_BATCH, of, likely)


def likely(session: Session, examples: Sequence[Encoded], encoder: Encoder) -> list[Likely]:
    """The next-token distributions at the answer tokens of each example."""

    def logits(batch: Batch) -> Iterator[Any]:
        with _scoring():
            found = training.learned_logits(session.model, batch)
        for piece in found.split(AT_ONCE):
            yield piece.float().cpu().numpy()

    return distributions(examples, encoder.pad_id, SCORE_BATCH, logits)


@contextlib.contextmanager
def _scoring() -> Iterator[None]:
    """Around the forward passes that score: no gradients, half precision on a GPU, out of memory in words."""
    with out_of_memory("scoring", "a smaller MODEL, or QUANTIZE=4bit"), torch.inference_mode(), half(), quiet():
        yield


def serialised(peft: Any) -> bytes:
    """The adapter's tensors as a safetensors file, float32, the same bytes for the same numbers."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    tensors = get_peft_model_state_dict(peft)
    plain = {key: tensors[key].detach().to("cpu", torch.float32).contiguous() for key in sorted(tensors)}
    return bytes(save(plain, {"format": "pt"}))
