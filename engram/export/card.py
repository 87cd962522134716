"""The model card of an export: what it is made from, what was measured, how to use it. Figures come from documents."""

# ruff: noqa: E501 - a row of a Markdown table is one line

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from engram.evaluation import tables
from engram.export import usage
from engram.export.evidence import Evidence, Source
from engram.models.model import REGISTRY, Model
from engram.plan.encoding import Encoder
from engram.support import console
from engram.support.files import read_bytes

LIBRARY = {"peft": "peft", "mlx": "mlx", "fused": "transformers", "gguf": "gguf", "ollama": "gguf"}
WHAT = {
    "peft": "The LoRA adapter alone, in the layout that PEFT loads.",
    "mlx": "The LoRA adapter alone, in the layout that mlx-lm loads.",
    "fused": "The whole model: W + scale · B·A, computed in float32 and stored as {dtype}.",
    "gguf": "The whole model for llama.cpp: adapter merged in float32, matrices stored as {dtype}, vectors as F32.",
    "ollama": "The whole model for ollama: a GGUF file (matrices {dtype}) and its Modelfile. ollama itself was not run to check it; the file was checked in llama.cpp where a check stands below.",
}


def text(source: Source, document: Mapping[str, Any], encoder: Encoder) -> str:
    """The card, Markdown with YAML front matter, of the export that `document` describes."""
    form, name = document["format"], source.model.name
    parts = [
        _front(source, form),
        f"# {name}, taught with engram ({form})",
        WHAT[form].format(dtype=document["dtype"]),
        "## Does it answer as the model that was measured?\n\n" + _checks(document),
        "## What it was taught, and what was measured\n\n"
        + (_figures(source.evidence) if source.evidence else _NO_FIGURES),
        "## Licences\n\n" + _licences(source.model),
        "## Use\n\n" + usage.text(form, document, base(source.model), encoder),
    ]
    return "\n\n".join(parts) + "\n"


_NO_FIGURES = "No results of this adapter were there when it was exported, so nothing is said of what it knows."


def base(model: Model) -> str:
    """The base model's id on the hub, or its name here where it has none."""
    return REGISTRY.get(model.name) or model.name


def licence(model: Model) -> str:
    """The base model's licence, from its own card; empty where it has none here."""
    path = model.path / "README.md"
    if not path.is_file():
        return ""
    found = re.match(r"---\n(.*?)\n---\n", read_bytes(path).decode("utf-8", "replace"), re.S)
    named = re.search(r"^license: *([\w.-]+) *$", found[1], re.M) if found else None
    return named[1] if named else ""


def _front(source: Source, form: str) -> str:
    known, hub = licence(source.model), base(source.model)
    lines = [f"base_model: {hub}"] if "/" in hub else []
    lines += [f"license: {known}"] if known else ["license: other", "license_name: that-of-the-base-model"]
    lines += [f"library_name: {LIBRARY[form]}", "pipeline_tag: text-generation", "tags:", "- engram", "- lora"]
    return "\n".join(["---", *lines, "---"])


def _checks(document: Mapping[str, Any]) -> str:
    if document["format"] in ("peft", "mlx"):
        return "It is the same adapter, number by number; nothing was computed anew."
    if not document["checks"]:
        return "**Not checked.** It was exported with `--unchecked`: no program has answered the test set with it."
    lines = ["| program | asked with | same as here | 95 % (Wilson) |", "|---|---|---|---|"]
    lines += [row(check) for check in document["checks"]]
    differing = [d for check in document["checks"] for d in check["differing"]]
    lines += [f"\nWhat differs: {_differing(differing)}" if differing else "\nNothing differs."]
    if document["tokenizer"]:
        lines.append("\n" + _tokenizer(document["tokenizer"]))
    return "\n".join(lines)


def row(check: Mapping[str, Any]) -> str:
    """One check as a row of a table: program, what it was asked with, agreement, interval."""
    share = f"{check['same']} of {check['n']} ({console.percent(check['share'])})"
    return f"| {check['program']} | {check['asked']} | {share} | {console.interval(check['ci95'])} |"


def _differing(rows: list[dict[str, str]]) -> str:
    shown = {r["id"]: f"`{r['id']}`: {_quoted(r['here'])} here, {_quoted(r['there'])} there" for r in rows}
    return "; ".join(shown.values()) + "."


def _quoted(answer: str) -> str:
    """An answer as JSON text in a code span, so that nothing in it is read as Markdown."""
    return "`" + json.dumps(answer, ensure_ascii=False).replace("`", "'") + "`"


def _tokenizer(found: Mapping[str, Any]) -> str:
    start = f"Text is split before BPE as llama.cpp's `{found['pre']}` does (the llama.cpp that runs it must know this name). "
    if not found["differing"]:
        return start + f"Of {found['texts']} hard cases none gives other token ids than the model's own tokenizer."
    listed = ", ".join(_quoted(text) for text in found["differing"])
    return start + f"Of {found['texts']} hard cases {len(found['differing'])} give other token ids: {listed}."


def _figures(found: Evidence) -> str:
    comparison, recipe = found.comparison, found.tuned["recipe"]
    files = (
        f"pattern files {', '.join(f'`{name}`' for name in found.patterns)}"
        if found.patterns
        else "the user's pattern files"
    )
    lines = [
        f"Data: {files}; manifest (SHA-256) `{found.tuned['data']['manifest_sha256']}`, seed {found.tuned['data']['seed']}.",
        f"Recipe: `{recipe['name']}`, LoRA of rank {recipe['rank']}, scale {recipe['alpha'] / recipe['rank']:g}, "
        f"learning rate {recipe['learning_rate']:g}, batches of {recipe['batch_size']}. Evaluated with the backend `{found.tuned['backend']}`.",
        "\n| | n | before | after | 95 % | |",
        "|---|---|---|---|---|---|",
    ]
    for split, change in comparison["improvement"].items():
        before, after = comparison["baseline"][split], comparison["tuned"][split]
        shares = f"{console.percent(before['exact'])} | {console.percent(after['exact'])} | {console.interval(after['ci95'])}"
        lines.append(f"| {split}, exact match | {change['n']} | {shares} | {change['verdict']} |")
    kept = comparison["retention"]
    for kind in ("text", "chat"):
        one = kept[kind]
        cells = f"{tables.number(one['before'])} | {tables.number(one['after'])} | nats {tables.bounds(one['ci95'])}"
        lines.append(f"| perplexity, general {kind} | {one['n']} | {cells} | {one['verdict']} |")
    changed = kept["changed"]
    cells = f"| {console.percent(changed['share'])} | {console.interval(changed['ci95'])} |"
    lines.append(f"| general answers changed | {changed['n']} | {cells} |  |")
    lines.append(
        "\nRecall is of patterns that were taught, asked in words that training never used; generalization is of patterns "
        "that were held out. Both are of the model as it ran where it was evaluated."
    )
    return "\n".join(lines)


def _licences(model: Model) -> str:
    known = licence(model)
    named = f"`{known}`, by its own card" if known else "see its own page; no card of it was there to read"
    return (
        f"Base model {base(model)}: {named}. Weights (SHA-256): `{model.weights_sha256}`. The licence of the patterns that were "
        "taught is not known to engram: whoever wrote them has to say it."
    )
