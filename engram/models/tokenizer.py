"""A model's tokenizer and chat template: conversations become token ids, the same for every backend.

Chat templates are programs by a model's author. transformers renders them in Jinja's sandbox. Here every day is
DAY, so that the same data give the same prompts on any day, and the length of the text is limited.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.util
import itertools
import logging
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from engram.dataset.rows import Example
from engram.models.model import Model
from engram.support import console, strict_json
from engram.support.errors import EngramError
from engram.support.text import common, shorten, visible

IGNORED = -100  # the label of a token that is not learned, as in torch and transformers
TEXTS = 1024  # texts that the tokenizer is given at once
DAY = datetime.datetime(2024, 7, 26)  # the date that Llama 3's own templates use when they cannot ask for today's
SOURCE = 100_000  # characters of a template; those in use have 20,000 at most
RENDERED = 1_000_000  # characters of one rendered conversation
MARK = "\ue123"  # around the number of a text that is held back while a template is rendered; a private-use character
_TOLD: set[str] = set()  # models whose template was remarked on
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
        return self.chats([({"role": "user", "content": text},) for text in texts])

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids that ask for an answer to a conversation, whose last message is the user's."""
        return self.chats([messages])[0]

    def chats(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[list[int]]:
        """Many conversations, each as `chat` gives it."""
        held: list[str] = []
        marked = [[{**m, "content": self._marked(m["content"], held)} for m in messages] for messages in conversations]
        return self._ids(render_all(self.tokenizer, marked, True), held)

    def example(self, prompt: str, answer: str, name: str = "") -> Encoded:
        """Prompt, answer and end token as they are generated, so that training and use see the same ids."""
        return self.conversation(({"role": "user", "content": prompt}, {"content": answer}), name)

    def examples(self, rows: Sequence[Example]) -> list[Encoded]:
        """Many rows, each as `example` gives it, named by its id."""
        asked, answered = self.prompts([row.prompt for row in rows]), self._texts([row.answer for row in rows])
        return [self._joined(row.id, *ids) for row, *ids in zip(rows, asked, answered, strict=True)]

    def conversation(self, messages: Sequence[Mapping[str, str]], name: str = "") -> Encoded:
        """A conversation whose last message is the answer: what asks for it, the answer and its end token."""
        return self._joined(name, self.chat(messages[:-1]), self._texts([messages[-1]["content"]])[0])

    def plain(self, text: str) -> tuple[int, ...]:
        """The ids of plain text."""
        return tuple(self._texts([text])[0])

    def _texts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts, none of which is read as a control token."""
        held: list[str] = []
        return self._ids([self._marked(text, held) for text in texts], held)

    def _marked(self, text: str, held: list[str]) -> str:
        """The text in NFC; what the tokenizer would read as a control token goes into `held`, a mark in its place."""
        text = unicodedata.normalize("NFC", text)
        if not (control := self._control).search(text) and MARK not in text:
            return text

        def hold(found: re.Match[str]) -> str:
            held.append(found[0])
            return f"{MARK}{len(held) - 1}{MARK}"

        return re.sub(f"{control.pattern}|{MARK}", hold, text)

    @functools.cached_property
    def _control(self) -> re.Pattern[str]:
        """The texts of all added tokens, the longest first; one that matches nothing where there are none."""
        known = [str(one) for one in self.tokenizer.added_tokens_decoder.values() if str(one).strip()]
        if not known:
            return re.compile("(?!)")
        begun = "".join(map(re.escape, {one[0] for one in known}))  # looked for first: there may be thousands
        return re.compile(f"(?=[{begun}])(?:{'|'.join(map(re.escape, sorted(known, key=len, reverse=True)))})")

    def _ids(self, texts: Sequence[str], held: Sequence[str] = ()) -> list[list[int]]:
        """The ids of texts without added special tokens; the marks in them stand for what is `held`."""
        found: list[list[int]] = []
        for i in range(0, len(texts), TEXTS):
            portion = list(texts[i : i + TEXTS])
            found += self.tokenizer(portion, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        for i, text in enumerate(texts) if held else ():
            if MARK in text:
                parts = text.split(MARK)  # every other one is the number of a held text
                pieces = [self._spelt(held[int(part)]) if n % 2 else [part] for n, part in enumerate(parts)]
                found[i] = self._joined_ids(itertools.chain(*pieces))
        return found

    def _joined_ids(self, pieces: Iterable[str]) -> list[int]:
        return [*itertools.chain(*self._ids([piece for piece in pieces if piece]))]

    def _spelt(self, text: str) -> list[str]:
        """A control token's text in two pieces, which are plain text; raises EngramError if they aren't."""
        pieces = [text[:1], text[1:]]
        ids = self._joined_ids(pieces)
        if self.text(ids) != text or not self.tokenizer.added_tokens_decoder.keys().isdisjoint(ids):
            what = f"the text {visible(text)!r} is a control token of this model, and can't be written as plain text"
            raise EngramError(what, where="tokenizer", fix="take it out of the patterns or the question")
        return pieces

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
    with _usable(model, "used"):  # settings are loaded unchecked, and fail in many ways when they are used
        end_id = _end_token(tokenizer, model.name)
        settings = model.config
        rows = (settings.get("text_config") or settings).get("vocab_size")
        if isinstance(rows, int) and (highest := max(tokenizer.get_vocab().values())) >= rows:
            what = f"its tokenizer has ids up to {highest:,}, and its embedding {rows:,} rows"
            raise EngramError(what, where=model.name, fix="take another MODEL: these files don't belong together")
        generation = model.path / "generation_config.json"
        named = [settings, *([strict_json.read(generation, "take another MODEL")] if generation.is_file() else [])]
        ends = [tokenizer.eos_token_id, *(one.get("eos_token_id") for one in named)]
        listed = itertools.chain(*(one if isinstance(one, list) else [one] for one in ends))
        stops = {end_id, *(one for one in listed if isinstance(one, int))}
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_id
        encoder = Encoder(tokenizer, end_id, frozenset(stops), pad)
        encoder.prompt("Hello")
    return encoder


def load_tokenizer(model: Model) -> Any:
    """The model's own tokenizer (transformers); raises EngramError if it is unreadable or has no chat template."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found": it is not needed
    with _usable(model, "loaded"), without_torch():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(model.path), trust_remote_code=False, local_files_only=True)
    if model.chat_template:
        tokenizer.chat_template = model.chat_template
    if not tokenizer.chat_template:
        fix = "take an instruct model (MODEL=smollm-135m)"
        raise EngramError("this model has no chat template", where=model.name, fix=fix)
    return tokenizer


