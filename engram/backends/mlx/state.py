"""All that MLX's next training step depends on, out of the process and back, to the last bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engram.backends import silenced
from engram.models.conversion import DTYPES
from engram.models.safetensors_file import Tensor
from engram.plan.checkpoint import State
from engram.plan.sharding import lost_process
from engram.support.errors import EngramError

WEIGHTS, MOMENTS = "adapter.", "optimizer."


def state(model: Any, optimizer: Any) -> State:
    """The adapter, AdamW's moments and step, the random key."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    moments = {name: value for name, value in optimizer.state.items() if isinstance(value, dict)}
    named = [(WEIGHTS + name, value) for name, value in tree_flatten(model.trainable_parameters())]
    named += [(MOMENTS + name, value) for name, value in tree_flatten(moments)]
    random: Any = mx.random.state
    rest = {"step": int(optimizer.state["step"].item()), "random": random[0].tolist()}
    return State({name: _tensor(value) for name, value in named}, rest, int(mx.get_peak_memory()))


def restore(model: Any, optimizer: Any, found: State) -> None:
    """Put a state into a model whose adapter has just been attached, its new optimizer, and this process."""
    import mlx.core as mx
    from mlx.utils import tree_unflatten

    model.update(tree_unflatten(list(_under(WEIGHTS, found))))
    step = mx.array(found.rest["step"], optimizer.state["step"].dtype)
    optimizer.state = {**optimizer.state, **tree_unflatten(list(_under(MOMENTS, found))), "step": step}
    high, low = found.rest["random"]
    mx.random.seed(high << 32 | low)  # the key is the seed's two halves; it cannot be set otherwise
    mx.eval(model.parameters(), optimizer.state)


@contextlib.contextmanager
def quiet(folder: Path) -> Iterator[None]:
    """Nothing that mlx-lm prints is seen, since the progress shown is ours; what it cannot write is an EngramError.

    MLX says in a RuntimeError what it could not write, and no more than that: a full disk, most of all. So it says that
    another process of the same run does not answer any more.
    """
    try:
        with silenced():
            yield
    except RuntimeError as error:
        if str(error).startswith("[ring]"):
            raise lost_process() from error
        if not str(error).startswith(("[write]", "[save_safetensors]")):
            raise
        what = f"cannot write the adapter: {str(error).partition(' ')[2]}"
        raise EngramError(what, where=str(folder), fix="check the permissions and the free disk space") from error


def _under(prefix: str, found: State) -> Iterator[tuple[str, Any]]:
    for name, tensor in found.tensors.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), _array(tensor)


def _tensor(value: Any) -> Tensor:
    import mlx.core as mx
    import numpy as np

    long = str(value.dtype).rpartition(".")[2]
    short = next(short for short, name in DTYPES.items() if name == long)
    return Tensor(short, tuple(value.shape), np.array(value.reshape(-1).view(mx.uint8)).tobytes())


def _array(tensor: Tensor) -> Any:
    import mlx.core as mx
    import numpy as np

    flat = mx.array(np.frombuffer(tensor.data, np.uint8)).view(getattr(mx, DTYPES[tensor.dtype]))
    return flat.reshape(tensor.shape)
