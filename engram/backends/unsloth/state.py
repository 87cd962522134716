"""All that torch's next training step depends on, out of the process and back, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engram.models.conversion import DTYPES
from engram.models.safetensors_file import Tensor
from engram.plan.checkpoint import State

MOMENTS = ("exp_avg", "exp_avg_sq")


def state(peft: Any, optimizer: Any, rates_used: int, scaler: Any, peak_memory_bytes: int) -> State:
    """The adapter, AdamW's moments and step, the place in the learning rates, the random states.

    `rates_used` falls behind the steps where half precision overflowed and `scaler`, None without one, left one out.
    """
    import torch

    tensors, step = {}, 0
    for name, parameter in _trainable(peft):
        tensors[name] = _tensor(parameter)
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

    for name, parameter in _trainable(peft):
        with torch.no_grad():
            parameter.copy_(_torch(found.tensors[name]))
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
