"""Stock PEFT in a process of its own, which Unsloth never touched: makes adapters, and loads converted ones.

python stock_peft.py MODEL MADE CONVERTED     writes MADE/<case>/ and MADE/<case>.npy, the logits with it;
                                              CONVERTED/<name>.npy for every adapter there; prints LoraConfig's fields
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Any

TOKENS = [5, 17, 99, 1000, 7, 3]
CASES: dict[str, dict[str, Any]] = {
    "all-linear": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
    "few-targets": {"r": 3, "lora_alpha": 1, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1},
    "last-blocks": {"r": 4, "target_modules": ["q_proj", "v_proj"], "layers_to_transform": [4, 5]},
    "irregular-blocks": {"r": 4, "target_modules": ["gate_proj"], "layers_to_transform": [0, 3], "use_rslora": True},
    "pattern": {"r": 5, "lora_alpha": 7, "target_modules": r".*\.(0\.mlp\.up_proj|3\.self_attn\.k_proj)"},
    "excluded": {"r": 2, "target_modules": ["o_proj"], "exclude_modules": ["layers.1.self_attn.o_proj"]},
    "bfloat16": {"r": 8, "target_modules": ["up_proj", "k_proj"], "dtype": "bfloat16"},
    "float16": {"r": 8, "target_modules": ["v_proj"], "dtype": "float16", "init_lora_weights": "gaussian"},
}


def base(path: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def write_logits(model: Any, path: Path) -> None:
    import numpy as np
    import torch

    with torch.no_grad():
        np.save(path, model.float().eval()(input_ids=torch.tensor([TOKENS])).logits[0].numpy())


def make(folder: Path, model: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    for name, options in CASES.items():
        dtype = getattr(torch, options.get("dtype", "float32"))
        config = LoraConfig(task_type="CAUSAL_LM", **{k: v for k, v in options.items() if k != "dtype"})
        adapted = get_peft_model(base(model), config)
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.data = (torch.randn_like(parameter) * 0.1).to(dtype)
        adapted.save_pretrained(str(folder / name))
        write_logits(adapted, folder / f"{name}.npy")


def load(folder: Path, model: str) -> None:
    from peft import PeftModel

    warnings.simplefilter("error")  # PEFT warns of missing tensors and of settings that it does not know
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        write_logits(PeftModel.from_pretrained(base(model), str(path)), folder / f"{path.name}.npy")


if __name__ == "__main__":
    make(Path(sys.argv[2]), sys.argv[1])
    load(Path(sys.argv[3]), sys.argv[1])
    from peft import LoraConfig

    print(*(field.name for field in dataclasses.fields(LoraConfig)))
