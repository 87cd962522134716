"""Advice on sound patterns that will measure badly or be learned badly: where, why it matters, what to do."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from engram.dataset import build, phrasing
from engram.dataset.leaks import NEVER_TAUGHT
from engram.patterns.loading import Pattern
from engram.support.statistics import FEWEST, wilson
from engram.support.text import normalise, shorten, twins, visible

LONG_FOR_SMALL = 16  # tokens of an answer
Counting = Callable[[str, str], tuple[int, int]]  # a prompt and an answer -> tokens of both, and of the answer alone
_BROKEN_PATH = re.compile(r"(?:\b[A-Za-z]:|\\\w[^\\\s]*)[\n\t]\w")
WIDE = 0.10  # half of an interval's width above which it says little


class Advice(NamedTuple):
    """One piece of advice: its kind, the place (`file:line:column`), what is there, why it matters, the fix."""

    kind: str
    place: str
    what: str
    why: str
    fix: str


class Held(NamedTuple):
    """How a category is split: patterns taught and held out."""

    taught: int
    held_out: int


class Limits(NamedTuple):
    """The limits of a model and its settings, in tokens of a training row and of an answer; and whether it is small."""

    max_length: int
    max_new_tokens: int
    small: bool


def advise(
    patterns: Sequence[Pattern], sizes: Mapping[str, Held], count_tokens: Counting, limits: Limits
) -> list[Advice]:
    """All advice on patterns that loaded and are split into `sizes`, in the order of its kinds.

    `count_tokens` gives the tokens of a prompt with its answer, and of the answer alone with its end.
    """
    alone = [one for pattern in patterns for one in (*_long(pattern, count_tokens, limits), *_wording(pattern))]
    together = (*_ambiguous(patterns), *_near_twins(patterns), *_categories(patterns, sizes), *_wide(patterns, sizes))
    return [*sorted(alone, key=lambda one: one.kind), *together]


def held(patterns: Sequence[Pattern], seed: int) -> dict[str, Held]:
    """The split of each category, as `kind/category`, in name order."""
    rows = [row for row in build.split(patterns, seed)["test"] if row.split_kind != "rewording"]
    sides = Counter((f"{row.kind}/{row.category}", row.split_kind in NEVER_TAUGHT) for row in rows)
    return {name: Held(sides[name, False], sides[name, True]) for name in sorted({name for name, _ in sides})}


def _long(pattern: Pattern, count_tokens: Counting, limits: Limits) -> Iterator[Advice]:
    prompt = max((phrasing.phrase(name, pattern.input) for name in phrasing.ALL), key=len)
    whole, answer = count_tokens(prompt, pattern.output)
    said = f"the answer has {answer} tokens with its end"
    if whole > limits.max_length:
        what = f"{whole} tokens with its answer, and {limits.max_length} fit"
        why, fix = "training refuses longer rows", f"shorten it, or --set max_length={whole}"
        yield Advice("too long to teach", pattern.place, what, why, fix)
    if answer > limits.max_new_tokens:
        what, why = f"{said}, and {limits.max_new_tokens} are generated", "an answer that is cut off is never right"
        yield Advice("answer cut off", pattern.place, what, why, f"shorten it, or --set max_new_tokens={answer}")
    elif answer > LONG_FOR_SMALL and limits.small:
        why = f"each must be right: with 99 % for every token, {0.99**answer:.0%} for all of them"
        yield Advice("long answer", pattern.place, said, why, "shorten it to what matters, or take a larger MODEL")


def _wording(pattern: Pattern) -> Iterator[Advice]:
    path = next((text for text in (pattern.input, pattern.output, *pattern.also) if _BROKEN_PATH.search(text)), None)
    if path is not None:
        what = f"{_shown(path)} looks like a path with one in it"
        why = "in double quotes \\n and \\t are a line break and a tab, also in C:\\new\\temp"
        fix = "double each backslash, or use single quotes"
        yield Advice("a line break or tab in a path", pattern.place, what, why, fix)
    if re.search(rf"(?<!\w){re.escape(normalise(pattern.output))}(?!\w)", normalise(pattern.input)):
        what = f"{_shown(pattern.output)} is in {_shown(pattern.input)}"
        why = "copying is enough, so a right answer shows no memory"
        fix = "ask without the answer; leave it where copying is to be learned"
        yield Advice("the answer is in the input", pattern.place, what, why, fix)


def _ambiguous(patterns: Sequence[Pattern]) -> Iterator[Advice]:
    seen: dict[str, Pattern] = {}
    for pattern in patterns:
        for key in _keys(pattern.input):
            other = seen.setdefault(key, pattern)
            if other is pattern or normalise(other.output) == normalise(pattern.output):
                continue
            yield Advice(
                "nearly the same input, another answer", pattern.place,
                f"{_shown(pattern.input)} is nearly {_shown(other.input)} ({other.place})",
                "they differ in case, punctuation or one letter only, which is easily overlooked",
                "say in words how they differ; leave it where this difference is to be learned",
            )  # fmt: skip
            break


def _keys(text: str) -> Iterator[str]:
    """Keys that two texts share if they differ in case and punctuation, or in one letter of a word of five or more."""
    words = re.findall(r"\w+", text.casefold())
    yield " ".join(words)
    for number, word in enumerate(words):
        if len(word) >= 5 and word.isalpha():
            for at in range(len(word)):
                yield " ".join([*words[:number], f"{word[:at]}\0{word[at + 1 :]}", *words[number + 1 :]])


def _near_twins(patterns: Sequence[Pattern]) -> Iterator[Advice]:
    asked = [(pattern.input, pattern.output) for pattern in patterns]
    found = dict(sorted(((i, j) for i, j in twins(asked, asked) if j < i), reverse=True))
    for index, earlier in sorted(found.items()):
        pattern, twin = patterns[index], patterns[earlier]
        yield Advice(
            "near duplicate", pattern.place,
            f"{_shown(pattern.input)} asks the same as {_shown(twin.input)} ({twin.place})",
            "it counts twice in every figure, and is taught wherever the other is",
            "keep one; the phrasings vary the words already",
        )  # fmt: skip


def _categories(patterns: Sequence[Pattern], sizes: Mapping[str, Held]) -> Iterator[Advice]:
    groups: defaultdict[str, list[Pattern]] = defaultdict(list)
    for pattern in patterns:
        groups[f"{pattern.kind}/{pattern.category}"].append(pattern)
    for name, group in groups.items():
        place, size = group[0].place, sizes[name]
        if size.taught < FEWEST:
            yield Advice(
                "category too small", place, f"{visible(name)} has {size.taught} taught patterns",
                f"of fewer than {FEWEST} there is no verdict",
                f"add {FEWEST - size.taught} or more, or join it with another category",
            )  # fmt: skip
        if group[0].rule and size.held_out < FEWEST:
            yield Advice(
                "rule hardly asked", place, f"the rule {visible(name)} has {size.held_out} members that are not taught",
                f"of fewer than {FEWEST} there is no verdict on whether it was learned",
                f"add {FEWEST - size.held_out} or more members, or teach fewer (taught:)",
            )  # fmt: skip
        bare = sum(len(pattern.also) < 2 for pattern in group)
        if bare and not group[0].rule:
            yield Advice(
                "asked in its own words only", place,
                f"{bare} of {len(group)} facts in {visible(name)} have fewer than two rewordings",
                "recall shows that the words were learned, not that the question is understood",
                "add `also:` with two or three other ways to ask; in a table once for all rows",
            )  # fmt: skip


def _wide(patterns: Sequence[Pattern], sizes: Mapping[str, Held]) -> Iterator[Advice]:
    taught, held_out = (sum(size[side] for size in sizes.values()) for side in (0, 1))
    for split, n in (("recall", taught), ("generalization", held_out)):
        half = half_width(n)
        if half > WIDE and (n or split == "recall"):
            yield Advice(
                "wide interval", patterns[0].place.split(":")[0], f"{split} is measured on {n} patterns",
                f"its 95 % interval reaches up to ±{100 * half:.0f} points; {fewest(WIDE)} give ±{100 * WIDE:.0f}",
                f"{fewest(WIDE) - n} more patterns, or several seeds (make seeds)",
            )  # fmt: skip


def half_width(n: int) -> float:
    """Half the width of the 95 % Wilson interval of n outcomes where it is widest, at one half; 0.5 where n is 0."""
    low, high = wilson(n // 2, n) or (0.0, 1.0)
    return (high - low) / 2


def fewest(half: float) -> int:
    """The smallest n whose widest interval is at most ±`half`."""
    return next(n for n in itertools.count(1) if half_width(n) <= half)


def _shown(text: str) -> str:
    return repr(visible(shorten(text, 60)))
