"""The model card of an export: its sources, its measured figures, and how to use it."""

# ruff: noqa: E501 - a row of a Markdown table is one line

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from engram.memory.table import is_memory
from engram.models import adapters, conversion
from engram.models.adapters import Lora
from engram.models.model import REGISTRY, Model
from engram.models.tokenizer import Encoder
from engram.plan import documents
from engram.support import console
from engram.support.errors import EngramError
from engram.support.files import read_bytes, sha256

LIBRARY = {"peft": "peft", "mlx": "mlx", "fused": "transformers", "gguf": "gguf", "ollama": "gguf"}
CONTENTS = {
    "peft": "The LoRA adapter alone, in the layout that PEFT loads.",
    "mlx": "The LoRA adapter alone, in the layout that mlx-lm loads.",
    "fused": "The whole model: W + scale · B·A, computed in float32 and stored as {dtype}.",
    "gguf": "The whole model for llama.cpp: adapter merged in float32, matrices stored as {dtype}, vectors as F32.",
    "ollama": "The whole model for ollama: a GGUF file (matrices {dtype}) and its Modelfile. The file was checked in llama.cpp if a check is listed below; it was not run in ollama.",
}
_NO_FIGURES = "There were no results of this adapter when it was exported, so this card has no figures."


class Evidence(NamedTuple):
    """A run's tuned answers, its comparison, and the names of its pattern files if the data is there."""

    tuned: dict[str, Any]
    comparison: dict[str, Any]
    patterns: tuple[str, ...]


class Source(NamedTuple):
    """What is exported: a model, its adapter with its hash, and the run's results, None without results."""

    model: Model
    folder: Path
    sha256: str
    lora: Lora
    evidence: Evidence | None


def source(model: Model, adapter: Path, place: Path, data: Path, needed: bool) -> Source:
    """Read everything that an export is made from; `place` is the folder of the run's results.

    Raises EngramError for an unreadable adapter, for results of another adapter or model, and, if they are needed,
    for missing results.
    """
    if is_memory(adapter):
        what = "a memory is read by engram alone, so it cannot be exported"
        fix = "METHOD=lora exports the adapter; copy a memory's folder instead"
        raise EngramError(what, where=str(adapter), fix=fix)
    digest = adapters.read_adapter(adapter)[1]
    lora = conversion.read(adapter)
    there = (place / "tuned.json").is_file() and (place / "comparison.json").is_file()
    return Source(model, adapter, digest, lora, _evidence(model, digest, place, data) if there or needed else None)


def _evidence(model: Model, digest: str, place: Path, data: Path) -> Evidence:
    tuned = documents.read(place / "tuned.json", "result", "make eval")
    comparison = documents.read(place / "comparison.json", "comparison", "make compare")
    problems = []
    if tuned["adapter"] is None or tuned["adapter"]["sha256"] != digest:
        problems.append("tuned.json: the answers of another adapter")
    if comparison["sources"]["tuned"] != sha256(place / "tuned.json"):
        problems.append("comparison.json: compares another tuned.json")
    if tuned["model"]["weights_sha256"] != model.weights_sha256:
        problems.append(f"tuned.json: of another model than {model.name}")
    if problems:
        what = "the results are not of this adapter, so the export has no evidence"
        raise EngramError(what, where=str(place), problems=problems, fix="make eval compare, with the same settings")
    manifest = data / "manifest.json"
    known = manifest.is_file() and sha256(manifest) == tuned["data"]["manifest_sha256"]
    files = [entry["file"] for entry in json.loads(read_bytes(manifest))["inputs"]] if known else []
    return Evidence(tuned, comparison, tuple(files))


def text(source: Source, document: Mapping[str, Any], encoder: Encoder) -> str:
    """The card, Markdown with YAML front matter, of the export that `document` describes."""
    form, name = document["format"], source.model.name
    figures = _figures(source.evidence) if source.evidence else _NO_FIGURES
    parts = [
        _front(source, form),
        f"# {name}, taught with engram ({form})",
        CONTENTS[form].format(dtype=document["dtype"]),
        "## Does it answer as the model that was measured?\n\n" + _checks(document),
        "## Taught patterns and measured figures\n\n" + figures,
        "## Licences\n\n" + _licences(source.model),
        "## Use\n\n" + usage(form, document, base(source.model), encoder),
    ]
    return "\n\n".join(parts) + "\n"


def base(model: Model) -> str:
    """The base model's id on the hub, or its name here where it has none."""
    return REGISTRY.get(model.name) or model.name


def licence(model: Model) -> str:
    """The licence in the base model's card; empty where there is none."""
    path = model.path / "README.md"
    if not path.is_file():
        return ""
    found = re.match(r"---\n(.*?)\n---\n", read_bytes(path).decode("utf-8", "replace"), re.S)
    named = re.search(r"^license: *([\w.-]+) *$", found[1], re.M) if found else None
    return named[1] if named else ""


def row(check: Mapping[str, Any]) -> str:
    """One check as a row of a table: program, kind of question, agreement, interval."""
    share = f"{check['same']} of {check['n']} ({console.percent(check['share'])})"
    return f"| {check['program']} | {check['asked']} | {share} | {console.interval(check['ci95'])} |"


