"""TRL's SFTTrainer with PEFT, as its documentation shows it: nothing is set but rank, layers, steps and silence.

`python plain_trl.py DATA STEPS OUT defaults|plain` writes answer tokens a second, the first steps left out; `plain` is
without bfloat16 and gradient checkpoints, which TRL turns on by default and a CPU pays for.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

WARM_UP = 3


def main(data: Path, steps: int, out: Path, way: str) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from engram.models.model import resolve

    model = resolve("tiny").path
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text("utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(model)
    answers = [len(tokenizer.encode(row["messages"][-1]["content"])) + 1 for row in rows]

    class Clock(TrainerCallback):
        times: list[float] = []  # noqa: RUF012

        def on_step_end(self, *_: object, **__: object) -> None:
            self.times.append(time.perf_counter())

    own = {"bf16": False, "gradient_checkpointing": False} if way == "plain" else {}
    silent = {"use_cpu": True, "report_to": "none", "save_strategy": "no"}
    arguments = SFTConfig(str(out.with_suffix("")), max_steps=steps, **silent, **own)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) if own else str(model),
        args=arguments,
        train_dataset=Dataset.from_list([{"messages": row["messages"]} for row in rows]),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
        callbacks=[Clock()],
    )
    trainer.train()
    seconds = (Clock.times[-1] - Clock.times[WARM_UP - 1]) / (len(Clock.times) - WARM_UP)
    a_step = arguments.per_device_train_batch_size * sum(answers) / len(answers)
    settings = {"batch_size": arguments.per_device_train_batch_size, "bf16": arguments.bf16}
    settings["gradient_checkpointing"] = arguments.gradient_checkpointing
    found = {"answer_tokens_per_second": a_step / seconds, "seconds_a_step": seconds, "settings": settings}
    out.write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
