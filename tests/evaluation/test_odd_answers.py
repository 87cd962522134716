"""Models whose answers are empty, endless, special tokens only, or no numbers: scored and shown, or named."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from packs import refusal
from safetensors.numpy import save_file
from small_run import CONFIG

from engram import backends, cli
from engram.evaluation import compare, evaluate, tables
from engram.models import tokenizer
from engram.models.model import resolve
from engram.plan import batches
from engram.plan.curve import Answer
from engram.training import replay

Patch = pytest.MonkeyPatch
SPECIAL = [0, 1, 2]  # of the bundled model


class Odd:
    """A backend that computes nothing: every answer is `said`, and `nats` the loss of each token."""

    WEIGHTS = "adapters.safetensors"

    def __init__(self, said: Sequence[int] | None, nats: float = 1.0) -> None:
        self.said, self.nats = said, nats

    def device(self) -> str:
        return "none"

    def load(self, *_: Any) -> None:
        return None

    def answer(self, limit: int) -> Answer:
        """`said`, ended; without end where there is none."""
        if self.said is None:
            return Answer(list(itertools.islice(itertools.cycle([300, 301]), limit)), False)
        return Answer(list(self.said), True)

    def generate(self, _session: Any, prompts: Sequence[Any], _stop: Any, limit: int, *_: Any) -> list[Answer]:
        return [self.answer(limit) for _ in prompts]

    def stream(self, _session: Any, _prompt: Any, _stop: Any, limit: int) -> Iterator[int]:
        return iter(self.answer(limit).tokens)

    def losses(self, _session: Any, examples: Any, encoder: Any, likely: Any = ()) -> list[list[float]]:
        found = batches.mean_losses(
            examples, encoder.pad_id, 8, lambda batch: np.where(batch.weights > 0, self.nats, 0.0)[None]
        )
        return found * (2 if likely else 1)


def answered(odd: Odd, data: Path, place: Path, patch: Patch, adapter: Path | None = None) -> Any:
    patch.setattr(backends, "get", lambda _: odd)
    patch.setattr(replay, "likely", lambda *_: [None])
    stage = "tuned" if adapter else "baseline"
    return evaluate.evaluate("mlx", resolve("tiny"), adapter, CONFIG, data, place / f"{stage}.json", lambda _: None)


@pytest.mark.parametrize("said", [[], SPECIAL, None], ids=["empty", "special tokens", "endless"])
def test_an_odd_answer_is_scored_compared_and_shown(
    said: Sequence[int] | None, small_data: Path, tmp_path: Path, monkeypatch: Patch, capsys: Any
) -> None:
    place, adapter = tmp_path / "results" / "mlx", tmp_path / "adapters" / "mlx"
    adapter.mkdir(parents=True)
    save_file({"a": np.zeros(1, np.float32)}, adapter / "adapters.safetensors")
    (adapter / "adapter_config.json").write_text('{"lora_parameters": {}}')
    for given in (None, adapter):
        document = answered(Odd(said), small_data, place, monkeypatch, given)
        assert document["splits"]["recall"]["exact"] == 0.0
        assert {row["ended"] for row in document["answers"]} == {said is not None}
        assert all(bool(row["answer"]) == (said is None) for row in document["answers"])
        assert document["latency"]["tokens_per_second"] is None or said != []
        tables.result(document)
    tables.comparison(compare.compare(place))
    assert "0.0 %" in capsys.readouterr().out
    shown = ["demo", "--quick", "--speed", "0", "--backend", "mlx", "--patterns", str(small_data.parent / "pack.yaml")]
    where = [f"--{name}={tmp_path / name}" for name in ("adapters", "results")]
    done = CliRunner().invoke(cli.main, [*shown, *where, f"--data={small_data}"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    page = tmp_path / "page.html"
    done = CliRunner().invoke(cli.main, ["report", where[1], "--out", str(page)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "</html>" in page.read_text("utf-8")


@pytest.mark.parametrize("nats", [float("nan"), float("inf")])
def test_losses_that_are_no_numbers_are_said(nats: float, small_data: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    error = refusal(answered, Odd([], nats), small_data, tmp_path, monkeypatch)
    rows = [json.loads(line)["id"] for line in (small_data / "test.jsonl").read_text("utf-8").splitlines()]
    assert f"the model gives no numbers for {len(rows)} of {len(rows)} rows" in str(error)
    assert [line.split(":")[0] for line in error.problems] == rows
    assert list(tmp_path.iterdir()) == []


def test_one_wrong_row_is_the_only_one_named() -> None:
    encoder = tokenizer.load_encoder(resolve("tiny"))
    examples = [encoder.example("a", "b", "good"), encoder.example("a", "b c d e f g", "bad")]

    def losses(batch: batches.Batch) -> Any:
        return (batch.weights * [float("nan") if batch.ids[owner] == "bad" else 1.0 for owner in batch.owners])[None]

    error = refusal(batches.mean_losses, examples, encoder.pad_id, 8, losses)
    assert error.problems == ("bad: nan nats per token",)
