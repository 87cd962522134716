"""The recipe of the bundled model `tiny`: from the standard library and generated chat to a model folder."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from engram.support import checksums, locks
from engram.support.errors import EngramError
from engram.support.files import new_folder
from tools.tiny import card, pretrain, rows
from tools.tiny.conversations import Conversation, conversations
from tools.tiny.library_text import Library, read_library
from tools.tiny.tokenizer import train_tokenizer
from tools.tiny.turns import bank_from

STEPS = 1_750  # 14.3 million tokens: about 40 minutes on two cores
HELD_OUT_SEED = 1_000_003  # added to the seed; another stream of conversations
HELD_OUT_CHAT = 1_000  # conversations whose loss is measured; the first 40 go into heldout.jsonl
KEPT_ROWS = 40  # of each kind in heldout.jsonl
SNIPPET = 480  # characters of a held-out text row
REPLAY_CHAT, REPLAY_TEXT = 600, 40  # rows of the training that a recipe may mix in again
REPLAY_ANSWER, REPLAY_WHOLE = 16, 120  # tokens: short ones, which cost a fine-tuning little
REPLAY_SNIPPET = 240  # characters of a text row
READ = (".json", ".jsonl", ".safetensors", ".jinja")  # what a run reads of the model's folder


def build(
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    work: Path | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Make the bundled model in the folder `out`: tokenizer, weights, configuration, model card, held-out rows.

    `work` keeps the checkpoint that an interrupted run goes on from, and `work/tiny-snapshot`, the model so far;
    by default it lies beside `out` and is removed at the end. `out` itself appears complete or not at all.
    Raises EngramError where torch or transformers is missing.
    """
    _require("torch", "transformers")
    scratch = work or out.with_name(f".{out.name}.work")
    with locks.held(out, "make base-model"):
        with new_folder(out) as new:
            scratch.mkdir(parents=True, exist_ok=True)
            card.write_card(new, _make(new, pretrain.Schedule(steps=steps or STEPS, seed=seed), scratch, report))
            checksums.write(new, READ)
        if work is None:
            shutil.rmtree(scratch)
    report(f"the model is in {out}")


def _make(folder: Path, schedule: pretrain.Schedule, work: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """Everything but the card: writes the model's files into `folder` and returns the run's numbers."""
    from transformers import AutoTokenizer

    library = read_library()
    chat, unseen = _conversations(library, schedule.seed)
    report(f"{len(chat):,} conversations, {len(library.documents):,} documents of the standard library")
    train_tokenizer(_texts(library, chat), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokenizer.model_max_length = sys.maxsize  # documents are cut into rows below; no warning about their length
    packed = [
        rows.pack_chat(chat, tokenizer, schedule.length),
        rows.pack_text(library.documents, tokenizer, schedule.length),
        rows.pack_chat(unseen, tokenizer, schedule.length),
        rows.pack_text(library.held_out, tokenizer, schedule.length),
    ]
    report(f"tokens: {packed[0].tokens.size:,} chat, {packed[1].tokens.size:,} text")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = pretrain.new_model(schedule.seed, tokenizer)

    def snapshot(trained: Any) -> None:
        with new_folder(work / "tiny-snapshot") as place:
            pretrain.save_model(trained, tokenizer, place)

    snapshot(model)
    numbers = pretrain.train(model, packed[0], packed[1], schedule, work=work, on_snapshot=snapshot, report=report)
    model.eval()
    numbers["heldout_loss_chat"] = round(pretrain.mean_loss(model, packed[2]), 4)
    numbers["heldout_loss_text"] = round(pretrain.mean_loss(model, packed[3]), 4)
    report(f"held out: chat {numbers['heldout_loss_chat']:.3f}, text {numbers['heldout_loss_text']:.3f}")
    pretrain.save_model(model, tokenizer, folder)
    write_held_out(folder / "heldout.jsonl", unseen, library.held_out)
    write_replay(folder / "replay.jsonl", chat, library.documents, tokenizer)
    data = {
        "conversations": len(chat),
        "documents": len(library.documents),
        "characters": sum(map(len, library.documents)),
        "chat_tokens": int(packed[0].tokens.size),
        "text_tokens": int(packed[1].tokens.size),
        "heldout_conversations": len(unseen),
        "heldout_documents": len(library.held_out),
    }
    return card.run_document(schedule, data, numbers, parameters=sum(p.numel() for p in model.parameters()))


def _conversations(library: Library, seed: int) -> tuple[list[Conversation], list[Conversation]]:
    """The conversations to train on, and others of which no question occurs in training."""
    bank = bank_from(library)
    chat = list(conversations(bank, seed))
    asked = {message["content"] for talk in chat for message in talk if message["role"] == "user"}
    others = conversations(bank, seed + HELD_OUT_SEED, 4 * HELD_OUT_CHAT)
    unseen = [talk for talk in others if not any(message["content"] in asked for message in talk)]
    return chat, unseen[:HELD_OUT_CHAT]


def _texts(library: Library, chat: Sequence[Conversation]) -> list[str]:
    return [*library.documents, *(message["content"] for talk in chat for message in talk)]


def write_held_out(path: Path, unseen: Sequence[Conversation], documents: Sequence[str]) -> None:
    """Write 40 conversations and 40 pieces of text that training never saw, for the measurement of retention."""
    rows: list[dict[str, Any]] = [{"kind": "chat", "messages": talk} for talk in unseen[:KEPT_ROWS]]
    longest = max(map(len, documents), default=0)
    pieces = [  # the beginnings of all documents, then a later piece of each that is long enough, and so on
        text[start : start + SNIPPET]
        for start in range(0, longest, 4 * SNIPPET)
        for text in documents
        if len(text) >= start + SNIPPET
    ]
    rows += [{"kind": "text", "text": piece} for piece in pieces[:KEPT_ROWS]]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_replay(path: Path, chat: Iterable[Conversation], documents: Sequence[str], tokenizer: Any) -> None:
    """Write short conversations and a few beginnings of documents, all from the training, for recipes to mix in."""
    short = (talk for talk in chat if _is_short(talk, tokenizer))
    rows: list[dict[str, Any]] = [{"kind": "chat", "messages": talk} for talk in itertools.islice(short, REPLAY_CHAT)]
    every = max(1, len(documents) // REPLAY_TEXT)
    rows += [{"kind": "text", "text": text[:REPLAY_SNIPPET]} for text in documents[::every][:REPLAY_TEXT]]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _is_short(talk: Conversation, tokenizer: Any) -> bool:
    if len(tokenizer.encode(talk[-1]["content"], add_special_tokens=False)) >= REPLAY_ANSWER:
        return False
    return len(rows.encode_conversation(talk, tokenizer)[0]) <= REPLAY_WHOLE


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise EngramError(
            f"pretraining the bundled model needs {' and '.join(missing)}",
            where="make base-model",
            fix="make base-model  (it installs them, then runs this command)",
        )
