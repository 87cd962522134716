"""The methods that `METHOD` names: what each teaches, and how its runs are labelled and described."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.backends import Loaded
from engram.models.model import Model
from engram.plan.checkpoint import Saving
from engram.plan.config import Config, learning_rates
from engram.plan.curve import Progress
from engram.training import teach_memory, train


@dataclass(frozen=True)
class Method:
    """A way to teach: its name in `METHOD`, its name in a sentence, and whether it needs a trained LoRA adapter."""

    name: str
    words: str
    needs_adapter: bool = False

    def label(self, backend: str) -> str:
        """The name of the folder of its adapters and results: `<backend>`, or `<backend>-<method>`."""
        return backend if self is LORA else f"{backend}-{self.name}"

    def describe(self, log: Mapping[str, Any]) -> str:
        """What a run trained, in numbers, from its training log."""
        own, model = (f"{log[part]['parameters']:,}" for part in ("adapter", "model"))
        if self is LORA:
            return f"LoRA of rank {log['recipe']['rank']}: {own} of {model} parameters are trained"
        return f"{log['summary']['rows']:,} facts, {own} numbers in rows next to the model; its {model} stay"

    def rates(self, config: Config, steps: int) -> list[float]:
        """The learning rate of each step."""
        return learning_rates(config, steps) if self is LORA else [config.memory_rate] * steps

    def teach(
        self,
        backend: str,
        model: Model,
        config: Config,
        data: Path,
        folder: Path,
        log: Path,
        progress: Progress,
        under: Path | None = None,
        saving: Saving | None = None,
        loaded: Loaded | None = None,
    ) -> dict[str, Any]:
        """Teach the training rows of `data`, write the result to `folder` and its log to `log`; return the log.

        `under` is the folder of the LoRA adapter that a method builds on, if it needs one. Raises EngramError as
        `train.train` and `teach_memory.train` do; a process that is not the first of several returns an empty log.
        """
        if self is LORA:
            return train.train(backend, model, config, data, folder, log, progress, saving, loaded)
        adapter = under if self.needs_adapter else None
        return teach_memory.train(backend, model, config, data, folder, log, progress, adapter)


LORA = Method("lora", "LoRA")
MEMORY = Method("memory", "a memory")
BOTH = Method("both", "LoRA and a memory", needs_adapter=True)
METHODS = {method.name: method for method in (LORA, MEMORY, BOTH)}


def of(recipe: Mapping[str, Any]) -> Method:
    """The method of a document's recipe, which names it unless it is LoRA."""
    return METHODS[recipe.get("method", LORA.name)]
