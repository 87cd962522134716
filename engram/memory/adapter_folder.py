"""What a folder of `adapters/` holds: a LoRA adapter, a memory, or both; and the one hash that stands for it."""

from __future__ import annotations

from pathlib import Path

from engram.memory import addresses, table
from engram.memory.lookup import Memory
from engram.models import adapters
from engram.models.model import Model
from engram.plan.encoding import load_encoder
from engram.support.errors import EngramError
from engram.support.untrusted import refuse_links


def identity(folder: Path, preferred: str = "") -> str:
    """The SHA-256 of a folder's weights: of its memory, which names the adapter under it, else of its LoRA adapter.

    Raises EngramError where neither is there, or something of it is missing or damaged.
    """
    if not table.is_memory(folder):
        return adapters.read_adapter(folder, preferred)[1]
    known = table.intact(folder)
    _refuse_other_adapter(folder, known["adapter"], preferred)
    return str(known["files"][table.WEIGHTS])


def lora(folder: Path | None) -> Path | None:
    """The folder where it holds a LoRA adapter, alone or under a memory."""
    if folder is None or (table.is_memory(folder) and not has_lora(folder)):
        return None
    return folder


def has_lora(folder: Path) -> bool:
    """Whether an adapter's weights lie in the folder."""
    return any((folder / name).is_file() for name in adapters.LAYOUTS)


def memory(folder: Path | None, model: Model, preferred: str = "") -> tuple[Memory, int] | None:
    """The memory of a folder and the block before which its rows are added; None where there is none.

    Raises EngramError where it is damaged, or of another model, tokenizer or adapter.
    """
    if folder is None or not table.is_memory(folder):
        return None
    refuse_links(folder, "copy the files into the folder")
    known = table.intact(folder)
    frame = addresses.frame(load_encoder(model))
    right = {"weights_sha256": model.weights_sha256, "tokenizer_sha256": frame.sha256, "hash": addresses.VERSION}
    table.refuse_other(folder, known, right)
    _refuse_other_adapter(folder, known["adapter"], preferred)
    return table.opened(folder, frame, known), int(known["layer"])


def _refuse_other_adapter(folder: Path, wanted: str | None, preferred: str) -> None:
    found = adapters.read_adapter(folder, preferred)[1] if has_lora(folder) else None
    if found != wanted:
        what = "this memory was fitted with another adapter under it"
        lines = [f"adapter: {table.shown(wanted)} in {table.SETTINGS}, {table.shown(found)} beside it"]
        raise EngramError(what, where=str(folder), problems=lines, fix="make train METHOD=both")
