"""Several seeds: which are run, what their summary says, and what may not be summed up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from documents import FEW, HASH, MANY, edit, training, write_run
from packs import refusal
from small_run import CONFIG, PACK

from engram.cli import main
from engram.evaluation import seeds
from engram.evaluation.compare import compare
from engram.plan import documents
from engram.support import schema


@pytest.mark.parametrize(
    ("text", "found"), [("1,2,3", [1, 2, 3]), ("0-4", [0, 1, 2, 3, 4]), ("7", [7]), ("3, 1-2,3", [3, 1, 2])]
)
def test_seeds_as_people_write_them(text: str, found: list[int]) -> None:
    assert seeds.parse_seeds(text) == found


@pytest.mark.parametrize("text", ["", "a", "1,,2", "3-1", "-1", "1.5", "0-100000000"])
def test_what_is_no_seed_is_refused(text: str) -> None:
    assert refusal(seeds.parse_seeds, text).where == "SEEDS"


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    """Two runs of the same patterns under two seeds."""
    made = []
    for seed, after in ((0, MANY), (1, [True] * 20)):
        place = tmp_path / str(seed)
        write_run(place, before=FEW, after=after)
        documents.write(place / "training.json", training(HASH["b"]), "training")
        for stage in ("baseline", "tuned"):
            edit(place / f"{stage}.json", "recipe", "seed", to=seed)
            edit(place / f"{stage}.json", "data", "seed", to=seed)
        compare(place)
        made.append(place)
    return made


def test_a_summary_has_mean_spread_and_a_pooled_interval_over_patterns(places: list[Path]) -> None:
    document = seeds.summarise(places)
    documents.write(places[0].parent / "mlx.json", document, "seeds")
    assert schema.problems(json.loads((places[0].parent / "mlx.json").read_text()), "seeds") == []
    recall = document["splits"]["recall"]
    assert document["seeds"] == [0, 1]
    assert recall["after"]["mean"] == pytest.approx(0.95) and recall["after"]["sd"] == pytest.approx(0.0707, abs=1e-4)
    assert (recall["pooled"]["rows"], recall["pooled"]["patterns"]) == (40, 20)
    assert recall["pooled"]["change"] == pytest.approx(0.85)
    assert document["retention"]["chat_nats"]["mean"] == pytest.approx(1.0)


def test_runs_that_differ_in_more_than_the_seed_are_not_summed_up(places: list[Path]) -> None:
    for stage in ("baseline", "tuned"):
        edit(places[1] / f"{stage}.json", "recipe", "rank", to=4)
        edit(places[1] / f"{stage}.json", "model", "weights_sha256", to=HASH["d"])
    compare(places[1])
    assert refusal(seeds.summarise, places).problems == (
        f"1: model.weights_sha256: '{HASH['a']}' and '{HASH['d']}'", "1: recipe.rank: 8 and 4"
    )  # fmt: skip


def test_a_hash_that_an_older_run_lacks_is_no_difference_but_another_one_is(places: list[Path]) -> None:
    for place, value in zip(places, (HASH["a"], HASH["d"])):
        for stage in ("baseline", "tuned"):
            edit(place / f"{stage}.json", "model", "files_sha256", to=value)
    compare(places[1])
    assert seeds.summarise(places)["seeds"] == [0, 1]
    compare(places[0])
    assert refusal(seeds.summarise, places).problems == (
        f"1: model.files_sha256: '{HASH['a']}' and '{HASH['d']}'",
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_runs_what_is_missing_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "pack.yaml").write_text(PACK)
    small = dataclasses.replace(CONFIG, steps=2, consistency_prompts=1, latency_prompts=1)
    arguments = ["seeds", "--seeds", "0,1", "--model", "tiny", "--backend", "mlx", "--results", str(tmp_path)]
    arguments += ["--patterns", str(tmp_path / "pack.yaml")]
    for name, value in dataclasses.asdict(small).items():
        if name not in ("name", "seed"):
            arguments += ["--set", f"{name}={value}"]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.output
    assert json.loads((tmp_path / "seeds/mlx.json").read_text())["seeds"] == [0, 1]
    second = CliRunner().invoke(main, [*arguments, "--set", "steps=2"])
    assert second.output.count("up to date: data, baseline, train, tuned, compare") == 2
    other = CliRunner().invoke(main, [*arguments[:2], "1", *arguments[3:], "--set", "steps=3"])
    assert "baseline: steps 2 → 3" in other.output and "train: steps 2 → 3" in other.output
