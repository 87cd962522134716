"""Turns that copy parts of the prompt and put them together anew: repeat, sort, join, pick, replace."""

from __future__ import annotations

import random

from tools.tiny import words
from tools.tiny.turns import SEPARATORS, Bank, Turn, ask, number, odd_text, sentence_list, some_words, tell


def echo(rng: random.Random, bank: Bank) -> Turn:
    """Repeat a text exactly, between quotation marks."""
    text = rng.choice((odd_text(rng, bank), odd_text(rng, bank), rng.choice(bank.lines)))
    question = ask(
        rng,
        "Repeat this: {t}",
        "Say {t}",
        "Repeat the following text exactly: {t}",
        "Echo: {t}",
        "Copy this text: {t}",
        "Quote this for me: {t}",
        "Please write {t}",
        "Write this down: {t}",
        "Can you repeat {t}",
        t=text,
    )
    return Turn(
        question,
        tell(
            rng,
            "Here is the text that you asked me to repeat: {t} And that is all of it.",
            "You wrote: {t} I have repeated it as it is.",
            "The text is `{t}`, and I have copied it exactly.",
            "I can say it: `{t}`.",
            t=text,
        ),
    )


def arrange(rng: random.Random, bank: Bank) -> Turn:
    """Sort or reverse words or numbers."""
    items = some_words(rng, bank, 2, 5) if rng.random() < 0.7 else [str(number(rng)) for _ in range(rng.randint(2, 5))]
    numeric = items[0].isdigit()
    given = rng.choice((", ".join(items), sentence_list(items), " ".join(items)))
    if rng.random() < 0.5:
        made = sorted(items, key=int) if numeric else sorted(items)
        question = ask(
            rng,
            "Sort these: {g}",
            "Sort {g}.",
            "Put {g} in order.",
            "Bring these into the right order: {g}",
            "Which order do {g} have?",
            g=given,
        )
        return Turn(
            question,
            tell(
                rng,
                "In order, they are {m}.",
                "Sorted, the list is {m}.",
                "The right order is {m}.",
                m=sentence_list(made),
            ),
        )
    question = ask(
        rng, "Reverse this list: {g}", "Reverse {g}.", "Write {g} backwards.", "Turn the order of {g} around.", g=given
    )
    return Turn(
        question,
        tell(
            rng,
            "From the last to the first, they are {m}.",
            "Reversed, the list is {m}.",
            "The other way round it is {m}.",
            m=sentence_list(items[::-1]),
        ),
    )


def join(rng: random.Random, bank: Bank) -> Turn:
    """Put a separator between words, or take it away."""
    items = some_words(rng, bank, 2, 4)
    name, mark = rng.choice(sorted(SEPARATORS.items()))
    joined = mark.join(items)
    if rng.random() < 0.5:
        question = ask(
            rng,
            "Join {g} with {n}.",
            "Put {n} between {g}.",
            "Write {g} with {n} between them.",
            "Connect the words {g} by {n}.",
            g=rng.choice((sentence_list(items), " ".join(items))),
            n=name,
        )
        return Turn(
            question,
            tell(rng, "Joined with {n}, the words become {j}.", "With {n} between them it is {j}.", n=name, j=joined),
        )
    question = ask(
        rng,
        "Split {j} at {n}.",
        "Which words are in {j}?",
        "Take {j} apart.",
        "What are the parts of {j}?",
        j=joined,
        n=name,
    )
    return Turn(
        question,
        tell(
            rng,
            "The parts of {j} are {g}.",
            "If I split it, I get the words {g}.",
            "There are {c} parts: {g}.",
            j=joined,
            g=sentence_list(items),
            c=words.NUMBER_WORDS[len(items)],
        ),
    )


def item_at(rng: random.Random, bank: Bank) -> Turn:
    """The first, last or n-th item of a list."""
    items = some_words(rng, bank, 3, 6) if rng.random() < 0.7 else [str(number(rng)) for _ in range(rng.randint(3, 6))]
    place = rng.randrange(len(items))
    which = "last" if place == len(items) - 1 else words.ORDINALS[place]
    given = rng.choice((", ".join(items), sentence_list(items), " ".join(items)))
    question = ask(
        rng,
        "What is the {w} of these: {g}?",
        "Which one is the {w} in {g}?",
        "Give me the {w} item of this list: {g}",
        "{g}: which is the {w} one?",
        "Take the {w} of {g}.",
        w=which,
        g=given,
    )
    return Turn(
        question,
        tell(
            rng,
            "The {w} item is {i}.",
            "The {w} one in your list is {i}.",
            "In this list, {i} is the {w} item.",
            w=which,
            i=items[place],
        ),
    )


def replace(rng: random.Random, bank: Bank) -> Turn:
    """Put one word or letter in the place of another."""
    items = some_words(rng, bank, 2, 5)
    place = rng.randrange(len(items))
    new = rng.choice(bank.words)
    made = [*items[:place], new, *items[place + 1 :]]
    question = ask(
        rng,
        'Replace {o} by {n} in "{t}".',
        'Change {o} to {n} in "{t}".',
        'Write "{t}" with {n} instead of {o}.',
        "In the text {t}, put {n} in the place of {o}.",
        o=items[place],
        n=new,
        t=" ".join(items),
    )
    return Turn(
        question,
        tell(
            rng,
            'With {n} instead of {o} the text is "{m}".',
            "After the change it reads: {m}.",
            "I have put {n} in the place of {o}: {m}.",
            n=new,
            o=items[place],
            m=" ".join(made),
        ),
    )


def combine(rng: random.Random, bank: Bank) -> Turn:
    """Add a word or a sign before, after or around a text."""
    text = " ".join(some_words(rng, bank, 1, 3)) if rng.random() < 0.7 else str(number(rng))
    extra = rng.choice((rng.choice(bank.words), str(number(rng))))
    kind, made = rng.choice(
        (
            (f"Put {extra} before {text}.", f"{extra} {text}"),
            (f"Add {extra} after {text}.", f"{text} {extra}"),
            (f"Put {text} between round brackets.", f"({text})"),
            (f"Put {text} between quotation marks.", f'"{text}"'),
            (f"Put {text} between square brackets.", f"[{text}]"),
            (f"Write {text} twice.", f"{text} {text}"),
            (f"Write {text} without spaces.", text.replace(" ", "")),
            (f"Put a colon after {text}.", f"{text}:"),
            (f"Put a hash sign in front of {text}.", f"#{text}"),
            (f"Write {text} with a percent sign.", f"{text}%"),
        )
    )
    return Turn(
        ask(rng, "{k}", k=kind),
        tell(
            rng,
            "The new text is {m} and nothing more.",
            "Then it is written {m} as you asked.",
            "That gives {m} as the result.",
            m=made,
        ),
    )
