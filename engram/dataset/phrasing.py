"""The words around a pattern's input, and which of them training never sees."""

from __future__ import annotations

from collections.abc import Mapping

BARE = "bare"
TRAIN: Mapping[str, str] = {
    BARE: "{input}",
    "complete": "Complete: {input}",
    "answer": "Answer: {input}",
    "briefly": "Please answer briefly: {input}",
    "question": "Question: {input}",
    "answer_after": "{input}\nAnswer:",
    "only": "Give only the answer.\n{input}",
    "recall": "Do you remember this? {input}",
}
VALID: Mapping[str, str] = {"reply": "Reply with the answer alone: {input}", "next": "What comes next? {input}"}
TEST: Mapping[str, str] = {"continue": "Continue: {input}", "tell": "Tell me, in short: {input}"}
REWORDED = "reworded"  # the phrasing of a pattern's own rewordings, trained on and kept for the test alike
ALL: Mapping[str, str] = {**TRAIN, **VALID, **TEST, REWORDED: "{input}"}


def phrase(name: str, text: str) -> str:
    """The prompt that asks for `text` in the phrasing `name`."""
    return ALL[name].replace("{input}", text)


def unphrase(name: str, prompt: str) -> str | None:
    """The input inside a prompt of the phrasing `name`, or None if the prompt is not of that phrasing."""
    before, after = ALL[name].split("{input}")
    if not (prompt.startswith(before) and prompt.endswith(after) and len(prompt) >= len(before) + len(after)):
        return None
    return prompt[len(before) : len(prompt) - len(after)]
