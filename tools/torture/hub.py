"""A model hub on this machine that fails in each way: a download is refused within a bound, or the model is whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from engram.models import hub
from engram.support.errors import EngramError
from engram.support.files import BUNDLED, sha256
from tools.torture import Note, Tally

PATIENCE = hub.Patience(2.0, 100_000)
BOUND = 30.0  # seconds of one attempt, on a machine that does other work too
ONCE = "file is cut once"
HUB_ID = "someone/some-model"
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors")
REVISIONS = ("a" * 40, "b" * 40)
STATUS = {f"status {code}": code for code in (401, 403, 404, 429, 500, 503)}
# in what the hub says of the model, or in its large file
FAULTS = (
    *STATUS, "hangs", "trickles", "cuts the answer", "html for the answer", "redirects in circles", "waits an hour",
    "file hangs", "file trickles", "file is cut", "file is html", "file is other bytes", "file is too long",
    "file waits an hour",
)  # fmt: skip


class Hub(ThreadingHTTPServer):
    """Serves the bundled model as HUB_ID; `fault` names what goes wrong, `asked` is every path that was asked for."""

    daemon_threads = True
    fault = ""
    revision = REVISIONS[0]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: list[str] = []
        self.content = {name: (BUNDLED / "tiny" / name).read_bytes() for name in FILES}
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """A client that went away is what is tested."""


class Answers(BaseHTTPRequestHandler):
    """What the hub's library asks for: the model, its tree, and its files with their hashes."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, body: bool) -> None:
        hub, path = self.server, self.path.split("?")[0]
        asked = [f"{self.command} {path}", self.headers.get("Range", "")]
        hub.asked.append(" ".join(word for word in asked if word))
        fault = hub.fault
        if path.startswith("/api/"):
            if not self.failed(fault):
                self.tell(path)
            return
        name = path.rsplit("/", 1)[1]
        if name in hub.content:
            self.file(name, hub.content[name], fault if name == "model.safetensors" else "", body)
        else:
            self.send(404, b"Entry not found", {"X-Error-Code": "EntryNotFound"})

    def failed(self, fault: str) -> bool:
        """Do what the fault says; whether that was an answer."""
        if fault in STATUS:
            self.send(STATUS[fault], b"no")
        elif fault == "waits an hour":
            self.send(429, b"no", {"Retry-After": "3600"})
        elif fault == "hangs":
            self.server.over.wait(60)
        elif fault == "trickles":
            self.trickle(b'{"id": "' + b"x" * 4096)
        elif fault == "cuts the answer":
            self.head(200, 4096, {})
            self.wfile.write(b'{"id": "')
            self.close_connection = True
        elif fault == "html for the answer":
            self.send(200, b"<!doctype html><title>Log in</title>", {"Content-Type": "text/html"})
        elif fault == "redirects in circles":
            self.send(302, b"", {"Location": self.server.address + self.path})
        else:
            return False
        return True

    def tell(self, path: str) -> None:
        hub = self.server
        if "/tree/" in path:
            told: Any = [self.entry(name) for name in FILES]
        else:
            files = [{"rfilename": name} for name in FILES]
            told = {"id": HUB_ID, "modelId": HUB_ID, "sha": hub.revision, "siblings": files}
        self.send(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

    def entry(self, name: str) -> dict[str, Any]:
        content = self.server.content[name]
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
        if name.endswith(".safetensors"):
            large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            entry["lfs"] = large
        return entry

    def file(self, name: str, content: bytes, fault: str, body: bool) -> None:
        large = name.endswith(".safetensors")
        etag = hashlib.sha256(content).hexdigest() if large else git_hash(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.server.revision, "Accept-Ranges": "bytes"}
        headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))} if large else {}
        if not body:
            self.head(200, len(content), headers)
            return
        start = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
        piece = content[start:]
        headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        code = 206 if start else 200
        if fault == "file waits an hour":
            self.send(429, b"no", {"Retry-After": "3600"})
        elif fault == "file is html":
            self.send(200, b"<!doctype html><title>Log in</title>", {"Content-Type": "text/html"})
        elif fault == "file is other bytes":
            self.send(code, bytes(len(piece)), headers)
        elif fault == "file is too long":
            self.send(code, piece + b"more", headers)
        elif fault == "file hangs":
            self.head(code, len(piece), headers)
            self.wfile.write(piece[: len(piece) // 2])
            self.wfile.flush()
            self.server.over.wait(60)
        elif fault == "file trickles":
            self.head(code, len(piece), headers)
            self.drip(piece)
        elif fault == "file is cut" or (fault == "file is cut once" and not start):
            self.head(code, len(piece), headers)
            self.wfile.write(piece[: min(len(piece) // 2, 1 << 20)] if fault == "file is cut once" else b"")
            self.close_connection = True
        else:
            self.send(code, piece, headers)

    def trickle(self, content: bytes) -> None:
        self.head(200, len(content), {"Content-Type": "application/json"})
        self.drip(content)

    def drip(self, content: bytes) -> None:
        for place in range(len(content)):
            if self.server.over.wait(0.2):
                return
            self.wfile.write(content[place : place + 1])
            self.wfile.flush()

    def send(self, code: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.head(code, len(content), headers or {})
        if self.command != "HEAD":
            self.wfile.write(content)

    def head(self, code: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def served(fault: str = "") -> Iterator[Hub]:
    """A hub with this fault, while the block runs."""
    with Hub() as hub:
        hub.fault = fault
        thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.over.set()
            hub.shutdown()
            thread.join()


OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # Unsloth sets the second where it finds the first


@contextlib.contextmanager
def asked_at(address: str, cache: Path) -> Iterator[None]:
    """engram asks this hub, and keeps its files in this cache, while the block runs."""
    from huggingface_hub import constants

    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    names = {"ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": template}
    names |= {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": False}
    before = {name: getattr(constants, name) for name in names}
    offline = {name: os.environ.pop(name) for name in OFFLINE if name in os.environ}
    try:
        for name, value in names.items():
            setattr(constants, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(constants, name, value)
        os.environ.update(offline)


def campaign(seed: int, scale: float, note: Note) -> list[Tally]:
    """Each fault several times, then the same cache with the hub as it should be."""
    rounds = max(1, round(10 * scale))
    draw = random.Random(seed)
    faults = [fault for _ in range(rounds) for fault in (*FAULTS, ONCE)]
    if scale < 0.2:
        faults = draw.sample(faults, 3)
    started, losses, kinds, longest = time.monotonic(), [], Counter[str](), 0.0
    for number, fault in enumerate(faults):
        note(f"hub {number + 1}/{len(faults)}: {fault}")
        with tempfile.TemporaryDirectory() as folder:
            problem, seconds = attempt(fault, Path(folder))
        kinds[fault] += 1
        longest = max(longest, seconds)
        if problem:
            losses.append(f"seed {seed}, case {number}, {fault}: {problem}")
    what = "a download from a hub with one fault, then again from a sound one into the same cache"
    spent = time.monotonic() - started
    return [Tally("hub", what, dict(kinds), losses, spent, {"longest attempt, s": round(longest, 1)})]


def attempt(fault: str, cache: Path) -> tuple[str, float]:
    """What went wrong in one case, or nothing; and how long the attempt with the fault took."""
    with served(fault) as made, asked_at(made.address, cache):
        began = time.monotonic()
        try:
            path = hub.fetch(HUB_ID, PATIENCE)
            said = ""
        except EngramError as error:
            path, said = None, str(error)
        seconds = time.monotonic() - began
        if seconds > BOUND:
            return f"took {seconds:.0f} s", seconds
        if fault == ONCE and path is None:
            return f"a download that was cut once was not resumed: {said}", seconds
        if path is not None and fault != ONCE:
            return "was taken for a model", seconds
        if path is None and "fix:" not in said:
            return f"no fix in: {said}", seconds
        if path is None and hub.cached(HUB_ID):
            return "a half model counts as whole", seconds
        if list(cache.rglob("*.incomplete")):
            return "a part was left", seconds
        made.fault = ""
        try:
            path = hub.fetch(HUB_ID, PATIENCE)
        except EngramError as error:
            return f"a sound hub afterwards: {error}", seconds
        same = sha256(path / "model.safetensors") == sha256(BUNDLED / "tiny" / "model.safetensors")
        return ("" if same else "the weights are others"), seconds
