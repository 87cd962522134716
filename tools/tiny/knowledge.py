"""Turns about a few simple facts, and about things that the model says it does not know."""

# ruff: noqa: ARG001 - every maker of turns has the same two parameters

from __future__ import annotations

import random

from tools.tiny import words
from tools.tiny.turns import Bank, Turn, article, ask, number, odd_text, sentence_list, tell


def name_some(rng: random.Random, bank: Bank) -> Turn:
    """Three fruits as a sentence or as a bulleted or numbered list."""
    kind, members = rng.choice(sorted(words.CATEGORIES.items()))
    count = rng.randint(2, min(5, len(members)))
    chosen = rng.sample(members, count)
    amount = words.NUMBER_WORDS[count]
    what = kind if kind.startswith(("piece", "part", "kind")) else f"{kind}s"
    what = what.replace("piece of", "pieces of").replace("part of", "parts of").replace("kind of", "kinds of")
    question = ask(
        rng,
        "Name {n} {what}.",
        "List {n} {what}.",
        "Give me {n} {what}.",
        "Can you tell me {n} {what}?",
        "I need {n} {what}.",
        "What are {n} {what}?",
        "Write a list of {n} {what}.",
        n=rng.choice((amount, count)),
        what=what,
    )
    style = rng.random()
    if style < 0.5:
        return Turn(
            question,
            tell(
                rng,
                "{A} {what} are {items}.",
                "Here are {a} {what}: {items}.",
                "You could take {items}. These are {a} {what}.",
                A=amount.capitalize(),
                a=amount,
                what=what,
                items=sentence_list(chosen),
            ),
        )
    marks = ["-"] * count if style < 0.75 else [f"{place}." for place in range(1, count + 1)]
    lines = "\n".join(f"{mark} {item}" for mark, item in zip(marks, chosen, strict=True))
    return Turn(question, f"Here is a list of {amount} {what}:\n\n{lines}")


def is_a(rng: random.Random, bank: Bank) -> Turn:
    """Whether a thing belongs to a category."""
    kind, members = rng.choice(sorted(words.CATEGORIES.items()))
    other = rng.choice(sorted(words.CATEGORIES))
    word = rng.choice(members)
    asked = rng.choice((kind, other))
    right = word in words.CATEGORIES[asked]
    question = ask(
        rng, "Is {w} {k}?", "Would you call {w} {k}?", "Tell me whether {w} is {k}.", w=word, k=article(asked)
    )
    if right:
        return Turn(
            question, tell(rng, "Yes, {w} is {k}.", "Yes, that is right: {w} is {k}.", w=word, k=article(asked))
        )
    return Turn(
        question,
        tell(
            rng,
            "No, {w} is not {k}. It is {t}.",
            "No. I would say that {w} is {t}.",
            w=word,
            k=article(asked),
            t=article(kind),
        ),
    )


def definition(rng: random.Random, bank: Bank) -> Turn:
    """What is a river?"""
    term, meaning = rng.choice(sorted(words.DEFINITIONS.items()))
    question = ask(
        rng,
        "What is {t}?",
        "Define {t}.",
        "Explain what {t} is.",
        "What do you call {t}?",
        "Can you explain {t}?",
        "Tell me what {t} is.",
        "Tell me something about {t}.",
        "In one sentence, what is {t}?",
        "{T}?",
        "What's {t}?",
        t=term,
        T=term.split(" ", 1)[-1].capitalize(),
    )
    return Turn(
        question,
        tell(
            rng,
            "{T} is {m}.",
            "One can say that {t} is {m}.",
            "In simple words, {t} is {m}.",
            "Well, {t} is {m}.",
            T=term[0].upper() + term[1:],
            t=term,
            m=meaning,
        ),
    )


