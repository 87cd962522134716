"""`engram validate --advise`: each piece of advice where it is due, none where it is not, and always exit code 0."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from packs import pack, pattern

from engram.cli import main
from engram.dataset import advice
from engram.models.model import resolve
from engram.models.tokenizer import Encoder, load_encoder
from engram.patterns.loading import Pattern, Rule, find_files, load_patterns
from engram.support.statistics import wilson

WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "sigma", "tau", "omega")
ALSO = ("Which word stands at {}?", "{} is the place of which word?")
SOUND = [
    pattern(f"The word at place {word} of the list", word[::-1], also=tuple(text.format(word) for text in ALSO))
    for word in WORDS
]


@functools.cache
def encoder() -> Encoder:
    return load_encoder(resolve("tiny"))


def count_tokens(prompt: str, answer: str) -> tuple[int, int]:
    encoded = encoder().example(prompt, answer)
    return len(encoded.tokens), encoded.answer_length


OFTEN = ("wide interval", "asked in its own words only")  # a test has few patterns, and few words
LIMITS = advice.Limits(max_length=256, max_new_tokens=32, small=True)


def advise(patterns: list[Pattern], limits: advice.Limits = LIMITS) -> dict[str, list[advice.Advice]]:
    """The advice of each kind, except for OFTEN."""
    found = advice.advise(patterns, advice.held(patterns, 0), count_tokens, limits)
    kinds = {one.kind: [other for other in found if other.kind == one.kind] for one in found}
    return {kind: listed for kind, listed in kinds.items() if kind not in OFTEN}


def test_sound_patterns_get_none() -> None:
    assert advise(SOUND) == {}


def test_answers_are_counted_in_the_models_tokens() -> None:
    long = pattern("The long one", " ".join(f"item{i}" for i in range(8)))
    tokens = count_tokens("", long.output)[1]
    (one,) = advise([*SOUND, long])["long answer"]
    assert one.what == f"the answer has {tokens} tokens with its end" and 16 < tokens <= 32
    assert one.why == f"each must be right: with 99 % for every token, {0.99**tokens:.0%} for all of them"
    assert advise([*SOUND, long], LIMITS._replace(small=False)) == {}
    (one,) = advise([*SOUND, long], LIMITS._replace(max_new_tokens=tokens - 1))["answer cut off"]
    assert one.fix == f"shorten it, or --set max_new_tokens={tokens}"
    assert "answer cut off" not in advise([*SOUND, long], LIMITS._replace(max_new_tokens=tokens))


def test_a_row_too_long_for_training_is_named() -> None:
    long = pattern("word " * 30, "x")
    assert advise([*SOUND, long]) == {}
    (one,) = advise([*SOUND, long], LIMITS._replace(max_length=40))["too long to teach"]
    whole = int(one.what.split()[0])
    assert one.fix == f"shorten it, or --set max_length={whole}"
    assert "too long to teach" not in advise([*SOUND, long], LIMITS._replace(max_length=whole))


@pytest.mark.parametrize(
    ("first", "second", "near"),
    [
        ("What does C stand for?", "what does c++ stand for", True),
        ("Owner of the billing service", "Owner of the building service", False),
        ("Owner of the billing service", "Owner of the killing service", True),
        ("Port of item 17001", "Port of item 17002", False),
        ("HTTP status 200", "HTTP status 201", False),
        ("The cat", "The car", False),
    ],
)
def test_nearly_the_same_input_with_another_answer(first: str, second: str, near: bool) -> None:
    kind = "nearly the same input, another answer"
    assert (kind in advise([*SOUND, pattern(first, "one"), pattern(second, "two")])) == near
    same = advise([*SOUND, pattern(first, "one"), pattern(second, " one")])
    assert kind not in same


def test_near_duplicates_are_named_with_their_twin() -> None:
    patterns = [*SOUND, pattern("Who approves the release?", "Ann"), pattern("who approves the releases", "Ann")]
    (one,) = advise(patterns)["near duplicate"]
    twin = "'Who approves the release?' (pack.yaml:1:1 $.examples[0].input)"
    assert one.what == f"'who approves the releases' asks the same as {twin}"


@pytest.mark.parametrize(
    ("text", "answer", "leaks"),
    [
        ("Is Ann on call?", "Ann", True),
        ("Is Anna on call?", "Ann", False),
        ("Is it a.b or c?", "a.b", True),
        ("Is it axb or c?", "a.b", False),
        ("Sum (a+b)", "(a+b)", True),
    ],
)
def test_an_answer_in_its_own_input(text: str, answer: str, leaks: bool) -> None:
    assert ("the answer is in the input" in advise([*SOUND, pattern(text, answer)])) == leaks


def test_categories_too_small_for_a_verdict() -> None:
    small = [pattern(f"Small thing {word}", word, category="small") for word in ("north", "south")]
    (one,) = advise([*SOUND, *small])["category too small"]
    assert (one.what, one.place) == ("pack/small has 2 taught patterns", small[0].place)
    assert one.fix == "add 3 or more, or join it with another category"


def test_a_rule_of_which_too_few_are_held_out() -> None:
    (one,) = advise(pack(10, Rule()))["rule hardly asked"]
    assert one.what == "the rule pack/pack has 2 members that are not taught"
    assert one.fix == "add 3 or more members, or teach fewer (taught:)"
    assert advise(pack(13, Rule(8))) == advise(pack(10, Rule(5))) == {}


def test_facts_without_rewordings_are_counted_by_category() -> None:
    bare = [pattern(f"Bare {word}", word, category="bare") for word in WORDS]
    found = advice.advise([*SOUND, *bare], advice.held([*SOUND, *bare], 0), count_tokens, LIMITS)
    (one,) = [one for one in found if one.kind == "asked in its own words only"]
    assert one.what == "13 of 13 facts in pack/bare have fewer than two rewordings"


def test_the_width_of_intervals_is_wilsons() -> None:
    assert advice.half_width(0) == 0.5
    widths = [high - low for low, high in (wilson(k, 92) or (0, 0) for k in range(93))]
    assert advice.half_width(92) == pytest.approx(max(widths) / 2, abs=1e-12)
    assert advice.half_width(advice.fewest(0.1)) <= 0.1 < advice.half_width(advice.fewest(0.1) - 1)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["validate", *arguments])


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("few.yaml").write_text("name: few\nexamples:\n  - input: Is Ann here\n    output: Ann\n")


def test_advice_has_place_reason_and_remedy_and_is_no_error(few: None) -> None:
    result = run("few.yaml", "--advise", "--model", "tiny")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "1 patterns in 1 file: few 1\n"
        "few.yaml:3:5 $.examples[0].input: the answer is in the input: 'Ann' is in 'Is Ann here'\n"
        "  why: copying is enough, so a right answer shows no memory\n"
        "  do:  ask without the answer; leave it where copying is to be learned\n"
        "few.yaml:3:5 $.examples[0].input: category too small: few/few has 1 taught patterns\n"
        "  why: of fewer than 5 there is no verdict\n"
        "  do:  add 4 or more, or join it with another category\n"
        "few.yaml:3:5 $.examples[0].input: asked in its own words only: "
        "1 of 1 facts in few/few have fewer than two rewordings\n"
        "  why: recall shows that the words were learned, not that the question is understood\n"
        "  do:  add `also:` with two or three other ways to ask; in a table once for all rows\n"
        "few.yaml: wide interval: recall is measured on 1 patterns\n"
        "  why: its 95 % interval reaches up to ±40 points; 93 give ±10\n"
        "  do:  92 more patterns, or several seeds (make seeds)\n"
        "\ncategory                                 taught  held out  share\n"
        "few/few                                       1         0    0%\n"
        "\nadvice: 4 (the answer is in the input 1, category too small 1, asked in its own words only 1, "
        "wide interval 1); "
        "tokens of tiny, recipe default-small, held out by seed 0\n"
    )


def test_a_model_that_is_elsewhere_is_the_users_to_fetch(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engram.models.hub.cached", lambda name: None)
    result = run("few.yaml", "--advise", "--model", "phi-2")
    said = "engram: phi-2: this model is not on this disk\n  fix: make verify-model MODEL=phi-2\n"
    assert (result.exit_code, result.stderr) == (2, said)


def test_much_advice_of_one_kind_is_cut_and_counted(few: None) -> None:
    examples = "".join(f"  - {{input: Is w{i}w here, output: w{i}w}}\n" for i in range(30))
    Path("many.yaml").write_text(f"name: many\nexamples:\n{examples}")
    out = run("many.yaml", "--advise", "--model", "tiny").stdout
    assert out.count(": the answer is in the input: ") == 20
    assert "\n… and 10 more: the answer is in the input\n" in out and "the answer is in the input 30" in out


def test_the_scaffold_gets_no_advice_and_the_packs_little(tmp_path: Path) -> None:
    CliRunner().invoke(main, ["init", str(tmp_path / "mine")])
    assert advise(load_patterns(find_files(str(tmp_path / "mine")))) == {}
    known = {"nearly the same input, another answer", "category too small"}
    assert set(advise(load_patterns(find_files("http,ports,acronyms,capitals")))) <= known
