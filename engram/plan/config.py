"""The settings of a run in frozen dataclasses, and the named recipes that set them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram.support.errors import EngramError
from engram.support.text import first, nearest, shorten

MAX_SEED = 2**63 - 1  # every generator takes 64 bits
MAX_STEPS = 1_000_000  # of one training
SMALL_MODEL = 50_000_000  # parameters; `default` is the recipe tuned on the bundled model below it


@dataclass(frozen=True)
class LoraSettings:
    """How a LoRA adapter is trained: on all linear layers of all blocks, with AdamW and bias correction."""

    rank: int = 8
    alpha: float = 16.0  # the adapter's product is scaled by alpha / rank
    dropout: float = 0.0
    learning_rate: float = 1e-3
    schedule: str = "cosine"  # of the learning rate after the warm-up; see SCHEDULES
    warmup_steps: int = 0  # over which the learning rate rises linearly
    batch_size: int = 16  # rows
    epochs: float = 8.0
    steps: int = 0  # optimizer steps; 0: as many as `epochs` need, and `least_steps`
    least_steps: int = 0
    stop_at: float = 0.0  # share of validation rows right that ends training; the best adapter is kept. 0: none does
    patience: int = 0  # validation passes without a better adapter that end training; 0: none do
    replay: int = 0  # rows that the model wrote, added to each batch to limit forgetting
    replay_weight: float = 1.0  # of the KL divergence from the base on these rows
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip: float = 0.0  # the largest norm of the gradient; 0: any
    max_length: int = 512  # tokens of a row
    quantize: str = "none"  # or `4bit` (mlx, cuda), `8bit` (mlx)
    gradient_checkpointing: str = "off"  # or `on`: compute activations twice and keep fewer of them (cuda, cpu)
    validate_every: int = 20  # steps
    validation_rows: int = 128

    @property
    def scale(self) -> float:
        """The factor on the adapter's product: alpha / rank, as in PEFT (MLX takes the factor itself)."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class MemorySettings:
    """How the rows of a memory are fitted."""

    memory_blocks: int = 1  # the last blocks, which read the rows; 0: only the head does
    memory_start: float = 1.5  # size of a new row, relative to the hidden state that it is added to
    memory_rate: float = 0.3  # size of a step, relative to the same
    memory_passes: int = 12  # at most, each of one phrasing
    memory_phrasings: int = 2  # which take turns


@dataclass(frozen=True)
class GateSettings:
    """The limits of `engram gate`: shares of right answers to reach (0: any), and nats per general token to lose."""

    gate_recall: float = 0.9
    gate_rewording: float = 0.0
    gate_generalization: float = 0.0
    gate_retention: float = 0.1

    @property
    def limits(self) -> dict[str, float]:
        """The limits by what they are of."""
        found = {name: getattr(self, f"gate_{name}") for name in ("recall", "rewording", "generalization")}
        return {name: limit for name, limit in found.items() if limit} | {"retention": self.gate_retention}


@dataclass(frozen=True)
class Config(GateSettings, MemorySettings, LoraSettings):
    """A complete set of hyperparameters; the backends decide none of them.

    The settings of LoRA, of a memory and of the verdict come from the classes above. Answers are greedy and at most
    `max_new_tokens` long. To measure consistency, `samples` answers are drawn at `temperature` for the first
    `consistency_prompts` test rows; `latency_prompts` rows are timed one at a time. With `shots` the untaught model
    also answers the test set with so many solved examples of the same category before each question.
    """

    name: str = "default"
    seed: int = 0
    method: str = "lora"  # or `memory` or `both`; see engram/training/methods.py
    max_new_tokens: int = 32
    samples: int = 3
    temperature: float = 0.7
    consistency_prompts: int = 20
    latency_prompts: int = 10
    general_rows: int = 0  # of texts and of chats each that retention is measured on; 0: all
    shots: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for a result document; the memory's and the method only if it is not LoRA, `shots`
        and `general_rows` only if they are set, and never the verdict's limits, which change no result."""
        unused = {field.name for field in dataclasses.fields(GateSettings)}
        unused |= {name for name in ("shots", "general_rows") if not getattr(self, name)}
        if self.method == "lora":
            unused |= {"method", *(field.name for field in dataclasses.fields(MemorySettings))}
        fields = {key: value for key, value in dataclasses.asdict(self).items() if key not in unused}
        return {"name": self.name, "seed": self.seed} | fields


