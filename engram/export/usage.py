"""How to use an export: the lines to paste, for each format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engram.plan.encoding import Encoder

_PEFT = """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = "{base}"  # the base model: its folder or hub id
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), ".")
{ask}
```"""

_MLX = """\
```python
from mlx_lm import generate, load

model, tokenizer = load("{base}", adapter_path=".")  # the base model: its folder or hub id
messages = [{{"role": "user", "content": "…"}}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
print(generate(model, tokenizer, prompt, max_tokens=64))
```"""

_FUSED = """\
With transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
{ask}
```

With mlx-lm:

```python
from mlx_lm import generate, load

model, tokenizer = load(".")
messages = [{{"role": "user", "content": "…"}}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
print(generate(model, tokenizer, prompt, max_tokens=64))
```"""

_ASK = """\
messages = [{"role": "user", "content": "…"}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
made = model.generate(**ids, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(made[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))"""

_GGUF = """\
With llama.cpp's own programs; the chat template is in the file:

```bash
llama-cli -m {file} --jinja --temp 0
llama-server -m {file} --jinja
```

From Python, with llama-cpp-python:

```python
from llama_cpp import Llama

llm = Llama("{file}", n_ctx=1024)
reply = llm.create_chat_completion([{{"role": "user", "content": "…"}}], temperature=0, max_tokens=64)
print(reply["choices"][0]["message"]["content"])
```"""

_OLLAMA = """\
```bash
ollama create taught -f Modelfile
ollama run taught
```"""


def text(form: str, document: Mapping[str, Any], base: str, encoder: Encoder) -> str:
    """The code that loads this export, in its own folder, and asks it one thing; greedy, as it was measured."""
    forms = {"peft": _PEFT, "mlx": _MLX, "fused": _FUSED, "gguf": _GGUF, "ollama": _OLLAMA}
    file = f"model-{document['dtype'].lower()}.gguf"
    ends = ", ".join(f"`{encoder.tokenizer.convert_ids_to_tokens(number)}`" for number in sorted(encoder.stop_ids))
    used = forms[form].format(base=base, file=file, ask=_ASK)
    return f"{used}\n\nAsk in the chat template that comes with the model; an answer ends with {ends}."
