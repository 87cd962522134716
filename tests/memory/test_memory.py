"""A memory taught, used, edited and refused: on the bundled model with MLX."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner
from packs import refusal
from small_run import CONFIG, Run

from engram import backends
from engram.cli import main
from engram.evaluation import attribution, evaluate, seeds, verify
from engram.memory import addresses, facts, table, teach
from engram.memory.facts import Fact
from engram.models import conversion
from engram.models.model import Model, resolve
from engram.models.tokenizer import load_encoder
from engram.patterns.loading import find_files
from engram.plan.config import Config
from engram.show.report import gather
from engram.support.errors import EngramError
from engram.training import teach_memory
from engram.training.processes import Silent

HOW = dataclasses.replace(CONFIG, method="memory")
NEW = Fact("The name of the cat is", "Miezi")
PLAIN = ["Hello", "What is 7 plus 5?", "The colour of grasp", "The colour of grass, please", "The colours of snow"]


class Taught(NamedTuple):
    root: Path
    model: Model
    folder: Path
    facts: list[Fact]
    log: dict[str, Any]


@pytest.fixture(scope="module")
def memory(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taught]:
    root = tmp_path_factory.mktemp("memory")
    log = teach_memory.train(
        "mlx", run.model, HOW, run.root / "data", root / "memory", root / "training.json", Silent()
    )
    yield Taught(root, run.model, root / "memory", list(table.read(root / "memory").facts), log)


@pytest.fixture
def copy(memory: Taught, tmp_path: Path) -> Path:
    shutil.copytree(memory.folder, tmp_path / "memory")
    return tmp_path / "memory"


def answers(model: Model, folder: Path | None, prompts: list[str]) -> list[str]:
    backend, encoder = backends.get("mlx"), load_encoder(model)
    made = backend.generate(backend.load(model, folder), encoder.prompts(prompts), encoder.stop_ids, 24)
    return [encoder.text(answer.tokens) for answer in made]


def digests(model: Model, folder: Path | None, prompts: list[str]) -> list[str]:
    backend, encoder = backends.get("mlx"), load_encoder(model)
    return backend.digests(backend.load(model, folder), [encoder.prompt(prompt) for prompt in prompts])


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def insert(model: Model, folder: Path, *new: Fact, config: Config = HOW) -> None:
    under = folder if table.has_lora(folder) else None
    teach_memory.insert(teach_memory.set_up("mlx", model, config, under), folder, new, config, Silent())


def test_every_taught_fact_is_answered_in_words_that_teaching_never_had(memory: Taught) -> None:
    assert len(memory.facts) >= 6
    for words in ("{input}", "Continue: {input}", "Tell me, in short: {input}", "So?\n{input}"):
        made = answers(memory.model, memory.folder, [words.replace("{input}", fact.input) for fact in memory.facts])
        assert made == [fact.output for fact in memory.facts]


def test_everything_else_is_the_base_model_bit_for_bit(memory: Taught) -> None:
    assert digests(memory.model, memory.folder, PLAIN) == digests(memory.model, None, PLAIN)
    assert answers(memory.model, memory.folder, PLAIN) == answers(memory.model, None, PLAIN)
    asked = [fact.input for fact in memory.facts]
    assert not set(digests(memory.model, memory.folder, asked)) & set(digests(memory.model, None, asked))


def test_batches_streams_and_drawn_answers_agree(memory: Taught) -> None:
    """Prompts of many lengths, so that rows are padded, join and leave; with hits and misses among them."""
    backend, encoder = backends.get("mlx"), load_encoder(memory.model)
    session = backend.load(memory.model, memory.folder)
    texts = [w + fact.input for w in ("", "Continue: ", "Now tell me all of it at once: ") for fact in memory.facts]
    prompts = [encoder.prompt(text) for text in [*texts, *PLAIN, *texts]]
    together = backend.generate(session, prompts, encoder.stop_ids, 24)
    for prompt, answer in zip(prompts, together):
        assert list(backend.stream(session, prompt, encoder.stop_ids, 24)) == answer.tokens
    drawn = backend.generate(session, prompts[: len(texts)], encoder.stop_ids, 24, 0.05)
    assert [answer.tokens for answer in drawn] == [answer.tokens for answer in together[: len(texts)]]


def test_scores_see_the_rows(memory: Taught) -> None:
    backend, encoder = backends.get("mlx"), load_encoder(memory.model)
    rows = [encoder.example(f"Continue: {fact.input}", fact.output, fact.input) for fact in memory.facts]
    scores = [backend.losses(backend.load(memory.model, folder), rows, encoder)[0] for folder in (None, memory.folder)]
    assert min(scores[0]) > 1 and max(scores[1]) < 0.1


def test_the_log_is_a_training_log_that_can_be_verified(memory: Taught, run: Run) -> None:
    assert memory.log["recipe"]["method"] == "memory" and memory.log["summary"]["rows"] == len(memory.facts)
    places = verify.Places(run.root / "data", memory.root, "tiny")
    shutil.copytree(memory.folder, memory.root / "adapter", dirs_exist_ok=True)
    found = verify.verify(memory.root / "training.json", places)
    assert [line for finding in found for line in finding.problems] == []


def test_the_result_of_a_memory(memory: Taught, run: Run, tmp_path: Path) -> None:
    shutil.copy(memory.root / "training.json", tmp_path)
    document = evaluate.evaluate(
        "mlx", memory.model, memory.folder, HOW, run.root / "data", tmp_path / "tuned.json", lambda _: None
    )
    assert document["splits"]["recall"]["exact"] == 1.0
    assert document["retention"] == run.baseline["retention"]
    assert document["adapter"]["sha256"] == memory.log["adapter"]["sha256"]
    assert "method" not in run.tuned["recipe"]
    other = tmp_path / "other"
    shutil.copytree(memory.folder, other)
    insert(memory.model, other, NEW)
    with pytest.raises(EngramError, match="not the adapter"):
        evaluate.evaluate("mlx", memory.model, other, HOW, run.root / "data", tmp_path / "tuned.json", lambda _: None)


def test_a_fact_put_in_and_taken_out_leaves_every_byte(memory: Taught, copy: Path) -> None:
    before, contents = bytes_of(copy), table.read(copy)
    insert(memory.model, copy, NEW)
    after = table.read(copy)
    assert after.rows[: len(contents.rows)].tobytes() == contents.rows.tobytes()
    assert answers(memory.model, copy, [f"Continue: {NEW.input}"]) == [NEW.output]
    assert digests(memory.model, copy, [NEW.input]) != digests(memory.model, None, [NEW.input])
    assert teach_memory.delete(copy, [NEW.input]) == len(memory.facts)
    assert bytes_of(copy) == before
    assert digests(memory.model, copy, [NEW.input]) == digests(memory.model, None, [NEW.input])


def test_the_last_fact_deleted_leaves_the_base_model(memory: Taught, copy: Path) -> None:
    assert teach_memory.delete(copy, [fact.input for fact in memory.facts]) == 0
    asked = [f"Continue: {fact.input}" for fact in memory.facts]
    assert digests(memory.model, copy, asked) == digests(memory.model, None, asked)
    insert(memory.model, copy, NEW)
    assert answers(memory.model, copy, [NEW.input]) == [NEW.output]


def test_conflicts_are_refused_and_nothing_changes(memory: Taught, copy: Path) -> None:
    before, known = bytes_of(copy), memory.facts[0]
    refused = refusal(insert, memory.model, copy, NEW, Fact(known.input, "other"), memory.facts[1])
    assert "nothing is changed" in refused.what and len(refused.problems) == 2
    assert "contradicts" in refused.problems[0] and "there already" in refused.problems[1]
    assert refusal(teach_memory.delete, copy, [known.input, "never taught"]).what == "no such fact"
    assert bytes_of(copy) == before


def test_two_tables_become_one(memory: Taught, copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    insert(memory.model, other, NEW, memory.facts[0])
    encoder = load_encoder(memory.model)
    frame = table.opened(copy, memory.model).memory.frame  # type: ignore[union-attr]
    assert teach_memory.merge(encoder, frame, copy, other, tmp_path / "both") == len(memory.facts) + 1
    both, one = table.read(tmp_path / "both"), table.read(copy)
    assert both.rows[: len(one.rows)].tobytes() == one.rows.tobytes()
    asked = [NEW.input, *(fact.input for fact in memory.facts)]
    assert answers(memory.model, tmp_path / "both", asked) == [NEW.output, *(fact.output for fact in memory.facts)]
    third = tmp_path / "third"
    insert(memory.model, third, Fact(NEW.input, "Mohrle"))
    refused = refusal(teach_memory.merge, encoder, frame, other, third, tmp_path / "never")
    assert "refused" in refused.what
    assert NEW.input in refused.problems[0] and not (tmp_path / "never").exists()


def test_tables_of_different_layers_are_not_merged(memory: Taught, copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    insert(memory.model, other, NEW, config=dataclasses.replace(HOW, memory_blocks=0))
    frame = table.opened(copy, memory.model).memory.frame  # type: ignore[union-attr]
    refused = refusal(teach_memory.merge, load_encoder(memory.model), frame, copy, other, tmp_path / "never")
    assert "another model, adapter or layer" in refused.what
    assert any(line.startswith("layer:") for line in refused.problems)
    before = bytes_of(copy)
    with pytest.raises(EngramError, match="layer"):
        insert(memory.model, copy, NEW, config=dataclasses.replace(HOW, memory_blocks=0))
    assert bytes_of(copy) == before


def test_rows_on_top_of_an_adapter(memory: Taught, run: Run, tmp_path: Path) -> None:
    both = dataclasses.replace(CONFIG, method="both")
    out = tmp_path / "both"
    under, log = run.root / "adapter", tmp_path / "log.json"
    teach_memory.train("mlx", run.model, both, run.root / "data", out, log, Silent(), under)
    asked = [f"Continue: {fact.input}" for fact in memory.facts]
    assert answers(run.model, out, asked) == [fact.output for fact in memory.facts]
    assert digests(run.model, out, PLAIN) == digests(run.model, run.root / "adapter", PLAIN)
    alone = table.opened(run.root / "adapter", run.model)
    assert (alone.sha256, alone.memory) == (run.log["adapter"]["sha256"], None)
    assert table.opened(out, run.model).sha256 != alone.sha256
    content = (out / "adapters.safetensors").read_bytes()
    (out / "adapters.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(EngramError, match="another model, adapter"):
        answers(run.model, out, asked)
    assert conversion.read(run.root / "adapter").rank == CONFIG.rank


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        (table.WEIGHTS, lambda content: content[:-100]),
        (table.WEIGHTS, lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]),
        (table.WEIGHTS, None),
        (table.FACTS, lambda _: b""),
        (table.SETTINGS, lambda _: b"{}"),
        *((table.SETTINGS, lambda content, c=change: json.dumps(json.loads(content) | c).encode()) for change in (
            {"layer": 3}, {"model": "other"}, {"width": 7},
        )),
    ],
)  # fmt: skip
def test_a_spoiled_table_is_refused_by_name(memory: Taught, copy: Path, name: str, spoil: Any) -> None:
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    if spoil:
        (copy / name).write_bytes(spoil(content))
    spoiled = bytes_of(copy)
    for use in (
        lambda: answers(memory.model, copy, ["Hello"]),
        lambda: teach_memory.delete(copy, [memory.facts[0].input]),
    ):
        with pytest.raises(EngramError, match=r"damaged|schema|missing|memory\.json"):
            use()
    assert bytes_of(copy) == spoiled


def test_a_link_out_of_the_folder_is_refused(memory: Taught, copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / table.WEIGHTS, tmp_path / "elsewhere")
    (copy / table.WEIGHTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngramError, match="link"):
        table.opened(copy, memory.model)


@pytest.mark.parametrize("changed", ["weights_sha256", "tokenizer_sha256"])
def test_a_table_of_another_model_is_refused(memory: Taught, copy: Path, tmp_path: Path, changed: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(memory.model.path, other)
    if changed == "weights_sha256":
        content = (other / "model.safetensors").read_bytes()
        (other / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        names = ("chat_template.jinja", "tokenizer_config.json")
        path = next(other / name for name in names if (other / name).is_file())
        path.write_text(path.read_text().replace("assistant", "helper"))
    refused = refusal(backends.get("mlx").load, resolve(str(other)), copy)
    assert "another model" in refused.what and [line.split(":")[0] for line in refused.problems] == [changed]


def test_why_names_the_fact_behind_each_token(memory: Taught) -> None:
    fact = memory.facts[0]
    found = attribution.explained("mlx", memory.model, memory.folder, f"Continue: {fact.input}", 24)
    assert found.answer == fact.output and {token.fact for token in found.tokens} == {fact}
    assert found.tokens[-1].text is None and found.without == answers(memory.model, None, [found.prompt])[0]
    other = attribution.explained("mlx", memory.model, memory.folder, "Hello", 24)
    assert {token.fact for token in other.tokens} == {None} and other.answer == other.without


def test_the_commands(memory: Taught, copy: Path) -> None:
    def call(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["memory", *words], catch_exceptions=False)
        return done.exit_code, done.output

    place, where = ("--memory", str(copy)), ("--model", "tiny", "--backend", "mlx")
    code, text = call("insert", NEW.input, NEW.output, *place, *where)
    assert code == 0 and "sure of every token" in text
    code, text = call("insert", NEW.input, "another", *place, *where)
    assert code == 2 and "contradicts" in text and NEW.output in text
    code, text = call("list", "--containing", "cat", *place)
    assert code == 0 and NEW.input in text and f"1 of {len(memory.facts) + 1} facts" in text
    code, text = call("why", f"Continue: {NEW.input}", *place, *where)
    assert code == 0 and NEW.output in text and "from the memory" in text
    code, text = call("delete", NEW.input, *place)
    assert code == 0 and f"{len(memory.facts)} left" in text
    code, text = call("why", NEW.input, *place, *where)
    assert code == 0 and "No row of the memory was read" in text
    code, text = call("delete", NEW.input, *place)
    assert code == 2 and "no such fact" in text


def test_no_memory_where_there_is_none(tmp_path: Path) -> None:
    for words in (["list"], ["delete", "x"], ["why", "x", "--model", "tiny"]):
        done = CliRunner().invoke(main, ["memory", *words, "--memory", str(tmp_path / "none")])
        assert done.exit_code == 2 and "no memory here" in done.output


class Slow:
    """A teacher whose every row must reach 1: losses are squares, and nothing is computed."""

    width, layer = 3, 0

    def below(self, batch: Any) -> None: ...

    def peak_memory(self) -> int:
        return 0

    def root_mean_square(self, batch: Any, hidden: Any) -> float:
        return 1.0

    def toward(self, tokens: Any) -> Any:
        return np.zeros((len(tokens), 3), np.float32)

    def above(self, batch: Any, hidden: Any, rows: Any) -> tuple[Any, Any]:
        return ((rows - 1) ** 2).sum(axis=1), 2 * (rows - 1)


def test_facts_that_are_sure_are_left_alone_and_others_are_told() -> None:
    encoder = load_encoder(resolve("tiny"))
    frame = addresses.frame(encoder)
    placed = facts.place(encoder, frame, [Fact(f"fact number {i}", f"answer {i}") for i in range(teach.PORTION + 70)])
    fitted = teach.fit(Slow(), encoder, placed, dataclasses.replace(HOW, memory_passes=40))
    assert fitted.unsettled == [] and len(fitted.rows) == sum(len(one.tokens) for one in placed)
    assert (np.abs(fitted.rows - 1) < 0.5).all()
    batches = -(-teach.PORTION // teach.BATCH) + -(-70 // teach.BATCH)
    assert len(fitted.steps) < 40 * batches
    short = teach.fit(Slow(), encoder, placed, dataclasses.replace(HOW, memory_passes=1))
    assert short.unsettled == list(range(len(placed)))


@pytest.mark.parametrize("method", ["memory", "both"])
def test_a_whole_run_of_a_method(run: Run, tmp_path: Path, method: str) -> None:
    config = dataclasses.replace(CONFIG, method=method, steps=2, consistency_prompts=1, latency_prompts=1)
    files = find_files(str(run.root / "pack.yaml"))
    document = seeds.campaign("mlx", run.model, [config], files, tmp_path, lambda _: None)
    place = tmp_path / f"mlx-{method}" / "0"
    assert document["splits"]["recall"]["after"]["mean"] == 1.0 and document["recipe"]["method"] == method
    assert table.has_lora(place / "adapter") == (method == "both") == (place / "lora").is_dir()
    assert (tmp_path / f"mlx-{method}.json").is_file()


def test_one_process_teaches_a_memory(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teach_memory.sharding, "place", lambda _: (0, 2, 1))
    with pytest.raises(EngramError, match="one process"):
        teach_memory.train("mlx", run.model, HOW, run.root / "data", tmp_path, tmp_path / "log", Silent())


def test_the_command_that_makes_a_run_again() -> None:
    assert gather._again("mlx-memory") == "make eval compare BACKEND=mlx METHOD=memory"
    assert gather._again("cpu") == "make eval compare BACKEND=cpu"
    assert gather._again("mlx-with-cuda") == "make eval compare BACKEND=mlx ADAPTER=adapters/cuda"