_DEFAULT = {
    **{"rank": 16, "alpha": 32.0, "batch_size": 16, "replay": 2, "validate_every": 20},
    # training ends when the patterns are known under phrasings that it never sees, whatever their number
    **{"stop_at": 0.99, "least_steps": 300, "validation_rows": 100},
}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    # tuned on the bundled model; see results/reference/
    "default-small": {**_DEFAULT, "learning_rate": 4e-3, "epochs": 4.0},
    # chosen with SmolLM2-135M, for 50 M parameters and more
    "default-large": {**_DEFAULT, "learning_rate": 2e-3, "epochs": 1.5, "replay_weight": 2.0},
    # as in the original plan: 100 iterations, learning rate 1e-5, rank 8, batch 4
    "seed": {"learning_rate": 1e-5, "rank": 8, "alpha": 160.0, "batch_size": 4, "steps": 100, "schedule": "constant"},
}
# the largest value of a setting, MAX_STEPS of every other: planning still ends and fits into memory
_MOST = {
    **{"rank": 4096, "learning_rate": 100, "batch_size": 65536, "epochs": 10_000, "stop_at": 1, "replay": 65536},
    **{"replay_weight": 1000, "weight_decay": 1000, "epsilon": 1, "max_new_tokens": 65536, "samples": 1000},
    **{"memory_blocks": 1000, "memory_start": 100, "memory_rate": 100, "memory_passes": 10_000, "memory_phrasings": 4},
    **{"gate_recall": 1, "gate_rewording": 1, "gate_generalization": 1, "gate_retention": 1000},
    **{"temperature": 100, "shots": 100, "seed": MAX_SEED, "validate_every": 10**9, "validation_rows": 10**9},
}
_ABOVE_ZERO = (
    *("rank", "alpha", "learning_rate", "batch_size", "max_length", "max_new_tokens", "validate_every"),
    *("memory_rate", "memory_passes", "memory_phrasings", "replay_weight"),
)
_TYPES = {int: "a whole number", float: "a number", str: "text"}
SCHEDULES = ("constant", "linear", "cosine")
_CHOICES = {
    "method": ("lora", "memory", "both"),
    "schedule": SCHEDULES,
    "quantize": ("none", "8bit", "4bit"),
    "gradient_checkpointing": ("off", "on"),
}


def load_config(recipe: str, parameters: int, seed: int = 0, overrides: Mapping[str, str] | None = None) -> Config:
    """The configuration of a named recipe or of a YAML file of settings, with `overrides` on top.

    `parameters` is the model's parameter count, by which `default` is chosen. Raises EngramError for an unknown
    recipe or key (naming the nearest known one) and for a value of the wrong type or range.
    """
    name, settings, places = _recipe(recipe, parameters)
    merged: dict[str, Any] = {**settings, **(overrides or {})}
    known = {f.name: type(f.default) for f in dataclasses.fields(Config) if f.name not in ("name", "seed")}
    problems: list[tuple[str, str]] = []  # setting and message
    values: dict[str, Any] = {}
    for key, value in merged.items():
        if key not in known:
            problems.append((key, f"unknown setting {_shown(key)}{_hint(key, known)}"))
            continue
        try:
            values[key] = _convert(value, known[key])
        except (TypeError, ValueError, OverflowError):
            problems.append((key, f"{key} = {_shown(value)} is not {_TYPES[known[key]]}"))
    config = Config(name=name, seed=seed, **values)
    problems += _range_problems(config)
    if problems:
        places = {key: place for key, place in places.items() if key not in (overrides or {})}
        lines = first([f"{places[key]}: {text}" if key in places else text for key, text in problems])
        what, where = "the settings are not usable", f"recipe {recipe}"
        raise EngramError(what, where=where, problems=lines, fix="correct them")
    return config


