"""A model's tokenizer and chat template: conversations become token ids, the same for every backend.

Chat templates are programs by a model's author. transformers renders them in Jinja's sandbox. Here every day is
DAY, so that the same data give the same prompts on any day, and the length of the text is limited.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import itertools
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from engram.dataset.rows import Example
from engram.models.model import Model
from engram.support.errors import EngramError
from engram.support.text import common, shorten, visible

IGNORED = -100  # the label of a token that is not learned, as in torch and transformers
TEXTS = 1024  # texts that the tokenizer is given at once
DAY = datetime.datetime(2024, 7, 26)  # the date that Llama 3's own templates use when they cannot ask for today's
SOURCE = 100_000  # characters of a template; those in use have 20,000 at most
RENDERED = 1_000_000  # characters of one rendered conversation
_COPY: dict[str, ModuleType] = {}  # transformers' modules, imported where they find no torch


@dataclass(frozen=True)
class Encoded:
    """One example as token ids: prompt, answer and end token; the first `prompt_length` ids are not learned."""

    id: str
    tokens: tuple[int, ...]
    prompt_length: int

    @property
    def labels(self) -> tuple[int, ...]:
        """The tokens, with IGNORED where nothing is learned."""
        return (IGNORED,) * self.prompt_length + self.tokens[self.prompt_length :]

    @property
    def answer_length(self) -> int:
        """Learned tokens: the answer and its end token."""
        return len(self.tokens) - self.prompt_length


@dataclass(frozen=True)
class Encoder:
    """A model's tokenizer and chat template, and the token that ends an answer."""

    tokenizer: Any
    end_id: int
    stop_ids: frozenset[int]
    pad_id: int

    def prompt(self, text: str) -> list[int]:
        """The ids that ask for an answer to one user message."""
        return self.prompts([text])[0]

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids that ask for an answer to each of many user messages; quicker than one by one."""
        return self._chats([({"role": "user", "content": text},) for text in texts])

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids that ask for an answer to a conversation, whose last message is the user's."""
        return self._chats([messages])[0]

    def example(self, prompt: str, answer: str, name: str = "") -> Encoded:
        """Prompt, answer and end token as they are generated, so that training and use see the same ids."""
        messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
        return self.conversation(messages, name)

    def examples(self, rows: Sequence[Example]) -> list[Encoded]:
        """Many rows, each as `example` gives it, named by its id."""
        asked, answered = self.prompts([row.prompt for row in rows]), self._ids([row.answer for row in rows])
        return [self._joined(row.id, *ids) for row, *ids in zip(rows, asked, answered, strict=True)]

    def conversation(self, messages: Sequence[Mapping[str, str]], name: str = "") -> Encoded:
        """A conversation whose last message is the answer: what asks for it, the answer and its end token."""
        return self._joined(name, self.chat(messages[:-1]), self._ids([messages[-1]["content"]])[0])

    def plain(self, text: str) -> tuple[int, ...]:
        """The ids of plain text."""
        return tuple(self._ids([text])[0])

    def _chats(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[list[int]]:
        return self._ids(render_all(self.tokenizer, conversations, True))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts without added special tokens."""
        found: list[list[int]] = []
        for i in range(0, len(texts), TEXTS):
            portion = list(texts[i : i + TEXTS])
            found += self.tokenizer(portion, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return found

    def _joined(self, name: str, asked: Sequence[int], answered: Sequence[int]) -> Encoded:
        return Encoded(name, (*asked, *answered, self.end_id), len(asked))

    def ends(self, ids: Sequence[int]) -> list[int]:
        """The length of the text after each of the ids; half a character counts as none."""
        whole = self.text(ids)
        begun = (self.text(ids[:n]).rstrip("\ufffd") for n in range(1, len(ids)))
        risen = itertools.accumulate((common(part, whole) for part in begun), max)
        return [*risen, len(whole)] if ids else []

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def load_encoder(model: Model) -> Encoder:
    """The encoder of a model; raises EngramError if its tokenizer or chat template cannot be used."""
    tokenizer = load_tokenizer(model)
    try:
        encoder = _encoder(tokenizer, model.name)
        encoder.prompt("Hello")
    except EngramError:
        raise
    except Exception as error:  # settings are loaded unchecked, and fail in many ways when they are used
        reason = visible(shorten(f"{type(error).__name__}: {error}", 200))
        what = f"the tokenizer cannot be used ({reason})"
        raise EngramError(what, where=model.name, fix="take another MODEL") from error
    return encoder


def load_tokenizer(model: Model) -> Any:
    """The model's own tokenizer (transformers), with a chat template.

    Raises EngramError if the files cannot be read or no chat template is there.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found": it is not needed
    try:
        with without_torch():
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(str(model.path), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises many kinds; all mean that these files are not usable
        reason = visible(str(error).split("\n")[0][:200])
        raise EngramError(
            f"the tokenizer cannot be loaded: {reason}", where=model.name, fix="take another MODEL"
        ) from error
    if model.chat_template:
        tokenizer.chat_template = model.chat_template
    if not tokenizer.chat_template:
        raise EngramError(
            "this model has no chat template", where=model.name, fix="take an instruct model (MODEL=smollm-135m)"
        )
    return tokenizer


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """In the block, transformers finds no torch, whose import takes seconds and which tokenizers don't need.

    That copy of transformers is hidden outside the block and used again in the next one. An import elsewhere gets
    another copy, which finds torch, so Unsloth can still be the first to import it. Where torch or transformers is
    imported already, nothing changes.
    """
    if {"torch", "transformers"} & sys.modules.keys() or not importlib.util.find_spec("torch"):
        yield
        return
    sys.modules.update(_COPY)
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
        _COPY.update({name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] == "transformers"})
        logging.getLogger("transformers").handlers.clear()  # the next copy adds its own


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]], generation: bool) -> str:
    """The conversation as the chat template writes it, with or without the part that asks for an answer.

    Raises EngramError if the template fails or exceeds a limit.
    """
    return render_all(tokenizer, [messages], generation)[0]


