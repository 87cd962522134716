"""Unsloth in this process: imported once with its settings, quiet, and a model in memory."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from engram.backends import reason, refuse_quantize, silenced
from engram.backends.unsloth.training import as_torch
from engram.models import peft_layout
from engram.models.adapters import Lora
from engram.models.model import Model
from engram.plan.config import SMALL_MODEL, Config
from engram.support.errors import EngramError, readable_errors
from engram.support.files import cache_folder

FEW = 4
_chosen = "cpu"  # which of the two names this process computes under; Unsloth decides at its import, once


def chosen() -> str:
    """The name, `cuda` or `cpu`, that this process computes under."""
    return _chosen


def begin(name: str) -> None:
    """Import Unsloth for `cuda` or `cpu`; raises EngramError if this process began with the other."""
    global _chosen
    if unsloth.cache_info().currsize and name != _chosen:
        what = f"this process computes with BACKEND={_chosen} already"
        raise EngramError(what, where=f"BACKEND={name}", fix="start another one")
    _chosen = name
    unsloth()  # now, since it must be imported before transformers to change what it changes there


@functools.cache
def unsloth() -> Any:
    """`unsloth`, imported once, after the settings that it reads then; nothing of it lands in the working folder."""
    cache = cache_folder() / "unsloth"
    with readable_errors(cache, "write to the cache folder"):
        cache.mkdir(parents=True, exist_ok=True)
        (cache / ".writable").touch()
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(cache / "compiled")
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache / "triton"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if _chosen == "cpu":
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
    else:
        os.environ["UNSLOTH_DISABLE_CPU_FALLBACK"] = "1"
        if os.environ.get("LOCAL_WORLD_SIZE", "1") == "1":  # else torchrun's processes take one each, by LOCAL_RANK
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
            os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]  # with several, the trainer would join batches
    with quiet():
        try:
            import unsloth as package
            from transformers.utils import logging
            from unsloth import tokenizer_utils
        except (ImportError, NotImplementedError, RuntimeError) as error:
            fix = f"make doctor BACKEND={_chosen}; rm -f .venv/.ready-{_chosen}; make setup BACKEND={_chosen}"
            what = f"Unsloth does not start: {reason(error)}"
            raise EngramError(what, where=f"BACKEND={_chosen}", fix=fix) from error
        tokenizer_utils.fix_chat_template = lambda tokenizer: tokenizer.chat_template  # it would render it, unbounded
        _all_threads()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    return package


def _set_threads(parameters: int) -> None:
    """For a small model half the cores, FEW at most: on a busy core all threads wait for the one that is there."""
    small = max(1, min(FEW, _all_threads() // 2))
    torch.set_num_threads(small if parameters < SMALL_MODEL else _all_threads())


@functools.cache
def _all_threads() -> int:
    return int(torch.get_num_threads())


def _dtype() -> Any:
    if _chosen == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16


def half() -> Any:
    """Around forward passes outside of training: on a GPU in the model's 16 bits."""
    return torch.autocast("cuda", _dtype()) if _chosen == "cuda" else contextlib.nullcontext()


def _checkpointing(config: Config | None) -> str | bool:
    return "unsloth" if config and config.gradient_checkpointing == "on" else False


def load_model(model: Model, max_length: int, quantize: str, config: Config | None = None) -> Any:
    """Unsloth's model; raises EngramError if it cannot load the model or may not quantize."""
    gc.collect()  # an unused model refers to itself: without this two would be in memory
    if _chosen == "cpu" or quantize == "8bit":
        refuse_quantize(quantize, _chosen)
    if _chosen == "cpu":
        _set_threads(model.parameters)
    try:
        loaded, _ = unsloth().FastLanguageModel.from_pretrained(
            model_name=str(model.path),
            max_seq_length=max_length,
            dtype=_dtype(),
            load_in_4bit=quantize == "4bit",  # Unsloth's default is True
            load_in_8bit=False,
            full_finetuning=False,
            use_exact_model_name=True,  # else a name is exchanged for Unsloth's own upload
            trust_remote_code=False,
            use_safetensors=True,
            use_gradient_checkpointing=_checkpointing(config),
            random_state=config.seed if config else 0,
        )
    except (ValueError, KeyError, TypeError, OSError, NotImplementedError, RuntimeError) as error:
        if _is_memory(error):
            raise
        what = f"Unsloth cannot load this model: {reason(error)}"
        raise EngramError(what, where=model.name, fix="take another MODEL") from error
    os.environ["UNSLOTH_IGNORED_TOKENIZER_NAMES"] = str(loaded.config._name_or_path)  # its trainer edits embeddings
    return loaded


def attach(loaded: Any, config: Config, targets: Sequence[str]) -> Any:
    """The model with a new LoRA adapter to train, on the linear layers of these names."""
    return unsloth().FastLanguageModel.get_peft_model(
        loaded,
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(targets),
        bias="none",
        use_gradient_checkpointing=_checkpointing(config),
        random_state=config.seed,
        use_rslora=False,
    )


def put_on(loaded: Any, lora: Lora, where: str, name: str) -> Any:
    """The model with this adapter's tensors, every one of them checked against the model's layers.

    By plain PEFT: Unsloth's `get_peft_model` prepares training as well. The layers are named in the words that a
    conversion to PEFT's layout would use, whatever words the adapter's own configuration has, and alpha / rank is the
    scale. Raises EngramError if the adapter does not fit.
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    def refuse(why: str) -> EngramError:
        return EngramError(f"the adapter does not fit {name}: {why}", where=where, fix="make train")

    said = peft_layout.write(lora)
    try:
        named = {key: said.get(key) for key in ("lora_alpha", "target_modules", "layers_to_transform")}
        peft = get_peft_model(loaded, LoraConfig(r=lora.rank, bias="none", task_type="CAUSAL_LM", **named))
    except (ValueError, AssertionError, KeyError, RuntimeError) as error:
        raise refuse(reason(error)) from error
    tensors = peft_layout.tensors_of(lora)
    expected = {key: tuple(value.shape) for key, value in get_peft_model_state_dict(peft).items()}
    given = {key: tensor.shape for key, tensor in tensors.items()}
    if wrong := sorted(key for key in {*expected, *given} if expected.get(key) != given.get(key)):
        key = wrong[0]
        raise refuse(f"{key} is {given.get(key, 'missing')}, the model's is {expected.get(key, 'not there')}")
    set_peft_model_state_dict(peft, {key: as_torch(tensor) for key, tensor in tensors.items()})
    return peft


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Unsloth, TRL and transformers say nothing on this process's output meanwhile."""
    with silenced(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def out_of_memory(doing: str, fix: str) -> Iterator[None]:
    """Turn torch's out-of-memory errors into an EngramError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_memory(error):
            raise
        raise EngramError("the memory does not suffice", where=f"{doing} on {_chosen}", fix=fix) from error


def _is_memory(error: BaseException) -> bool:
    text, marks = f"{type(error).__name__}: {error}", ("OutOfMemoryError", "out of memory", "DefaultCPUAllocator")
    return isinstance(error, MemoryError) or any(mark in text for mark in marks)
