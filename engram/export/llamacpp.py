"""Run a GGUF file in llama.cpp's own server: its tokenizer, its chat templates, its arithmetic."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from engram.support.errors import EngramError

BINDING = "xllamacpp"
SPARE = 64  # tokens of context beyond the longest prompt and answer
SECONDS = 600.0  # for one request
# the cache is off so that an answer does not depend on the one before
_GREEDY: Mapping[str, Any] = {"temperature": 0.0, "cache_prompt": False, "repeat_penalty": 1.0}


class Server(NamedTuple):
    """A model in llama.cpp's server, which listens on this machine alone and for this process alone."""

    address: str
    key: str

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """One request; raises EngramError with the server's own words where it refuses."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        request = urllib.request.Request(self.address + path, json.dumps(body).encode("utf-8"), headers)
        local = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with local.open(request, timeout=SECONDS) as reply:
                return dict(json.load(reply))
        except urllib.error.HTTPError as error:
            reason = error.read().decode("utf-8", "replace")[:300]
            raise EngramError(f"llama.cpp refuses {path}: {reason}", where="--format gguf") from error

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text, special tokens in it understood, none added."""
        return list(self.post("/tokenize", content=text, parse_special=True, add_special=False)["tokens"])

    def render(self, prompt: str) -> str:
        """One user message in the chat template that the file holds, as llama.cpp renders it."""
        return str(self.post("/apply-template", messages=[{"role": "user", "content": prompt}])["prompt"])

    def answer_ids(self, ids: Sequence[int], limit: int) -> list[int]:
        """The greedy answer to these token ids, its end token included where it ended."""
        found = self.post("/completion", prompt=list(ids), n_predict=limit, return_tokens=True, **_GREEDY)
        return list(found["tokens"])

    def answer_chat(self, prompt: str, limit: int) -> str:
        """The greedy answer to one user message."""
        asked = [{"role": "user", "content": prompt}]
        found = self.post("/v1/chat/completions", messages=asked, max_tokens=limit, **_GREEDY)
        return str(found["choices"][0]["message"]["content"] or "")


def require(purpose: str, where: str, otherwise: str = "") -> None:
    """Raise an EngramError if llama.cpp's binding is not installed."""
    if not importlib.util.find_spec(BINDING):
        fix = f"make setup-gguf (or pip install '.[gguf]'){otherwise}"
        raise EngramError(f"llama.cpp is not here to {purpose} ({BINDING})", where=where, fix=fix)


def name() -> str:
    """The program that answers, with its version."""
    return f"llama.cpp ({BINDING} {version(BINDING)})"


@contextlib.contextmanager
def serving(file: Path, context: int, small: bool, port: int = 0) -> Iterator[Server]:
    """llama.cpp's server with this model on the CPU, for the block; `context` is in tokens.

    Without a `port` it takes a free one, and this process's requests alone. Raises EngramError if it can't load it.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = context + SPARE, 1, 0
    # two threads of a small model wait for each other, on a busy machine very long
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1 if small else os.cpu_count() or 1
    settings.hostnames, settings.port, settings.cors_origins = ["127.0.0.1"], port, ""
    key = "" if port else secrets.token_hex(16)
    settings.api_keys = [key] if key else []
    settings.use_jinja, settings.warmup, settings.offline, settings.verbosity = True, False, True, -1
    try:
        server = xllamacpp.Server(settings)
    except Exception as error:  # the binding raises its own class
        fix = "export another format: --format fused, peft or mlx"
        raise EngramError(f"llama.cpp does not load the file: {error}", where=file.name, fix=fix) from error
    try:
        yield Server(server.listening_address, key)
    finally:
        del server