def render_all(tokenizer: Any, conversations: Sequence[Sequence[Mapping[str, str]]], generation: bool) -> list[str]:
    """Many conversations, each as `render` writes it."""
    if not conversations:
        return []
    if (size := len(_template(tokenizer))) > SOURCE:
        raise _refused(f"it has {size} characters, more than {SOURCE}")
    try:
        texts: list[str] = tokenizer.apply_chat_template(
            [[dict(message) for message in messages] for messages in conversations],
            tokenize=False,
            add_generation_prompt=generation,
            enable_thinking=False,
            strftime_now=DAY.strftime,
        )
    except Exception as error:  # a template may raise anything
        raise _refused(shorten(f"{type(error).__name__}: {error}", 500)) from error
    if any(len(text) > RENDERED for text in texts):
        raise _refused(f"its text is longer than {RENDERED} characters")
    return texts


def asks_for_the_day(tokenizer: Any) -> bool:
    """Whether the chat template writes today's date in other programs; here every day is DAY."""
    return "strftime_now" in _template(tokenizer)


def _template(tokenizer: Any) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:  # there are several, and none of them is the default
        raise _refused(str(error).split(".")[0]) from error


def _refused(reason: str) -> EngramError:
    return EngramError(
        f"the chat template does not work: {visible(reason)}", where="chat template", fix="take another MODEL"
    )


def _encoder(tokenizer: Any, name: str) -> Encoder:
    end_id = _end_token(tokenizer, name)
    stops = {end_id} | ({tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set())
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_id
    return Encoder(tokenizer, end_id, frozenset(stops), pad)


def _end_token(tokenizer: Any, name: str) -> int:
    mark = "ANSWER"
    messages = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": mark}]
    try:
        rendered = render(tokenizer, messages, False)
    except EngramError as error:  # here the model's name is known
        raise EngramError(error.what, where=name, fix=error.fix) from error
    after = rendered.rpartition(mark)[2]
    ids = tokenizer.encode(after, add_special_tokens=False) if after.strip() else []
    special = set(tokenizer.all_special_ids)
    if ids and ids[0] in special:
        return int(ids[0])
    if tokenizer.eos_token_id is None:
        raise EngramError("no token ends an answer in this model's chat template", where=name, fix="take another MODEL")
    return int(tokenizer.eos_token_id)
