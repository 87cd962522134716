"""The export stage: model and adapter → a folder for another program, checked there, written whole or not at all."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

from engram.export import agreement, card, fuse, gguf, llamacpp, ollama
from engram.export.card import Source
from engram.export.gguf import Found
from engram.models import adapters, conversion
from engram.models.tokenizer import Encoder, load_encoder, render
from engram.plan import documents
from engram.plan.config import SMALL_MODEL
from engram.support import checksums
from engram.support.console import Report
from engram.support.errors import EngramError
from engram.support.files import new_folder, read_bytes, write_bytes, write_text

ADAPTERS = ("peft", "mlx")  # copied or converted, byte by byte: nothing about their answers can change
DOCUMENT = "export.json"


class Made(NamedTuple):
    """What was written: the numbers' dtype, and for a GGUF file its name and its pre-tokenizer."""

    dtype: str
    file: str = ""
    pre: Found | None = None


def export(
    source: Source, form: str, out: Path, storing: str, unchecked: bool, report: Report, bar: float = agreement.BAR
) -> dict[str, Any]:
    """Write the export in the format `form` to the folder `out`; return its document, `export.json`.

    `storing` is how numbers are stored: `base` or `float32` (fused), one of `gguf.QUANTIZE` (gguf, ollama); an
    adapter's are stored as they are. A whole model is asked the whole test set first, unless `unchecked`. Raises
    EngramError, and writes nothing, where the format cannot hold model or adapter, the program that checks it is not
    installed, a check is below the share `bar`, and where `out` holds anything but an unchanged export.
    """
    checking = form not in ADAPTERS and not unchecked
    if checking and form == "fused":
        agreement.require_program()
    elif checking:
        llamacpp.require("check the file with", "--format gguf", "; or export with --unchecked, and the card says so")
    checksums.refuse_other_files(out, DOCUMENT)
    encoder = load_encoder(source.model)
    with new_folder(out) as folder:
        made = _write(source, form, encoder, folder, storing)
        checks, differing = _checks(source, made, encoder, folder, report) if checking else ([], None)
        agreement.refuse_unlike(checks, form, bar)
        split, tuned = None, source.evidence.tuned if source.evidence else None
        if made.pre:
            told = made.pre.differing if differing is None else differing
            split = {"pre": made.pre.name, "texts": made.pre.texts, "differing": list(told)}
        document = {
            "document": "export",
            "schema_version": documents.SCHEMA_VERSION,
            "format": form,
            "dtype": made.dtype,
            "model": source.model.describe(),
            "adapter": {"sha256": source.sha256},
            **{name: tuned and tuned[name] for name in ("backend", "data", "recipe")},
            "checks": checks,
            "tokenizer": split,
            "provenance": documents.provenance(),
            "bar": bar,
        }
        documents.write(folder / DOCUMENT, document, "export")
        write_text(folder / "README.md", card.text(source, documents.rounded(document), encoder))
        checksums.write(folder)
    return document


def serve(source: Source, port: int) -> None:
    """Serve model and adapter on 127.0.0.1 in llama.cpp until stopped; raises EngramError as `export` does."""
    llamacpp.require("serve the model", "serve")
    with tempfile.TemporaryDirectory() as folder:
        made = _write(source, "gguf", load_encoder(source.model), Path(folder), "f16")
        small = source.model.parameters < SMALL_MODEL
        with llamacpp.serving(Path(folder) / made.file, source.model.context, small, port):
            threading.Event().wait()


def _write(source: Source, form: str, encoder: Encoder, folder: Path, storing: str) -> Made:
    if form in ADAPTERS:
        weights = conversion.NAMES[form]
        with conversion.readable(source.folder, weights) as place:
            for name in (adapters.CONFIG, weights):
                write_bytes(folder / name, read_bytes(place / name))
        return Made(conversion.describe(folder)["dtype"])
    if form == "fused":
        return Made(fuse.write(source.model, source.lora, folder, wide=storing == "float32"))
    parts = ollama.pieces(encoder, source.model.name) if form == "ollama" else None
    asked = source.evidence.tuned["answers"] if source.evidence else []
    prompts = [render(encoder.tokenizer, [{"role": "user", "content": row["prompt"]}], True) for row in asked]
    gguf.check(source.model, source.lora, storing)
    found, file = gguf.identify(source.model.path, prompts), f"model-{storing}.gguf"
    gguf.write(source.model, source.lora, encoder, found.name, storing, folder / file)
    if parts:
        stops = encoder.tokenizer.convert_ids_to_tokens(sorted(encoder.stop_ids))
        context = source.model.config["max_position_embeddings"]
        write_text(folder / "Modelfile", ollama.modelfile(parts, file, stops, context))
    return Made(storing.upper(), file, found)


def _checks(
    source: Source, made: Made, encoder: Encoder, folder: Path, report: Report
) -> tuple[list[dict[str, Any]], list[str] | None]:
    """The checks, and for a GGUF file the hard cases that llama.cpp's tokenizer splits otherwise."""
    if source.evidence is None:
        raise EngramError("no answers of this adapter to compare with", where="export", fix="make eval compare")
    rows, limit = source.evidence.tuned["answers"], source.evidence.tuned["scoring"]["max_new_tokens"]
    report(f"asking the export the {len(rows)} prompts of the test set")
    if made.file:
        return agreement.with_llamacpp(folder / made.file, rows, encoder, limit)
    return agreement.with_clients(folder, rows, encoder, limit), None
