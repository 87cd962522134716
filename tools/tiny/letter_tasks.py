"""Turns that look at single characters: spelling, upper and lower case, reversing, counting."""

from __future__ import annotations

import random

from tools.tiny import words
from tools.tiny.turns import Bank, Turn, ask, number, sentence_list, some_words, tell


def spell(rng: random.Random, bank: Bank) -> Turn:
    """Letters or digits one by one."""
    word = rng.choice((rng.choice(bank.words), rng.choice(bank.words), str(number(rng) + 10)))
    what = "number" if word.isdigit() else "word"
    question = ask(
        rng,
        "Spell {w}.",
        "Spell the {k} {w}.",
        "How do you spell {w}?",
        "Write {w} one by one.",
        "Take {w} apart.",
        "What are the parts of the {k} {w}?",
        w=word,
        k=what,
    )
    joint = rng.choice((", ", " ", " "))
    return Turn(
        question,
        tell(
            rng,
            "The {k} {w} is spelled {s}.",
            "You spell {w} like this: {s}.",
            "One by one, {w} is {s}.",
            w=word,
            k=what,
            s=joint.join(word),
        ),
    )


def change_case(rng: random.Random, bank: Bank) -> Turn:
    """Upper case, lower case, a capital first letter."""
    text = " ".join(some_words(rng, bank, 1, 3))
    kind = rng.choice(("upper", "lower", "title"))
    given = text if kind != "lower" else rng.choice((text.upper(), text.title()))
    made = {"upper": given.upper(), "lower": given.lower(), "title": given.title()}[kind]
    name = {
        "upper": ("in upper case", "in capital letters", "in big letters"),
        "lower": ("in lower case", "in small letters"),
        "title": ("with a capital first letter in every word", "with capital first letters"),
    }[kind]
    how = rng.choice(name)
    question = ask(
        rng,
        "Write {g} {h}.",
        'Write "{g}" {h}.',
        "How does {g} look {h}?",
        "Put {g} {h}.",
        "{g} {h}, please.",
        g=given,
        h=how,
    )
    return Turn(
        question,
        tell(
            rng,
            "The text {g} {h} is {m}.",
            "Written {h}, it is {m}.",
            'If I write "{g}" {h}, I get "{m}".',
            g=given,
            h=how,
            m=made,
        ),
    )


def reverse_letters(rng: random.Random, bank: Bank) -> Turn:
    """A word or a number backwards."""
    word = rng.choice((rng.choice(bank.words), rng.choice(words.CATEGORIES["animal"]), str(number(rng) + 10)))
    question = ask(
        rng, "Write {w} backwards.", "What is {w} backwards?", "Reverse the word {w}.", "Read {w} from the end.", w=word
    )
    return Turn(
        question,
        tell(rng, "If you read {w} backwards, you get {r}.", "Backwards, {w} becomes {r}.", w=word, r=word[::-1]),
    )


def letter_at(rng: random.Random, bank: Bank) -> Turn:
    """The first or last letters of a word, or of each of several words."""
    if rng.random() < 0.5:
        items = some_words(rng, bank, 2, 4)
        question = ask(
            rng,
            "What are the first letters of {g}?",
            "Give me the first letter of each word: {g}",
            g=rng.choice((sentence_list(items), " ".join(items))),
        )
        return Turn(
            question,
            tell(
                rng,
                "The first letters are {f}.",
                "The words begin with {f}.",
                f=sentence_list([item[0] for item in items]),
            ),
        )
    word = rng.choice((rng.choice(bank.words), str(number(rng) + 10)))
    kind = "digit" if word.isdigit() else "letter"
    which, found = rng.choice((("first", word[0]), ("last", word[-1]), ("second", word[1])))
    question = ask(
        rng,
        "What is the {p} {k} of {w}?",
        "Which {k} is the {p} one in {w}?",
        "{W}: the {p} {k}?",
        p=which,
        k=kind,
        w=word,
        W=word,
    )
    return Turn(
        question,
        tell(rng, "The {p} {k} of {w} is {f}.", "In {w} the {p} {k} is {f}.", p=which, k=kind, w=word, f=found),
    )


def count(rng: random.Random, bank: Bank) -> Turn:
    """How many words, letters, digits, or times a letter occurs."""
    kind = rng.choice(("words", "letters", "occurrences", "upto"))
    if kind == "upto":
        start = rng.randrange(200)
        length = rng.randint(3, 6)
        numbers = sentence_list([str(start + step) for step in range(length)])
        return Turn(
            ask(rng, "Count from {a} to {b}.", "Write the numbers from {a} to {b}.", a=start, b=start + length - 1),
            tell(
                rng, "The numbers from {a} to {b} are {n}.", "Here I go: {n}.", a=start, b=start + length - 1, n=numbers
            ),
        )
    if kind == "words":
        items = some_words(rng, bank, 2, 7)
        return Turn(
            ask(
                rng,
                "How many words are in: {g}",
                "Count the words: {g}",
                "How many words do you see here? {g}",
                g=" ".join(items),
            ),
            tell(
                rng,
                "There are {c} words in your text.",
                "I count {c} words: {g}.",
                c=words.NUMBER_WORDS[len(items)],
                g=sentence_list(items),
            ),
        )
    word = rng.choice(bank.words)
    if kind == "letters":
        return Turn(
            ask(
                rng, "How many letters does {w} have?", "How long is the word {w}?", "Count the letters of {w}.", w=word
            ),
            tell(
                rng,
                "The word {w} has {c} letters.",
                "{s}: that makes {c} letters.",
                w=word,
                c=len(word),
                s=" ".join(word),
            ),
        )
    letter = rng.choice(word)
    times = word.count(letter)
    plural = "once" if times == 1 else f"{words.NUMBER_WORDS[times]} times"
    return Turn(
        ask(rng, "How often does {x} occur in {w}?", "How many times is {x} in the word {w}?", x=letter, w=word),
        tell(rng, "The letter {x} occurs {p} in {w}.", "I find {x} {p} in the word {w}.", x=letter, w=word, p=plural),
    )