@contextlib.contextmanager
def _usable(model: Model, done: str) -> Iterator[None]:
    """Turn whatever a tokenizer's files make transformers raise into an EngramError."""
    try:
        yield
    except EngramError:
        raise
    except Exception as error:
        what = f"the tokenizer cannot be {done}: {visible(shorten(f'{type(error).__name__}: {error}', 200))}"
        raise EngramError(what, where=model.name, fix="take another MODEL") from error


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
    try:
        size = len(tokenizer.get_chat_template())
    except ValueError as error:  # there are several, and none of them is the default
        raise _refused(str(error).split(".")[0]) from error
    if size > SOURCE:
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


def _refused(reason: str) -> EngramError:
    what = f"the chat template does not work: {visible(reason)}"
    return EngramError(what, where="chat template", fix="take another MODEL")


def _end_token(tokenizer: Any, name: str) -> int:
    messages = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": "ANSWER"}]
    try:
        before, _, after = render(tokenizer, messages, False).rpartition("ANSWER")
    except EngramError as error:  # here the model's name is known
        raise EngramError(error.what, where=name, fix=error.fix) from error
    asked = render(tokenizer, messages[:1], True)
    if name not in _TOLD and before.startswith(asked) and (missing := before[len(asked) :]).strip():
        _TOLD.add(name)
        header = visible(shorten(missing.strip(), 60))
        what = f"its chat template leaves {header!r} to the model, whose untaught answers may begin with it"
        console.note(f"{name}: {what}")
    ids = tokenizer.encode(after, add_special_tokens=False) if after.strip() else []
    if ids and (ids[0] in tokenizer.all_special_ids or str(tokenizer.added_tokens_decoder.get(ids[0], "")).strip()):
        return int(ids[0])
    if tokenizer.eos_token_id is None:
        raise EngramError("no token ends an answer in this model's chat template", where=name, fix="take another MODEL")
    return int(tokenizer.eos_token_id)
