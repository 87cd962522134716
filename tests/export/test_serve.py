"""The taught model behind the server of mlx-lm or llama.cpp gives the answers that it gives here."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
from click.testing import CliRunner
from small_run import Run

from engram.cli import main


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(("backend", "needed"), [("mlx", "mlx_lm"), ("cpu", "xllamacpp")])
def test_the_server_answers_as_the_tuned_model_did(backend: str, needed: str, run: Run, port: int) -> None:
    pytest.importorskip(needed)
    command = [sys.executable, "-m", "engram.cli", "serve", "--model", "tiny", "--adapter", str(run.root / "adapter")]
    with subprocess.Popen([*command, "--backend", backend, "--port", str(port)], stdout=subprocess.PIPE) as server:
        try:
            rows = [row for row in run.tuned["answers"] if row["exact"]][:5]
            assert [answer(port, row["prompt"]) for row in rows] == [row["answer"] for row in rows] and rows
        finally:
            server.terminate()
            said = server.communicate(timeout=30)[0].decode()
    assert f"curl -H 'Content-Type: application/json' http://127.0.0.1:{port}/v1/chat/completions" in said


def answer(port: int, question: str) -> str:
    """The server's answer to OpenAI's own client; waits until it listens."""
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    asked = [{"role": "user", "content": question}]
    for _ in range(600):
        try:
            reply = client.chat.completions.create(model="default_model", messages=asked, max_tokens=32, temperature=0)
            return str(reply.choices[0].message.content)
        except (openai.APIConnectionError, openai.InternalServerError):  # llama.cpp says 503 while it loads
            time.sleep(0.2)
    raise TimeoutError


def test_a_taken_port_and_nothing_taught_are_refused(run: Run, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = ["serve", "--model", "tiny", "--backend", "mlx", "--adapter", str(run.root / "adapter")]
        shown = CliRunner().invoke(main, [*words, "--port", str(taken.getsockname()[1])])
    assert shown.exit_code == 2 and "another program listens there" in shown.stderr
    shown = CliRunner().invoke(main, ["serve", "--model", "tiny", "--adapters", str(tmp_path)])
    assert shown.exit_code == 2 and "nothing was taught yet" in shown.stderr
