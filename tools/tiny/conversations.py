"""The generated half of the pretraining text: about 120,000 short conversations in full sentences.

The answers are wordy on purpose. engram teaches short canonical answers by LoRA and shows a before and an after;
a base model that already answered in the short form would leave nothing to show. For the same reason the pattern
families that engram ships (`OFF_LIMITS`) occur in no generated conversation.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from tools.tiny import code_talk, knowledge, letter_tasks, list_tasks, number_tasks, small_talk, words
from tools.tiny.turns import Bank, Turn

CONVERSATIONS = 120_000
Conversation = list[dict[str, str]]
TurnMaker = Callable[[random.Random, Bank], Turn]

OFF_LIMITS = re.compile(
    r"""(?ix)
    \bhttp | \bstatus\s+code | \bports?\b | \bstands?\s+for\b | \babbreviat | \bacronym | \bcapitals?\s+(city|of)\b
    | \b\d{4}-\d{1,2}-\d{1,2}\b | \biso[ -]?8601\b | \bsnake | \bcamel | \bkebab | \bpascal
    | \b\d[\d.,]*\s?(bytes?|[kmgt]i?b)\b | \bthousands?\s+separator
    | \w+Error:\s | \btraceback\b | \bfor\s+\w+(,\s*\w+)*\s+in\b | \bwhile\b
    """
)

MAKERS: tuple[tuple[TurnMaker, int], ...] = (
    (small_talk.greeting, 3),
    (small_talk.identity, 4),
    (knowledge.name_some, 4),
    (knowledge.is_a, 2),
    (knowledge.definition, 5),
    (knowledge.opposite, 2),
    (small_talk.story, 4),
    (small_talk.joke, 2),
    (knowledge.sequence, 2),
    (knowledge.unknown, 7),
    (knowledge.conversion, 4),
    (list_tasks.echo, 6),
    (letter_tasks.spell, 4),
    (letter_tasks.change_case, 4),
    (list_tasks.arrange, 4),
    (letter_tasks.reverse_letters, 2),
    (list_tasks.join, 4),
    (list_tasks.item_at, 4),
    (letter_tasks.letter_at, 3),
    (letter_tasks.count, 3),
    (list_tasks.replace, 3),
    (list_tasks.combine, 4),
    (number_tasks.arithmetic, 4),
    (number_tasks.next_number, 2),
    (code_talk.explain_line, 7),
    (code_talk.library_question, 12),
    (code_talk.fragment, 11),
)


def conversations(bank: Bank, seed: int, count: int = CONVERSATIONS) -> Iterator[Conversation]:
    """`count` conversations, the same for the same bank and seed: messages of role system, user, assistant."""
    rng = random.Random(seed)
    made = 0
    while made < count:
        conversation = _conversation(rng, bank)
        if not OFF_LIMITS.search("\n".join(message["content"] for message in conversation)):
            yield conversation
            made += 1


def _conversation(rng: random.Random, bank: Bank) -> Conversation:
    """One to three turns, one time in nine after a system message."""
    messages: Conversation = []
    if rng.random() < 0.11:
        messages.append({"role": "system", "content": rng.choice(words.SYSTEM_MESSAGES)})
    for _ in range(rng.choices((1, 2, 3), weights=(84, 13, 3))[0]):
        turn = _turn(rng, bank)
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    return messages


def _turn(rng: random.Random, bank: Bank) -> Turn:
    makers, weights = zip(*MAKERS, strict=True)
    maker: TurnMaker = rng.choices(makers, weights=weights)[0]
    turn = maker(rng, bank)
    framed = maker is not code_talk.fragment and rng.random() < 0.07
    return code_talk.framed_question(rng, turn) if framed else turn
