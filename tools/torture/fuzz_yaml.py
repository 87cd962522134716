"""Pattern files and recipe files: spoiled values, damaged bytes, and texts put together from what YAML can do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from packs import pack_yaml

from engram.dataset import build
from engram.models.tokenizer import Encoded
from engram.patterns.loading import find_files, load_patterns
from engram.plan.batches import plan_batches
from engram.plan.config import MAX_STEPS, Config, learning_rates, load_config
from tools.torture import nasty
from tools.torture.hunt import Case, LossError, read

PATTERNS = {
    "name": "facts",
    "description": "some facts",
    "version": "1.0",
    "examples": [
        {"input": "The capital of France", "output": "Paris", "category": "cities"},
        {"input": "The colour of snow", "output": "white"},
        {"input": "Half of two", "output": "one"},
    ],
    "tables": [
        {
            "category": "colour", "input": "The colour of {thing} is", "output": "{colour}!",
            "columns": ["thing", "colour"], "rows": [["grass", "green"], ["coal", "black"]],
        }
    ],
}  # fmt: skip
RECIPE: dict[str, Any] = {k: v for k, v in Config().as_dict().items() if k not in ("name", "seed")}
PIECES = (
    "name: x", "examples:", "tables:", "- input: a", "output: b", "- {input: c, output: d}", "category: k",
    "columns: [a, b]", "rows:", "- [x, y]", "input: 'The {a} of {b}'", "output: {a}", "- - [", "]", "}", "? a", ": b",
    "&a", "*a", "&a [x, x]", "b: &b [*a, *a]", "<<: *a", "<<: {x: y}", "<<: [*a, *b]",
    "!!python/object/apply:os.system", "!!python/name:os.x a", "!!binary aGk=", "!!set {a, b}", "!!omap", "!x y",
    "!<tag:x> y", "!!int x", "!!float .", "=: a", "--- ", "...", "%YAML 1.1", "%TAG ! tag:x,2000:", "#c", "|", ">-",
    "|9", "  text", "\ttext", '"a', "'a", "'a'': b'", '"\\ud800"', '"\\x00"', '"\\u202e"', '"\\UFFFFFFFF"', '"\\q"',
    "\u202e", "\ufeff", "\u2028", "\x85", "a: b: c", "@x", "`x", "- 1", "- no", "- 1.50", "- .inf", "- .nan", "- 0o17",
    "- 017", "- 0x1F", "- 1_000", "- 190:20:30", "- 2024-01-01", "- 2024-13-45", "- ~", "- null", "- yes", "1: a",
    "true: b", "~: c", "[a]: b", "{a: b}: c", "? [x]\n: y", "- -", "-", "1e400: x", "- " + "9" * 400, "- " + "[" * 20,
    "- " + "{a: " * 20, "x" * 3000 + ": y", "- 99999-01-01 00:00:00", "rank: 4", "rank: 1e9", "epochs: 1e300",
    "steps: 99999999999", "alpha: .nan", "schedule: no", "rank: {a: b}", "rank:",
)  # fmt: skip


def patterns_cases(_: Path) -> st.SearchStrategy[Case]:
    """Pattern files."""
    spoiled = st.builds(_written, nasty.spoiled(PATTERNS), st.booleans())
    damaged = st.one_of(nasty.damaged(pack_yaml().encode()), nasty.damaged(_written(PATTERNS, True)))
    return _cases("pattern file", spoiled, damaged)


def recipes_cases(_: Path) -> st.SearchStrategy[Case]:
    """Recipe files."""
    settings = st.dictionaries(st.sampled_from([*RECIPE, "seed", "name", "x"]), nasty.values(), min_size=1, max_size=4)
    spoiled = st.builds(_written, st.one_of(settings, settings, nasty.spoiled(RECIPE)), st.booleans())
    return _cases("recipe file", spoiled, nasty.damaged(yaml.safe_dump(RECIPE).encode()))


def settings_cases(_: Path) -> st.SearchStrategy[Case]:
    """What stands after --set."""
    numbers = nasty.numbers().map(str)
    texts = st.one_of(numbers, numbers, nasty.texts(), st.sampled_from(("1e9", "-0", "inf", "nan", "1_0", "٣")))
    known = st.sampled_from(list(RECIPE))
    wrong = st.dictionaries(st.one_of(known, known, known, nasty.texts()), texts, min_size=1, max_size=2)
    usual = st.dictionaries(known, st.sampled_from(("0", "1", "2", "4", "16", "0.5", "1e-3")), min_size=1, max_size=2)
    return st.builds(Case, st.just("--set"), st.one_of(wrong, wrong, wrong, usual))


def _cases(kind: str, spoiled: st.SearchStrategy[bytes], damaged: st.SearchStrategy[bytes]) -> st.SearchStrategy[Case]:
    return st.builds(Case, st.just(kind), st.one_of(spoiled, damaged, _made(), st.binary(max_size=60)))


@st.composite
def _made(draw: st.DrawFn) -> bytes:
    """Lines of YAML that need not fit together."""
    lines = draw(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(PIECES), nasty.texts()), max_size=9))
    keep = draw(st.integers(0, 3))  # most texts are left out: one odd character would hide all else
    texts = [" " * 2 * depth + piece + (f" {text}" if keep == 0 else "") for depth, piece, text in lines]
    return "\n".join(texts).encode("utf-8", "surrogatepass")


def _written(document: Any, as_json: bool) -> bytes:
    """As JSON, which YAML reads, or in YAML's own way where the values allow it."""
    if not as_json:
        try:
            text: str = yaml.safe_dump(document, allow_unicode=True)
            return text.encode("utf-8", "surrogatepass")
        except (yaml.YAMLError, ValueError):
            pass
    return nasty.dumps(document).encode("utf-8", "surrogatepass")


def check_patterns(case: Case, folder: Path) -> Any:
    """Validate the file; split what is sound into rows, and write them."""
    path = folder / "fuzzed.yaml"
    path.write_bytes(case.content)
    patterns = read(lambda: load_patterns(find_files(str(path))), path.name)
    if patterns:
        read(lambda: build.write_data(patterns, [path], folder / "data", 0), path.name, "", place=False)
    return patterns


def check_recipes(case: Case, folder: Path) -> Any:
    """Read the recipe, and plan a training with it."""
    path = folder / "fuzzed.yaml"
    path.write_bytes(case.content)
    return _planned(read(lambda: load_config(str(path), 1000), path.name))


def check_settings(case: Case, _: Path) -> Any:
    """Put the settings over a recipe, and plan a training with it."""
    return _planned(read(lambda: load_config("default", 1000, 0, case.content), "recipe default", place=False))


def _planned(config: Config | None) -> Config | None:
    if config is not None:
        rows = [Encoded(str(i), (1, 2, 3), 1) for i in range(20)]
        usual = config.steps <= MAX_STEPS and config.epochs <= 10_000  # what is allowed takes its time in full
        short = dataclasses.replace(config, steps=min(config.steps, 200), epochs=min(config.epochs, 100))
        short = short if usual else config
        batches = read(lambda: plan_batches(rows, short), "epochs", place=False) or ()
        if not all(rate >= 0 for rate in learning_rates(config, min(len(batches), 50))):
            raise LossError("a learning rate is no number")
    return config
