"""What every kind of generated question shares: a turn, the word bank and the wording helpers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tools.tiny import words
from tools.tiny.library_text import Entry, Library

SEPARATORS = {
    "a comma": ",",
    "a semicolon": ";",
    "a plus sign": "+",
    "a slash": "/",
    "a bar": "|",
    "a dot": ".",
    "an equals sign": "=",
}


@dataclass(frozen=True)
class Turn:
    """One question and its answer; the answer is at least one full sentence."""

    question: str
    answer: str


@dataclass(frozen=True)
class Bank:
    """What turns are made of: plain words, single lines of code, documented names."""

    words: tuple[str, ...]
    lines: tuple[str, ...]
    entries: tuple[Entry, ...]


def bank_from(library: Library) -> Bank:
    """The library's words, lines and entries, with the hand-written words added."""
    own = [word for group in words.CATEGORIES.values() for word in group]
    return Bank(tuple(sorted({*library.words, *own})), library.lines, library.entries)


def ask(rng: random.Random, *templates: str, **values: object) -> str:
    """One of `templates` filled in, now and then politer, in lower case or without its last full stop."""
    text = rng.choice(templates).format(**values)
    chance = rng.random()
    if chance < 0.08:
        text = f"{rng.choice(('Please', 'Could you help me?', 'Hi,', 'Hello!', 'One question:', 'Now'))} {text}"
    elif chance < 0.18:
        text = text[0].lower() + text[1:]
    if text[-1] in ".?" and rng.random() < 0.15:
        text = text[:-1]
    return text


def tell(rng: random.Random, *templates: str, **values: object) -> str:
    """One of `templates` filled in as an answer, at times with a friendly opening or closing sentence."""
    text = rng.choice(templates).format(**values)
    if rng.random() < 0.2:
        text = f"{rng.choice(words.OPENINGS)} {text}"
    if rng.random() < 0.12:
        text = f"{text} {rng.choice(words.CLOSINGS)}"
    return text


def article(noun: str) -> str:
    """`a owl` is wrong: the noun with the article that goes before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def sentence_list(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def some_words(rng: random.Random, bank: Bank, low: int, high: int) -> list[str]:
    """Between `low` and `high` different words."""
    return rng.sample(bank.words, rng.randint(low, high))


def number(rng: random.Random) -> int:
    """A whole number of one to five digits, short ones more often."""
    return rng.randrange(10 ** rng.choice((1, 1, 2, 2, 3, 4, 5)))


def odd_text(rng: random.Random, bank: Bank) -> str:
    """Something a person might paste: words, an identifier, numbers, quotes, punctuation, mixed."""
    word = rng.choice(bank.words)
    other = rng.choice(bank.words)
    made = (
        word,
        f"{word} {other}",
        f"{word.upper()} {number(rng)}",
        f"{word}{rng.randrange(100)}",
        f"{word[:3].upper()}{rng.randrange(1000)}",
        f"{number(rng)}",
        f"{number(rng)} {word} {number(rng)}",
        f"{word}: {other}",
        f"({word}, {other})",
        f'"{word}" {other}',
        f"{word}/{other}",
        f"{word}.{other}",
        f"{number(rng)}/{number(rng)}",
        f"{number(rng)}.{number(rng)}.{number(rng)}",
        f"{number(rng)}-{number(rng)}",
        f"#{number(rng)}",
        f"{word} = {number(rng)}",
        f"{word}, {other}, {rng.choice(bank.words)}",
        " ".join(some_words(rng, bank, 3, 6)),
        "".join(rng.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(rng.randint(3, 8))),
        "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") for _ in range(rng.randint(3, 7))),
    )
    return rng.choice(made)
