"""The methods that are compared: each taught the same rows, and then one function from questions to answers."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram import backends
from engram.dataset.build import read_split
from engram.memory import facts
from engram.models.model import Model
from engram.models.tokenizer import Encoder, load_encoder
from engram.plan.config import Config
from engram.training.methods import METHODS
from engram.training.processes import Silent
from tools.methods.probes import tails

LORA = {"LoRA r8": (8, 16.0), "LoRA r64": (64, 128.0)}
NAMES = ("baseline", *LORA, "memory", "both", "in context", "dictionary")
EXAMPLES = 4  # in a prompt


@dataclass(frozen=True)
class Contender:
    """A taught method: what teaching it took, what it keeps on the disk, and how it answers.

    `session` is the model in memory where it answers every question by itself.
    """

    name: str
    seconds: float
    bytes: int
    ask: Callable[[Sequence[str]], list[str]]
    session: Any


@dataclass(frozen=True)
class Ground:
    """What all contenders share: backend, model, settings, data, a folder to work in, and the model as it was."""

    backend_name: str
    model: Model
    config: Config
    data: Path
    work: Path
    encoder: Encoder
    base: Any

    @property
    def taught(self) -> dict[str, str]:
        """The output of every taught input."""
        return {fact.input: fact.output for fact in facts.taught(read_split(self.data, "train"))}


def ground(backend_name: str, model: Model, config: Config, data: Path, work: Path) -> Ground:
    """What the contenders of one set and seed share."""
    backend = backends.get(backend_name)
    return Ground(backend_name, model, config, data, work, load_encoder(model), backend.load(model))


def prepared(name: str, at: Ground) -> Contender:
    """A contender, taught."""
    if name == "baseline":
        return Contender(name, 0.0, 0, lambda prompts: answers(at, at.base, prompts), at.base)
    if name == "dictionary":
        return _dictionary(at)
    if name == "in context":
        return _in_context(at)
    folder = at.work / name.replace(" ", "-")
    seconds = _teach(name, at, folder)
    session = backends.get(at.backend_name).load(at.model, folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    return Contender(name, seconds, size, lambda prompts: answers(at, session, prompts), session)


def answers(at: Ground, session: Any, prompts: Sequence[str]) -> list[str]:
    """A session's greedy answers to these messages."""
    return _answered(at, session, [at.encoder.prompt(prompt) for prompt in prompts])


def _answered(at: Ground, session: Any, asked: Sequence[Sequence[int]]) -> list[str]:
    backend = backends.get(at.backend_name)
    made = backend.generate(session, asked, at.encoder.stop_ids, at.config.max_new_tokens)
    return [at.encoder.text(answer.tokens) for answer in made]


def _teach(name: str, at: Ground, folder: Path) -> float:
    """Seconds of the whole stage, loading the model included; of `both` those of its LoRA adapter too."""
    log, under = folder.with_suffix(".json"), at.work / "LoRA-r8"
    settings: dict[str, Any] = {"method": name}
    if name in LORA:
        settings = dict(zip(("rank", "alpha"), LORA[name]))
    config = dataclasses.replace(at.config, **settings)
    method = METHODS[config.method]
    document = method.teach(at.backend_name, at.model, config, at.data, folder, log, Silent(), under)
    logs = [document, *([json.loads(under.with_suffix(".json").read_text("utf-8"))] if method.needs_adapter else [])]
    return float(sum(one["summary"]["wall_seconds"] for one in logs))


def _dictionary(at: Ground) -> Contender:
    """The longest taught input that a message ends with is answered by its output, everything else by the model."""
    started = time.perf_counter()
    known = at.taught
    seconds = time.perf_counter() - started

    def ask(prompts: Sequence[str]) -> list[str]:
        found = [next((known[tail] for tail in tails(prompt) if tail in known), None) for prompt in prompts]
        rest = answers(at, at.base, [prompt for prompt, output in zip(prompts, found) if output is None])
        others = iter(rest)
        return [next(others) if output is None else output for output in found]

    return Contender("dictionary", seconds, len(json.dumps(known).encode()), ask, None)


def _in_context(at: Ground) -> Contender:
    """The taught inputs that share most letter triples with the message, asked and answered before it."""
    known = at.taught
    grams = {text: _triples(text) for text in known}

    def ask(prompts: Sequence[str]) -> list[str]:
        return _answered(at, at.base, [at.encoder.chat(_shown(prompt, known, grams)) for prompt in prompts])

    return Contender("in context", 0.0, len(json.dumps(known).encode()), ask, None)


def _shown(prompt: str, known: Mapping[str, str], grams: Mapping[str, frozenset[str]]) -> list[dict[str, str]]:
    own = _triples(prompt)
    nearest = sorted(known, key=lambda text: -len(own & grams[text]) / len(own | grams[text]))[:EXAMPLES]
    turns = [(text, known[text]) for text in reversed(nearest)]
    messages = [
        {"role": role, "content": content} for turn in turns for role, content in zip(("user", "assistant"), turn)
    ]
    return [*messages, {"role": "user", "content": prompt}]


def _triples(text: str) -> frozenset[str]:
    return frozenset(text[i : i + 3] for i in range(max(1, len(text) - 2)))
