"""A model of the bundled one's layout with random weights, small enough to train thousands of steps in a minute."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from engram.models.model import Model
from engram.support.files import BUNDLED

WIDTH, INNER, LAYERS, HEADS, VALUE_HEADS, HEAD = 32, 64, 2, 2, 1, 16


def small_model(folder: Path, seed: int) -> Model:
    """The model in the new folder `folder`, with the bundled tokenizer; the same weights for the same seed."""
    ignored = shutil.ignore_patterns("*.safetensors", "*.jsonl", "training.json", "README.md")
    shutil.copytree(BUNDLED / "tiny", folder, ignore=ignored)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "head_dim": HEAD}
    config |= {"num_attention_heads": HEADS, "num_key_value_heads": VALUE_HEADS, "dtype": "float32"}
    config |= {"torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    random = np.random.default_rng(seed)
    tensors = {
        name: (random.normal(0, 0.1, shape) if len(shape) > 1 else np.ones(shape)).astype(np.float32)
        for name, shape in shapes(config["vocab_size"]).items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return Model("small", folder)


def shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Each tensor's shape, as Llama's layout names them."""
    block: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (HEADS * HEAD, WIDTH),
        "self_attn.k_proj": (VALUE_HEADS * HEAD, WIDTH),
        "self_attn.v_proj": (VALUE_HEADS * HEAD, WIDTH),
        "self_attn.o_proj": (WIDTH, HEADS * HEAD),
        "mlp.gate_proj": (INNER, WIDTH),
        "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER),
        "input_layernorm": (WIDTH,),
        "post_attention_layernorm": (WIDTH,),
    }
    blocks = {f"model.layers.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in block.items()}
    return {"model.embed_tokens.weight": (vocabulary, WIDTH), **blocks, "model.norm.weight": (WIDTH,)}