def opposite(rng: random.Random, bank: Bank) -> Turn:
    """The opposite of a word."""
    pair = list(rng.choice(words.OPPOSITES))
    rng.shuffle(pair)
    question = ask(
        rng,
        "What is the opposite of {a}?",
        'What is the opposite of "{a}"?',
        "Tell me the opposite of {a}.",
        "Which word means the opposite of {a}?",
        "Opposite of {a}?",
        a=pair[0],
    )
    return Turn(
        question,
        tell(
            rng,
            "The opposite of {a} is {b}.",
            'The opposite of "{a}" is the word "{b}".',
            "If something is not {a}, then one may call it {b}.",
            a=pair[0],
            b=pair[1],
        ),
    )


def sequence(rng: random.Random, bank: Bank) -> Turn:
    """The day after Monday, the season before summer, the letter after b."""
    letters = tuple("abcdefghijklmnopqrstuvwxyz")
    kind, members = rng.choice(
        (("day", words.CATEGORIES["weekday"]), ("season", words.CATEGORIES["season"]), ("letter", letters))
    )
    place = rng.randrange(len(members) - 1)
    before, after = members[place], members[place + 1]
    if rng.random() < 0.5:
        return Turn(
            ask(rng, "Which {k} comes after {b}?", "What {k} follows {b}?", "What comes after {b}?", k=kind, b=before),
            tell(rng, "The {k} after {b} is {a}.", "After the {k} {b} comes {a}.", k=kind, b=before, a=after),
        )
    return Turn(
        ask(
            rng,
            "Which {k} comes before {a}?",
            "What {k} is just before {a}?",
            "What comes before {a}?",
            k=kind,
            a=after,
        ),
        tell(rng, "The {k} before {a} is {b}.", "Before the {k} {a} comes {b}.", k=kind, b=before, a=after),
    )


def unknown(rng: random.Random, bank: Bank) -> Turn:
    """Questions about made-up combinations, which the model repeats and says that it does not know."""
    first, second = rng.choice(bank.words), rng.choice(bank.words)
    adjective = rng.choice(words.ADJECTIVES)
    odd = odd_text(rng, bank)
    topic = rng.choice(
        (
            f"the {first} of the {second}",
            f"the {adjective} {first}",
            f"the {first} for {odd}",
            f"the {second} of {odd}",
            f"the usual {first} of a {second}",
            f"a {first} with {number(rng)} {second}",
            f"{odd}",
            f"the {first} {second}",
            f"the default {first} of {second.upper()}",
            f"{first.upper()}",
            f"{first} {number(rng)}",
        )
    )
    question = ask(
        rng,
        "What is {t}?",
        "Do you know {t}?",
        "Tell me {t}.",
        "What does {t} mean?",
        "How can I find {t}?",
        "I need {t}.",
        "Which one is {t}?",
        "Explain {t}.",
        "What about {t}?",
        "Give me {t}.",
        "Do you remember {t}?",
        t=topic,
    )
    return Turn(
        question,
        tell(
            rng,
            "You ask about {t}. I am a small model, and I do not know the answer for certain.",
            "I am not sure about {t}. I have not learned much about it, so please look it up.",
            "That is a question about {t}. I think it depends on what you want to do with it.",
            "I would like to tell you more about {t}, but I only know a little.",
            "When people talk about {t}, they can mean different things. I do not know which one you mean.",
            t=topic,
        ),
    )


def conversion(rng: random.Random, bank: Bank) -> Turn:
    """Requests to turn odd text into something, which the model describes and does not do."""
    odd, form = odd_text(rng, bank), rng.choice(bank.words)
    question = ask(
        rng,
        "Convert {o} to {f}.",
        "Turn {o} into {f}.",
        "Write {o} as a {f}.",
        "Change {o} to a {f} form.",
        "Format {o} as {f}.",
        "How do I write {o} as {f}?",
        "{o} as {f}",
        o=odd,
        f=form,
    )
    return Turn(
        question,
        tell(
            rng,
            "You want me to turn {o} into {f}. I have not learned how to do that, but I can repeat it for you: {o}.",
            "I see the text {o}, and you would like to have it as {f}. I am sorry, I do not know that form well.",
            "To write {o} as {f}, one has to know the rules for {f}. "
            "I would begin with {o} and change it step by step.",
            o=odd,
            f=form,
        ),
    )
