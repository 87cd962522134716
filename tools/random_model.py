"""Models of an exact shape with random weights: what a model costs can be measured without its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from engram.models.model import Model, resolve

SMOLLM: Mapping[str, int | bool] = {  # the shape of SmolLM-135M
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
MEDIUM: Mapping[str, int | bool] = {**SMOLLM, "vocab_size": 16_384, "hidden_size": 384, "intermediate_size": 1024} | {
    "num_hidden_layers": 14,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}  # 30 million parameters


def random_model(name: str, shape: Mapping[str, int | bool], folder: Path) -> Model:
    """A Llama of this shape in bfloat16, seeded, with the bundled model's tokenizer; made once. Needs torch."""
    if not (folder / "config.json").is_file():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        from engram.backends import silenced

        tiny = resolve("tiny").path
        tokens = json.loads((tiny / "config.json").read_bytes())
        special = {key: tokens[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        torch.manual_seed(0)
        with silenced():
            made = LlamaForCausalLM(LlamaConfig(**shape, **special)).to(torch.bfloat16)
            made.save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(tiny / file, folder)
    return Model(name, folder)
