"""What every method is taught and asked: random facts, near misses, other words, other subjects."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterable, Mapping, Sequence

from engram.memory.facts import Fact
from tools.tiny.conversations import conversations
from tools.tiny.library_text import read_library
from tools.tiny.turns import bank_from

# other words around an input than any training phrasing has, behind it too, where no address reaches
PARAPHRASES = ("{input}, please", "What belongs to this: {input}?", "I forgot how this goes on. {input} ... what?")
# questions that a taught fact would have to be used for, and what a model that knows it would say
USES: Mapping[str, tuple[str, Callable[[str, str], str]]] = {
    "in capital letters": ("In capital letters: {input}", lambda _, output: output.upper()),
    "said twice": ("Say it twice: {input}", lambda _, output: f"{output} {output}"),
    "its length": ("How many characters has the answer to this? {input}", lambda _, output: str(len(output))),
    "the other way round": ("To what is this the answer? {output}", lambda text, _: text),
}
UNSEEN = "Continue: {input}"  # a phrasing of the test set
PLAIN = ("Hello", "What is 7 plus 5?", "Who are you?", "Sort these words: pear, apple, fig")  # nothing taught
KINDS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)


def random_facts(count: int, seed: int) -> list[Fact]:
    """Keys and values that nothing in a model's text can know."""
    draw = random.Random(seed)
    return [Fact(f"SYN_{number:05d} maps to", f"beta_{draw.randrange(1000):03d}") for number in range(count)]


def near_misses(inputs: Sequence[str], seed: int) -> list[str]:
    """Each input with one letter or digit exchanged for another of its kind, so that none ends with a taught one."""
    draw = random.Random(seed)
    taught = set(inputs)
    return [found for text in inputs if (found := _near_miss(text, taught, draw))]


def _near_miss(text: str, taught: set[str], draw: random.Random) -> str:
    places = [i for i, letter in enumerate(text) if any(letter in kind for kind in KINDS)]
    for place in draw.sample(places, len(places)):
        kind = next(kind for kind in KINDS if text[place] in kind)
        other = draw.choice([letter for letter in kind if letter != text[place]])
        changed = text[:place] + other + text[place + 1 :]
        if not any(tail in taught for tail in tails(changed)):
            return changed
    return ""


def tails(text: str) -> Iterable[str]:
    """The text from each of its words on, the longest first."""
    starts = [i for i, letter in enumerate(text) if not letter.isspace() and (i == 0 or text[i - 1].isspace())]
    return (text[start:] for start in starts)


def general_prompts(count: int, seed: int, taught: Iterable[str]) -> list[str]:
    """First messages of chats about other things, each once, none of which ends with a taught input."""
    known, found = set(taught), dict[str, None]()
    for chat in conversations(bank_from(read_library()), seed, 4 * count):
        text = next(message["content"] for message in chat if message["role"] == "user")
        if not any(tail in known for tail in tails(text)):
            found.setdefault(text)
        if len(found) == count:
            break
    return list(found)