def learning_rates(config: Config, steps: int) -> list[float]:
    """The learning rate of each step: a linear rise over `warmup_steps`, then constant, linear or cosine to 0."""
    rates = []
    for step in range(steps):
        if step < config.warmup_steps:
            factor = (step + 1) / (config.warmup_steps + 1)
        else:
            done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
            shapes = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
            factor = shapes[config.schedule]
        rates.append(config.learning_rate * factor)
    return rates


def parse_overrides(pairs: tuple[str, ...]) -> dict[str, str]:
    """`("rank=4 epochs=3",)` as `{"rank": "4", "epochs": "3"}`; raises EngramError for a pair without `=`."""
    pairs = tuple(re.sub(r"\s*=\s*", "=", " ".join(pairs)).split())
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise EngramError(f"not KEY=VALUE: {', '.join(wrong)}", where="--set", fix="for example: --set rank=4")
    return dict(pair.split("=", 1) for pair in pairs)


def _shown(value: object) -> str:
    return shorten(repr(value), 60)


def _recipe(recipe: str, parameters: int) -> tuple[str, dict[str, Any], dict[str, str]]:
    """The recipe's name, its settings, and the places of settings that come from a file."""
    from engram.patterns.yaml_source import read

    if recipe == "default":
        recipe = "default-small" if parameters < SMALL_MODEL else "default-large"
    if recipe in RECIPES:
        return recipe, dict(RECIPES[recipe]), {}
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml"):
        names = ["default", *RECIPES]
        hint = nearest(recipe, names) or f"; known are {', '.join(names)}"
        fix = "name one of them, or a .yaml file of settings"
        raise EngramError(f"unknown recipe {_shown(recipe)}{hint}", where="RECIPE", fix=fix)
    source = read(path)
    problems = [f"{path}:{f.place.line}:{f.place.column} {f.message}; {f.fix}" for f in source.faults]
    if not problems and not isinstance(source.document, dict):
        problems = [f"{path}:1:1 not a mapping of settings"]
    if problems:
        what, fix = "the recipe file cannot be read", "correct these lines"
        raise EngramError(what, where=str(path), problems=first(problems), fix=fix)
    places = {key: source.place((key,)) for key in source.document}
    return path.stem, source.document, {key: f"{path}:{at.line}:{at.column}" for key, at in places.items()}


def _hint(key: str, known: Iterable[str]) -> str:
    if key in ("name", "seed"):
        return "; the seed has its own option (--seed)" if key == "seed" else "; the recipe's name is its own"
    return nearest(key, known) or "; see docs/commands.md"


def _convert(value: Any, kind: type) -> Any:
    whole_or_text = kind is int and isinstance(value, float), kind is str and not isinstance(value, str)
    if isinstance(value, bool) or any(whole_or_text):
        raise ValueError(value)
    return kind(value)


def _range_problems(config: Config) -> list[tuple[str, str]]:
    """The settings that cannot be used, each with its reason."""
    problems = []
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            problems.append((name, f"{name} = {value} is not a finite number"))
        elif isinstance(value, (int, float)) and value < 0 and name != "seed":
            problems.append((name, f"{name} = {value} is negative"))
        elif isinstance(value, (int, float)) and value > (most := _MOST.get(name, MAX_STEPS)):
            problems.append((name, f"{name} = {_shown(value)}: at most {most:,} can be used"))
    for name in _ABOVE_ZERO:
        if getattr(config, name) == 0:
            problems.append((name, f"{name} = 0: it must be above 0"))
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            problems.append((name, f"{name} = {_shown(getattr(config, name))}: one of {', '.join(choices)}"))
    if config.steps == 0 and config.epochs == 0:
        problems.append(("steps", "steps and epochs are both 0: nothing would be trained"))
    for name in ("dropout", "beta1", "beta2"):
        if getattr(config, name) >= 1:
            problems.append((name, f"{name} = {getattr(config, name)}: it must be below 1"))
    return problems
