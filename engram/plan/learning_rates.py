"""The learning rate of each optimizer step."""

from __future__ import annotations

import math

from engram.plan.config import Config


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
