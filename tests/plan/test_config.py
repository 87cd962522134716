"""Recipes, overrides, and the settings that are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from packs import refusal

from engram.plan.config import RECIPES, SMALL_MODEL, Config, GateSettings, load_config, parse_overrides


def wrong(recipe: str, **overrides: str) -> tuple[str, ...]:
    return refusal(load_config, recipe, 10**6, 0, overrides).problems


def test_the_seed_recipe_is_the_plans() -> None:
    config = load_config("seed", 135_000_000, seed=3)
    assert (config.steps, config.learning_rate, config.rank, config.batch_size) == (100, 1e-5, 8, 4)
    assert (config.schedule, config.seed, config.name, config.scale) == ("constant", 3, "seed", 20.0)


def test_the_default_recipe_fits_the_models_size() -> None:
    for parameters, name in ((1, "default-small"), (SMALL_MODEL - 1, "default-small"), (SMALL_MODEL, "default-large")):
        assert load_config("default", parameters) == Config(**{"name": name, **RECIPES[name]})


def test_flags_override_the_recipe_and_get_its_types() -> None:
    config = load_config(
        "seed", 1, 0, parse_overrides(("rank=4", " alpha = 32 ", "learning_rate=1e-3", "schedule=linear"))
    )
    assert (config.rank, config.alpha, config.learning_rate, config.schedule) == (4, 32.0, 1e-3, "linear")
    assert type(config.rank) is int and type(config.alpha) is float and config.steps == 100


def test_a_file_of_settings_is_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text(
        "rank: 16\nlearning_rate: 1e-3  # text for YAML 1.1\nepochs: 2\nschedule: linear\n"
    )
    config = load_config(str(tmp_path / "mine.yml"), 1)
    assert (config.name, config.rank, config.learning_rate, config.epochs) == ("mine", 16, 1e-3, 2.0)
    assert set(config.as_dict()) > {"name", "seed", "rank"} and "memory_rate" not in config.as_dict()
    assert dataclasses.asdict(config).items() > config.as_dict().items()
    memory = dataclasses.replace(config, method="memory", shots=8, general_rows=5)
    assert memory.as_dict() | dataclasses.asdict(GateSettings()) == dataclasses.asdict(memory)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("rnak", "4", "unknown setting 'rnak', did you mean 'rank'?"),
        ("zzz", "4", "unknown setting 'zzz'; see docs/commands.md"),
        ("", "4", "unknown setting ''; see docs/commands.md"),
        ("seed", "4", "unknown setting 'seed'; the seed has its own option (--seed)"),
        ("name", "x", "unknown setting 'name'; the recipe's name is its own"),
        ("rank", "4.5", "rank = '4.5' is not a whole number"),
        ("rank", "four", "rank = 'four' is not a whole number"),
        ("alpha", "", "alpha = '' is not a number"),
        ("rank", "0", "rank = 0: it must be above 0"),
        ("rank", "-1", "rank = -1 is negative"),
        ("alpha", "0", "alpha = 0: it must be above 0"),
        ("learning_rate", "nan", "learning_rate = nan is not a finite number"),
        ("learning_rate", "1e999", "learning_rate = inf is not a finite number"),
        ("schedule", "cosin", "schedule = 'cosin': one of constant, linear, cosine"),
        ("dropout", "1", "dropout = 1.0: it must be below 1"),
        ("beta2", "2", "beta2 = 2.0: it must be below 1"),
        ("epochs", "0", "steps and epochs are both 0: nothing would be trained"),
        # more than any planning survives
        ("epochs", "1e300", "epochs = 1e+300: at most 10,000 can be used"),
        ("replay_weight", "1e308", "replay_weight = 1e+308: at most 1,000 can be used"),
        ("steps", "1" + "0" * 12, "steps = 1000000000000: at most 1,000,000 can be used"),
        ("rank", "9" * 70, f"rank = {'9' * 59}…: at most 4,096 can be used"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(key: str, value: str, problem: str) -> None:
    assert wrong("default", **{key: value}) == (problem,)


def test_every_wrong_setting_is_named_at_once() -> None:
    error = refusal(load_config, "seed", 1, 0, {"rnak": "1", "rank": "x", "alpha": "-1"})
    assert str(error) == (
        "recipe seed: the settings are not usable\n"
        "  rank = 'x' is not a whole number\n"
        "  unknown setting 'rnak', did you mean 'rank'?\n"
        "  alpha = -1.0 is negative\n"
        "  fix: correct them"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rank: yes", "rank = True is not a whole number"),
        ("rank: 8.0", "rank = 8.0 is not a whole number"),
        ("rank:", "rank = None is not a whole number"),
        ("rank: [8]", "rank = [8] is not a whole number"),
        ("alpha: {a: 1}", "alpha = {'a': 1} is not a number"),
        ("alpha: 2024-03-15", "alpha = datetime.date(2024, 3, 15) is not a number"),
        ("schedule: 3", "schedule = 3 is not text"),
        ("learning_rate: .inf", "learning_rate = inf is not a finite number"),
        (f"learning_rate: {'9' * 400}", f"learning_rate = {'9' * 59}… is not a number"),
        ("seed: 3", "unknown setting 'seed'; the seed has its own option (--seed)"),
        # and what is no recipe at all, with the place
        ("", ":1:1 not a mapping of settings"),
        ("- rank\n", ":1:1 not a mapping of settings"),
        ("rank: 8\nrank: 9\n", ":2:1 the key 'rank' is used twice; keep one of them"),
        (
            "rank: !!python/name:os.system x\n",
            ":1:7 the tag 'tag:yaml.org,2002:python/name:os.system' is not allowed; take the tag out",
        ),
        ("rank: 8\n\talpha: 1\n", ":2:1 a tab is used where YAML needs spaces; replace the tab by spaces"),
    ],
)
def test_a_recipe_files_values_are_checked_too(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    place = "" if problem.startswith(":") else ":1:1: "
    assert wrong(str(tmp_path / "own.yaml")) == (f"{tmp_path}/own.yaml{place}{problem}",)


def test_an_unknown_recipe_and_a_missing_file_say_what_to_do(tmp_path: Path) -> None:
    fix = "name one of them, or a .yaml file of settings"
    near = f"RECIPE: unknown recipe 'defalt', did you mean 'default'?\n  fix: {fix}"
    assert str(refusal(load_config, "defalt", 1)) == near
    names = "default, default-small, default-large, seed"
    assert str(refusal(load_config, "xyz", 1)) == f"RECIPE: unknown recipe 'xyz'; known are {names}\n  fix: {fix}"
    assert "cannot read this file: No such file" in str(refusal(load_config, str(tmp_path / "no.yaml"), 1))


def test_overrides_are_key_and_value() -> None:
    assert parse_overrides(()) == parse_overrides(("",)) == {}
    assert parse_overrides(("a=b=c", " x = y  z=1 ")) == {"a": "b=c", "x": "y", "z": "1"}
    assert str(refusal(parse_overrides, ("rank", "a=1", "alpha 3"))) == (
        "--set: not KEY=VALUE: rank, alpha, 3\n  fix: for example: --set rank=4"
    )
