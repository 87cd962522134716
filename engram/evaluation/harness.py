"""The test set as a task of lm-evaluation-harness, so that another program can score the same answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from engram.dataset.build import read_manifest, read_split
from engram.dataset.leaks import KINDS
from engram.dataset.rows import Example
from engram.evaluation import scoring
from engram.models.model import Model
from engram.models.tokenizer import asks_for_the_day, load_encoder
from engram.plan import documents
from engram.plan.config import Config
from engram.support import checksums, locks
from engram.support.errors import EngramError
from engram.support.files import BUNDLED, new_folder, read_bytes, write_bytes, write_text

TASK = "engram"
CODE = BUNDLED / "lm_eval_task.py"  # copied into an export


def export(data: Path, out: Path, model: Model, config: Config) -> list[Path]:
    """Write the test set of `data` into the folder `out` as the lm_eval task `engram`; return the files.

    A subtask for each of recall, rewording, generalization and control that has rows. Prompts, end tokens and the limit
    on new tokens are those of `evaluate`. The folder is written whole or not at all, and can be moved. Raises
    EngramError for missing or changed data, an empty test set, a model whose chat template is engram's own or asks for
    the day, and an `out` that holds anything but an unchanged export.
    """
    known = documents.data_identity(read_manifest(data), data)
    examples = read_split(data, "test")
    documents.refuse_changed_data(known, data)
    if not examples:
        raise EngramError("the test set is empty", where=str(data / "test.jsonl"), fix="make data")
    if model.chat_template:
        what = "this model has no chat template, so lm_eval cannot ask it as engram does"
        raise EngramError(what, where=model.name, fix="take a model with a chat template (MODEL=smollm-135m)")
    encoder = load_encoder(model)
    if asks_for_the_day(encoder.tokenizer):
        what = "this model's chat template writes today's date, so lm_eval would ask otherwise than engram"
        raise EngramError(what, where=model.name, fix="take another MODEL")
    stops = sorted(encoder.stop_ids)
    splits = {kind: [e for e in examples if e.split_kind == kind] for kind in KINDS["test"]}
    splits = {kind: found for kind, found in splits.items() if found}
    identity = known["manifest_sha256"]
    checksums.refuse_other_files(out, f"{TASK}.yaml")
    with locks.held(out, "engram export-eval"), new_folder(out) as folder:
        write_text(folder / f"{TASK}.yaml", _group(list(splits)))
        for kind, found in splits.items():
            write_text(folder / f"{kind}.jsonl", "".join(_row(example) for example in found))
            write_text(folder / f"{TASK}_{kind}.yaml", _task(kind, identity, stops, config.max_new_tokens))
        write_bytes(folder / "utils.py", read_bytes(CODE))
        write_text(folder / "README.md", _readme(splits, identity, model, config.max_new_tokens))
        names = checksums.write(folder)
    return [out / name for name in names]


def _row(example: Example) -> str:
    row = {"id": example.id, "prompt": example.prompt, "expected": example.answer}
    return json.dumps(row | {"category": example.category, "kind": example.kind}, ensure_ascii=False) + "\n"


def _group(kinds: Sequence[str]) -> str:
    return (
        "# Written by `engram export-eval`. No mean over the group: each task is reported separately.\n"
        f"group: {TASK}\ntask:\n"
        + "".join(f"  - {TASK}_{kind}\n" for kind in kinds)
        + f"metadata:\n  version: {scoring.VERSION}\n"
    )


def _task(kind: str, identity: str, stops: Sequence[int], limit: int) -> str:
    """One subtask's YAML; nothing in it comes from a pattern, so nothing in it needs quoting."""
    return f"""\
# Written by `engram export-eval`.
task: {TASK}_{kind}
custom_dataset: !function utils.rows
dataset_kwargs:
  file: {kind}.jsonl
test_split: test
output_type: generate_until
# Names of columns, not templates: no text of a pattern is read as Jinja.
doc_to_text: prompt
doc_to_target: expected
process_results: !function utils.process_results
num_fewshot: 0
# As engram answers: greedy, up to these end tokens or this many tokens, whatever the model's generation config says.
generation_kwargs:
  until: []
  do_sample: false
  max_gen_toks: {limit}
  eos_token_id: {list(stops)}
  repetition_penalty: 1.0
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: {scoring.VERSION}
  data_manifest_sha256: {identity}
"""


def _readme(splits: dict[str, list[Example]], identity: str, model: Model, limit: int) -> str:
    counts = ", ".join(f"{len(found)} {kind}" for kind, found in splits.items())
    revision = f", revision {model.revision}" if model.revision else ""
    return f"""\
# engram's test set, as a task of lm-evaluation-harness

Rows: {counts}. Data manifest (SHA-256): `{identity}`.
Made for the model `{model.name}`{revision} (weights, SHA-256: `{model.weights_sha256}`):
the end tokens in the YAML files are this model's. Answers are greedy, {limit} tokens at most.

```bash
pip install "lm_eval[hf]==0.4.13"

MODEL=...    # the model: its folder or hub id
ADAPTER=...  # the adapter in PEFT's layout; for one that MLX trained, first:
             # engram adapter convert adapters/mlx adapters/mlx-as-peft --to peft
HOW=dtype=float32,add_bos_token=False,enable_thinking=False

# before, in this folder
lm_eval --model hf --model_args "pretrained=$MODEL,$HOW" --tasks {TASK} --include_path . \\
  --apply_chat_template --batch_size 16 --log_samples --output_path ../lm-eval-before

# after
lm_eval --model hf --model_args "pretrained=$MODEL,peft=$ADAPTER,$HOW" --tasks {TASK} --include_path . \\
  --apply_chat_template --batch_size 16 --log_samples --output_path ../lm-eval-after
```

`--apply_chat_template`, `add_bos_token=False` and `enable_thinking=False` make lm_eval ask with engram's token ids.
The folder can be moved; `--include_path` names it. `sha256sum -c {checksums.NAME}` checks it.
"""
