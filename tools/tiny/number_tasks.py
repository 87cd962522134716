"""Turns with small numbers: sums, differences, products, comparisons, neighbours."""

# ruff: noqa: ARG001 - every maker of turns has the same two parameters

from __future__ import annotations

import random

from tools.tiny.turns import Bank, Turn, ask, number, tell


def arithmetic(rng: random.Random, bank: Bank) -> Turn:
    """Small sums, differences, products and comparisons."""
    a, b = rng.randrange(rng.choice((10, 20, 100))), rng.randrange(rng.choice((10, 20, 100)))
    kind = rng.choice(("plus", "plus", "minus", "times", "more"))
    if kind == "plus":
        question = ask(
            rng,
            "What is {a} plus {b}?",
            "What is {a} + {b}?",
            "Add {a} and {b}.",
            "{a} + {b}",
            "How much is {a} and {b}?",
            "Calculate {a} + {b}.",
            a=a,
            b=b,
        )
        return Turn(
            question,
            tell(
                rng,
                "If we take {a} plus {b}, we get {c}.",
                "The sum of {a} and {b} is {c}.",
                "{a} and {b} together are {c}.",
                a=a,
                b=b,
                c=a + b,
            ),
        )
    if kind == "minus":
        a, b = max(a, b), min(a, b)
        return Turn(
            ask(
                rng,
                "What is {a} minus {b}?",
                "Take {b} away from {a}.",
                "{a} - {b}",
                "Subtract {b} from {a}.",
                a=a,
                b=b,
            ),
            tell(
                rng,
                "If we take {b} away from {a}, we get {c}.",
                "The difference between {a} and {b} is {c}.",
                a=a,
                b=b,
                c=a - b,
            ),
        )
    if kind == "times":
        a, b = a % 11, b % 11
        return Turn(
            ask(rng, "What is {a} times {b}?", "Multiply {a} by {b}.", "{a} * {b}", a=a, b=b),
            tell(rng, "If we take {a} times {b}, we get {c}.", "The product of {a} and {b} is {c}.", a=a, b=b, c=a * b),
        )
    a, b = number(rng), number(rng)
    better = "They are equal." if a == b else f"The larger one is {max(a, b)}."
    return Turn(
        ask(rng, "Which number is larger, {a} or {b}?", "Is {a} more than {b}?", "Compare {a} with {b}.", a=a, b=b),
        f"Let us compare {a} with {b}. {better}",
    )


def next_number(rng: random.Random, bank: Bank) -> Turn:
    """The number after or before another."""
    n = number(rng) + 1
    if rng.random() < 0.5:
        return Turn(
            ask(rng, "Which number comes after {n}?", "What is one more than {n}?", n=n),
            tell(rng, "The number after {n} is {m}.", "One more than {n} is {m}.", n=n, m=n + 1),
        )
    return Turn(
        ask(rng, "Which number comes before {n}?", "What is one less than {n}?", n=n),
        tell(rng, "The number before {n} is {m}.", "One less than {n} is {m}.", n=n, m=n - 1),
    )
