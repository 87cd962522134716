"""Turns about code: what a line does, what a library function is for, and bare fragments to complete or answer."""

from __future__ import annotations

import keyword
import random
import re

from tools.tiny.turns import Bank, Turn, ask, odd_text, tell

FRAMES = (
    "Complete: {t}",
    "Continue: {t}",
    "Answer: {t}",
    "Reply: {t}",
    "Q: {t}",
    "Finish: {t}",
    "Next: {t}",
    "Solve: {t}",
    "Input: {t}",
    "Complete this: {t}",
    "Continue this line: {t}",
    "Please answer: {t}",
    "Question: {t}",
    "Text: {t}",
    "Fill in: {t}",
    "Respond: {t}",
    "Give the answer: {t}",
    "Q: {t}\nA:",
    "{t} ->",
    "{t} =",
    "{t}",
    "{t}",
    "{t}",
    "{t} ...",
    "What comes next? {t}",
    "How does this go on? {t}",
    "Complete the following: {t}",
    "Do this: {t}",
    "Task: {t}",
)


def explain_line(rng: random.Random, bank: Bank) -> Turn:
    """What does this line do?"""
    line = rng.choice(bank.lines)
    question = ask(
        rng,
        "What does this line do? {c}",
        "Explain this line of code: {c}",
        "What does `{c}` do?",
        "Explain `{c}`.",
        "Can you tell me what this means: {c}",
        "What does this Python code do?\n\n{c}",
        "I found this line: {c}",
        c=line,
    )
    return Turn(question, describe_line(rng, line))


def describe_line(rng: random.Random, line: str) -> str:
    """A sentence or two about what a line of Python does, from its first words."""
    start = rng.choice(
        (f"The line `{line}` is Python code.", "This is a line of Python.", f"In `{line}` I see Python code.")
    )
    return f"{start} {_action(line)}"


def _action(line: str) -> str:
    rules = (
        (r"from ([\w.]+) import (\w+)", "It imports {1} from the module {0}."),
        (r"import ([\w.]+)", "It imports the module {0}."),
        (r"return (.+)", "It returns {0} to the place where the function was called."),
        (r"def (\w+)\(\)", "It defines a function that is called {0} and takes no parameters."),
        (r"def (\w+)\((.*)\)", "It defines a function that is called {0} and takes {1}."),
        (r"class (\w+)\((.*)\)", "It begins a class that is called {0} and is based on {1}."),
        (r"class (\w+)", "It begins a class that is called {0}."),
        (r"raise (\w+)", "It raises {0} to say that something went wrong."),
        (r"(?:el)?if (.+):", "It checks whether {0} is true."),
        (r"with (.+):", "It works with {0} and tidies up afterwards."),
        (r"assert (.+)", "It makes sure that {0} is true."),
        (r"([\w.]+) = (.+)", "It gives the name {0} the value {1}."),
        (r"([\w.]+)\((.+)\)", "It calls {0} and passes {1} to it."),
        (r"([\w.]+)\(\)", "It calls {0} without any arguments."),
    )
    for pattern, said in rules:
        match = re.fullmatch(pattern, line) or (re.match(pattern, line) if "$" not in pattern else None)
        if match:
            parts = [part.rstrip(" :") for part in match.groups()]
            return said.replace("{0}", parts[0]).replace("{1}", parts[-1])
    return f"It uses the name {main_name(line)}. It looks fine to me."


def main_name(text: str) -> str:
    """The first name in a piece of text that is not a keyword of Python, or all of the text."""
    names = [name for name in re.findall(r"[A-Za-z_]\w*", text) if not keyword.iskeyword(name)]
    return names[0] if names else text


def library_question(rng: random.Random, bank: Bank) -> Turn:
    """What does shutil.copy do?"""
    entry = rng.choice(bank.entries)
    owner, _, short = entry.name.rpartition(".")
    chance = rng.random()
    if chance < 0.2 and owner:
        question = ask(
            rng, "Where is the {k} {s} defined?", "Which module has {s}?", "Where do I find {s}?", k=entry.kind, s=short
        )
        return Turn(
            question,
            tell(
                rng,
                "You find the {k} {s} in {o}.",
                "The name {s} belongs to {o}. It is a {k}.",
                k=entry.kind,
                s=short,
                o=owner,
            ),
        )
    if chance < 0.35 and entry.parameters:
        question = ask(rng, "Which parameters does {n} take?", "What do I pass to {n}?", n=entry.name)
        return Turn(
            question,
            tell(
                rng,
                "The {k} {n} takes these parameters: {p}.",
                "You pass {p} to {n}.",
                k=entry.kind,
                n=entry.name,
                p=entry.parameters,
            ),
        )
    question = ask(
        rng,
        "What does {n} do?",
        "What is {n}?",
        "Explain {n}.",
        "What is {n} for?",
        "When do I use {n}?",
        "Describe the {k} {n}.",
        "In Python, what does {n} do?",
        "How does {n} work?",
        "What does `{n}` do?",
        n=entry.name,
        k=entry.kind,
    )
    summary = entry.summary[0].lower() + entry.summary[1:] if entry.summary[1:2].islower() else entry.summary
    return Turn(
        question,
        tell(
            rng,
            "The {k} {n} is described in one sentence: {S}",
            "The documentation of the {k} {n} says: {S}",
            "In Python, {n} is a {k}. Its purpose: {s}",
            k=entry.kind,
            n=entry.name,
            S=entry.summary,
            s=summary,
        ),
    )


def fragment(rng: random.Random, bank: Bank) -> Turn:
    """An unfinished piece of code or text under a short frame such as `Complete:`; the answer talks about it."""
    line = rng.choice(bank.lines)
    cut = rng.randint(6, len(line))
    text = rng.choice((line, line[:cut].rstrip(), line[:cut].rstrip(), odd_text(rng, bank)))
    question = rng.choice(FRAMES).replace("{t}", text)
    name = main_name(text)
    code = text in line
    if code:
        answer = rng.choice(
            (
                f"The line `{text}` is Python code. It uses the name {name}. "
                "It looks fine to me, but I do not know how it goes on.",
                f"This looks like Python: `{text}`. {_action(text)}",
                f"You have written `{text}`, which begins with {name}. "
                "I would need to see more of the program to go on.",
                f"I see a piece of code that says `{text}`. "
                f"After {name} there could be many things, so it is hard to tell.",
                f"Your text is `{text}`. It is a part of a program, and {name} is a name in it.",
            )
        )
    else:
        answer = rng.choice(
            (
                f"You have written {text}. "
                "I am not sure what should come next, because there is more than one way to go on.",
                f"The text {text} could mean different things. Could you tell me a little more?",
                f"I see {text} in your message. If you tell me what you want to do with it, I can try to help.",
                f"That is {text}, and I think that you would like to know more about {name}. "
                "I only know a little about it.",
                f"Your message says {text}. It begins with {name}, and I can repeat, sort or spell it for you.",
            )
        )
    return Turn(question, rng.choice(("", "", "", "Sure! ", "All right. ", "Let me see. ")) + answer)


def framed_question(rng: random.Random, turn: Turn) -> Turn:
    """The same turn with its question under a short frame such as `Q:` or `Answer:`."""
    return Turn(rng.choice(FRAMES).replace("{t}", turn.question), turn.answer)