def _front(source: Source, form: str) -> str:
    known, hub = licence(source.model), base(source.model)
    lines = [f"base_model: {hub}"] if "/" in hub else []
    lines += [f"license: {known}"] if known else ["license: other", "license_name: that-of-the-base-model"]
    lines += [f"library_name: {LIBRARY[form]}", "pipeline_tag: text-generation", "tags:", "- engram", "- lora"]
    return "\n".join(["---", *lines, "---"])


def _checks(document: Mapping[str, Any]) -> str:
    if document["format"] in ("peft", "mlx"):
        return "It is the same adapter, number by number; nothing was recomputed."
    if not document["checks"]:
        return "**Not checked.** It was exported with `--unchecked`: no program has answered the test set with it."
    lines = ["| program | asked with | same as here | 95 % (Wilson) |", "|---|---|---|---|"]
    lines += [row(check) for check in document["checks"]]
    differing = {
        d["id"]: f"`{d['id']}`: {_quoted(d['here'])} here, {_quoted(d['there'])} there"
        for check in document["checks"]
        for d in check["differing"]
    }
    lines.append(f"\nDifferences: {'; '.join(differing.values())}." if differing else "\nNothing differs.")
    if document["tokenizer"]:
        lines.append("\n" + _tokenizer(document["tokenizer"]))
    return "\n".join(lines)


def _quoted(answer: str) -> str:
    """An answer as JSON text in a code span, so that nothing in it is read as Markdown."""
    return "`" + json.dumps(answer, ensure_ascii=False).replace("`", "'") + "`"


def _tokenizer(found: Mapping[str, Any]) -> str:
    start = f"Text is split before BPE as llama.cpp's `{found['pre']}` does (the llama.cpp that runs it must know this name). "
    count = f"Of {found['texts']} hard cases"
    if not found["differing"]:
        return f"{start}{count} none gives other token ids than the model's own tokenizer."
    listed = ", ".join(_quoted(text) for text in found["differing"])
    return f"{start}{count} {len(found['differing'])} give other token ids: {listed}."


def _figures(found: Evidence) -> str:
    comparison, recipe, data = found.comparison, found.tuned["recipe"], found.tuned["data"]
    files = "the user's pattern files"
    if found.patterns:
        files = f"pattern files {', '.join(f'`{name}`' for name in found.patterns)}"
    lines = [
        f"Data: {files}; manifest (SHA-256) `{data['manifest_sha256']}`, seed {data['seed']}.",
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
        cells = f"{console.number(one['before'])} | {console.number(one['after'])} | nats {console.bounds(one['ci95'])}"
        lines.append(f"| perplexity, general {kind} | {one['n']} | {cells} | {one['verdict']} |")
    changed = kept["changed"]
    cells = f"| {console.percent(changed['share'])} | {console.interval(changed['ci95'])} |"
    lines.append(f"| general answers changed | {changed['n']} | {cells} |  |")
    lines.append(
        "\nRecall asks about taught patterns in a phrasing that training never used, rewording in other words altogether; "
        "generalization asks about members of taught rules that were held out, control about members of a random "
        "mapping. All were measured on the model where it was evaluated, before the export."
    )
    return "\n".join(lines)


def _licences(model: Model) -> str:
    known = licence(model)
    named = f"`{known}`, by its own card" if known else "see its own page; its folder has no card"
    return (
        f"Base model {base(model)}: {named}. Weights (SHA-256): `{model.weights_sha256}`. engram does not know the licence of "
        "the patterns that were taught; their authors must state it."
    )


_TORCH = """\
messages = [{"role": "user", "content": "…"}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
made = model.generate(**ids, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(made[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))"""

_MLX = """\
```python
from mlx_lm import generate, load

model, tokenizer = load(LOADED)
messages = [{"role": "user", "content": "…"}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
print(generate(model, tokenizer, prompt, max_tokens=64))
```"""

# BASE, FILE and LOADED are filled in
USAGE = {
    "peft": f"""\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = "BASE"  # the base model: its folder or hub id
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), ".")
{_TORCH}
```""",
    "mlx": _MLX.replace("LOADED)", '"BASE", adapter_path=".")  # the base model: its folder or hub id'),
    "fused": f"""\
With transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
{_TORCH}
```

With mlx-lm:

{_MLX.replace("LOADED", '"."')}""",
    "gguf": """\
With llama.cpp's own programs; the chat template is in the file:

```bash
llama-cli -m FILE --jinja --temp 0
llama-server -m FILE --jinja
```

From Python, with llama-cpp-python:

```python
from llama_cpp import Llama

llm = Llama("FILE", n_ctx=1024)
reply = llm.create_chat_completion([{"role": "user", "content": "…"}], temperature=0, max_tokens=64)
print(reply["choices"][0]["message"]["content"])
```""",
    "ollama": """\
```bash
ollama create taught -f Modelfile
ollama run taught
```""",
}


def usage(form: str, document: Mapping[str, Any], base: str, encoder: Encoder) -> str:
    """The code that loads this export, in its own folder, and asks it one thing; greedy, as it was measured."""
    ends = ", ".join(f"`{encoder.tokenizer.convert_ids_to_tokens(number)}`" for number in sorted(encoder.stop_ids))
    code = USAGE[form].replace("BASE", base).replace("FILE", f"model-{document['dtype'].lower()}.gguf")
    return f"{code}\n\nAsk in the chat template that comes with the model; an answer ends with {ends}."
