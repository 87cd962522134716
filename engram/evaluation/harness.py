"""The test set as a task of lm-evaluation-harness, so that another program can score the same answers."""

from __future__ import annotations

import json
from pathlib import Path

from engram.dataset.leaks import KINDS
from engram.evaluation import scoring
from engram.evaluation.evaluate import test_set
from engram.models.model import Model
from engram.models.tokenizer import load_encoder
from engram.plan.config import Config
from engram.support import checksums, locks
from engram.support.errors import EngramError
from engram.support.files import BUNDLED, new_folder, read_bytes, write_bytes, write_text
from engram.support.text import filled

TASK = "engram"
HEAD = "# Written by `engram export-eval`. No mean over the group: each task is reported separately."
FIELDS = {"id": "id", "prompt": "prompt", "expected": "answer", "category": "category", "kind": "kind"}
CODE = BUNDLED / "lm_eval_task.py"  # copied into an export
# nothing in a subtask comes from a pattern, so nothing in it needs quoting
SUBTASK, README = (Path(__file__).with_name(f"lm_eval.{kind}.j2") for kind in ("yaml", "md"))


def export(data: Path, out: Path, model: Model, config: Config) -> list[Path]:
    """Write the test set of `data` into the folder `out` as the lm_eval task `engram`; return the files.

    A subtask for each of recall, rewording, generalization and control that has rows. Prompts, end tokens and the limit
    on new tokens are those of `evaluate`. The folder is written whole or not at all, and can be moved. Raises
    EngramError for missing or changed data, an empty test set, a model whose chat template is engram's own or asks for
    the day, and an `out` that holds anything but an unchanged export.
    """
    known, examples = test_set(data)
    if model.chat_template:
        what = "this model has no chat template, so lm_eval cannot ask it as engram does"
        raise EngramError(what, where=model.name, fix="take a model with a chat template (MODEL=smollm-135m)")
    encoder = load_encoder(model)
    if "strftime_now" in encoder.tokenizer.get_chat_template():  # here every day is the same
        what = "this model's chat template writes today's date, so lm_eval would ask otherwise than engram"
        raise EngramError(what, where=model.name, fix="take another MODEL")
    stops = sorted(encoder.stop_ids)
    splits = {kind: found for kind in KINDS["test"] if (found := [e for e in examples if e.split_kind == kind])}
    shared = {"identity": known["manifest_sha256"], "limit": config.max_new_tokens}
    checksums.refuse_other_files(out, f"{TASK}.yaml")
    with locks.held(out, "engram export-eval"), new_folder(out) as folder:
        tasks = (f"  - {TASK}_{kind}" for kind in splits)
        group = [HEAD, f"group: {TASK}", "task:", *tasks, "metadata:", f"  version: {scoring.VERSION}"]
        write_text(folder / f"{TASK}.yaml", "\n".join(group) + "\n")
        for kind, found in splits.items():
            rows = ({name: getattr(e, of) for name, of in FIELDS.items()} for e in found)
            write_text(folder / f"{kind}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            task = filled(SUBTASK, kind=kind, stops=stops, version=scoring.VERSION, **shared)
            write_text(folder / f"{TASK}_{kind}.yaml", task)
        write_bytes(folder / "utils.py", read_bytes(CODE))
        write_text(folder / "README.md", filled(README, splits=splits, model=model, **shared))
        names = checksums.write(folder)
    return [out / name for name in names]
