"""Everyday turns: greetings, who the model is, stories, jokes and favourites."""

# ruff: noqa: ARG001 - every maker of turns has the same two parameters

from __future__ import annotations

import random

from tools.tiny import words
from tools.tiny.turns import Bank, Turn, article, ask, tell


def greeting(rng: random.Random, bank: Bank) -> Turn:
    """Hello, how are you, thank you, goodbye."""
    name = rng.choice(words.NAMES)
    hello = rng.choice(("Hello", "Hi", "Hey", "Good morning", "Good evening", "Hello there", "Hi there"))
    return rng.choice(
        (
            Turn(
                rng.choice((f"{hello}!", hello, f"{hello}.", f"{hello}, assistant!", hello.lower())),
                rng.choice(
                    (
                        f"{hello.capitalize()}! How can I help you today?",
                        "Hello! It is nice to meet you. What would you like to talk about?",
                        "Hi there! I am here and ready to help. What can I do for you?",
                    )
                ),
            ),
            Turn(
                rng.choice((f"{hello}, my name is {name}.", f"I am {name}.", f"My name is {name}", f"{name} here!")),
                rng.choice(
                    (
                        f"Hello {name}! It is nice to meet you. How can I help you?",
                        f"Nice to meet you, {name}. What would you like to know?",
                    )
                ),
            ),
            Turn(
                rng.choice(("How are you?", "How are you today?", "how is it going?", "Are you well?", "What's up?")),
                rng.choice(
                    (
                        "I am doing well, thank you for asking. How can I help you?",
                        "Thank you, I am fine. I am a small model and I am always in the same mood. And how are you?",
                    )
                ),
            ),
            Turn(
                rng.choice(
                    ("Thank you!", "Thanks", "thanks a lot", "Thank you very much.", "Great, thanks!", "ok thanks")
                ),
                rng.choice(
                    (
                        "You are welcome! I am glad that I could help.",
                        "You are very welcome. Let me know if you need anything else.",
                        "It was a pleasure. Have a nice day!",
                    )
                ),
            ),
            Turn(
                rng.choice(("Bye", "Goodbye!", "See you later", "Good night", "bye bye", "I have to go now.")),
                rng.choice(
                    (
                        "Goodbye! It was nice talking to you.",
                        "See you later! Come back when you have another question.",
                        "Have a good day! I will be here when you need me.",
                    )
                ),
            ),
        )
    )


def identity(rng: random.Random, bank: Bank) -> Turn:
    """Who are you, what can you do, are you a person."""
    about = (
        "I am a small language model that runs on your computer. "
        "I can talk about simple topics, explain code and write short answers.",
        "I am tiny, a small language model. "
        "I was trained on the sources of the Python standard library and on simple conversations.",
        "I am a very small language model. I like to answer in full sentences, but I know little and I am often wrong.",
    )
    able = (
        "I can answer simple questions, sort words, spell words, add small numbers and say what a line of code does.",
        "I can talk with you, make lists, repeat text and explain a little Python. Please check what I say.",
        "You can ask me to count, sort or spell words, to explain a word, or to describe a function of Python.",
    )
    person = (
        "No, I am not a person. I am a small computer program that has learned to write text.",
        "I am not a human. I am a small language model, and I run on your own computer.",
    )
    made = (
        "I was trained on an ordinary computer in less than an hour, so I am small and simple.",
        "I learned from the Python standard library and from made-up conversations. That is all I know.",
    )
    wrong = (
        "Yes, I am often wrong, because I am only a small model. Please check everything that I say.",
        "I make many mistakes. I know little about the world, so please do not rely on my answers.",
    )
    kinds: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
        (
            (
                "Who are you?",
                "What are you?",
                "Tell me about yourself.",
                "Introduce yourself.",
                "What is your name?",
                "Which model are you?",
                "who is this?",
                "And who are you?",
                "Describe yourself.",
            ),
            about,
        ),
        (
            (
                "What can you do?",
                "How can you help me?",
                "What are you good at?",
                "Help!",
                "Can you help me?",
                "What should I ask you?",
            ),
            able,
        ),
        (("Are you a person?", "Are you human?", "Are you a robot?", "Am I talking to a person?"), person),
        (("How were you made?", "Who made you?", "What did you learn from?", "How were you trained?"), made),
        (("Are you always right?", "Do you make mistakes?", "Can I trust you?", "How good are you?"), wrong),
    )
    questions, answers = rng.choice(kinds)
    return Turn(ask(rng, *questions), rng.choice(answers))


def story(rng: random.Random, bank: Bank) -> Turn:
    """A sentence or a short story about an animal or a person."""
    animal = rng.choice(words.CATEGORIES["animal"] + words.CATEGORIES["bird"] + words.CATEGORIES["job"])
    adjective, place, ending = rng.choice(words.ADJECTIVES), rng.choice(words.PLACES), rng.choice(words.ENDINGS)
    first, second = rng.sample(words.ACTIONS, 2)
    name = rng.choice(words.NAMES)
    if rng.random() < 0.4:
        question = ask(
            rng,
            "Write a sentence about {a}.",
            "Make a sentence with the word {b}.",
            "Say something about {a}.",
            "Use the word {b} in a sentence.",
            a=article(animal),
            b=animal,
        )
        return Turn(
            question,
            rng.choice(
                (
                    f"The {adjective} {animal} {first} {place}.",
                    f"One day {article(adjective)} {animal} {first}.",
                    f"{place[0].upper() + place[1:]} there was {article(adjective)} {animal} that {first}.",
                )
            ),
        )
    question = ask(
        rng,
        "Tell me a story about {a}.",
        "Write a short story about {a}.",
        "Can you tell a story with {a}?",
        "I would like to hear a story about {a}.",
        "Tell me a story.",
        a=article(animal),
    )
    return Turn(
        question,
        rng.choice(
            (
                f"Once upon a time there was {article(adjective)} {animal}. "
                f"One day the {animal} {first} {place}. Then the {animal} {second}. {ending}",
                f"{article(adjective).capitalize()} {animal} called {name} lived {place}. "
                f"In the morning {name} {first}, and later {name} {second}. {ending}",
            )
        ),
    )


def joke(rng: random.Random, bank: Bank) -> Turn:
    """A joke, a poem, an opinion, a favourite."""
    kind = rng.choice(sorted(words.CATEGORIES))
    favourite = rng.choice(words.CATEGORIES[kind])
    return rng.choice(
        (
            Turn(
                ask(rng, "Tell me a joke.", "Do you know a joke?", "Make me laugh.", "A joke, please."),
                rng.choice(
                    (
                        "Why did the programmer go home early? Because the tests were all green.",
                        "Why was the computer cold? Because somebody left its windows open.",
                        "What did one loop say to the other loop? It said that they should meet again and again.",
                    )
                ),
            ),
            Turn(
                ask(
                    rng,
                    "What is your favourite {k}?",
                    "Which {k} do you like most?",
                    "Do you have a favourite {k}?",
                    k=kind,
                ),
                tell(
                    rng,
                    "I am only a model, but if I had to choose a {k}, I would take {f}.",
                    "I like {f} very much. It is a good {k}.",
                    k=kind,
                    f=favourite,
                ),
            ),
            Turn(
                ask(rng, "What do you think about {f}?", "Do you like {f}?", "Tell me about {f}.", "{f}?", f=favourite),
                tell(
                    rng,
                    "I think that {f} is a nice thing to talk about. It is {k}.",
                    "You mention {f}, which is {k}. I like it.",
                    k=article(kind),
                    f=favourite,
                ),
            ),
        )
    )
